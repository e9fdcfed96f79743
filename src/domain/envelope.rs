//! The envelope: who sent a message and who gets it. Nothing in a message's
//! header ever adds to it (P5).

use std::sync::Arc;

use super::address::{Mailbox, ReversePath};
use super::dsn::{Dsn, RecipientDsn};

/// A reverse path and at least one distinct forward path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    reverse_path: ReversePath,
    recipients: Vec<Mailbox>,
    dsn: Arc<Dsn>,
}

/// What became of a recipient that was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is a recipient now.
    New,
    /// It was one already, and gets the message once.
    Known,
    /// The limit is reached; it is not one.
    Full,
}

/// An envelope that is still being written: `MAIL` came, `RCPT`s may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    reverse_path: ReversePath,
    recipients: Vec<Mailbox>,
    dsn: Dsn,
    max_recipients: usize,
}

impl Draft {
    /// An envelope without recipients.
    pub fn new(reverse_path: ReversePath, max_recipients: usize) -> Self {
        Self { reverse_path, recipients: Vec::new(), dsn: Dsn::default(), max_recipients }
    }

    /// The same, with what is asked about the message.
    #[must_use]
    pub fn asking(self, dsn: Dsn) -> Self {
        Self { dsn, ..self }
    }

    /// Adds a recipient of whom nothing is asked; a repeated one counts once.
    pub fn add(&mut self, recipient: Mailbox) -> Added {
        self.add_asking(recipient, RecipientDsn::default())
    }

    /// Adds a recipient; a repeated one counts once, and what is asked about it is put together.
    pub fn add_asking(&mut self, recipient: Mailbox, asked: RecipientDsn) -> Added {
        if let Some(known) = self.recipients.iter().find(|known| known.is_same(&recipient)) {
            self.dsn.ask_again(known, asked);
            return Added::Known;
        }
        if self.recipients.len() >= self.max_recipients {
            return Added::Full;
        }
        self.dsn.ask(&recipient, asked);
        self.recipients.push(recipient);
        Added::New
    }

    /// How many recipients there would be with this one.
    pub fn count_with(&self, recipient: &Mailbox) -> usize {
        let is_taken = self.recipients.len() < self.max_recipients && !self.has(recipient);
        self.recipients.len() + usize::from(is_taken)
    }

    fn has(&self, recipient: &Mailbox) -> bool {
        self.recipients.iter().any(|known| known.is_same(recipient))
    }

    /// The recipients so far.
    pub fn recipients(&self) -> &[Mailbox] {
        &self.recipients
    }

    /// The sender.
    pub fn reverse_path(&self) -> &ReversePath {
        &self.reverse_path
    }

    /// The envelope, if it has a recipient.
    pub fn seal(self) -> Option<Envelope> {
        if self.recipients.is_empty() {
            return None;
        }
        let Self { reverse_path, recipients, dsn, .. } = self;
        Some(Envelope { reverse_path, recipients, dsn: Arc::new(dsn) })
    }
}

impl Envelope {
    /// The sender.
    pub fn reverse_path(&self) -> &ReversePath {
        &self.reverse_path
    }

    /// The recipients, distinct, in the order in which they were named.
    pub fn recipients(&self) -> &[Mailbox] {
        &self.recipients
    }

    /// What the sender asks to be told.
    pub fn dsn(&self) -> &Arc<Dsn> {
        &self.dsn
    }

    /// Whether an address of it needs a road that speaks SMTPUTF8.
    pub fn needs_smtputf8(&self) -> bool {
        let sender = self.reverse_path.mailbox().is_none_or(Mailbox::is_ascii);
        !(sender && self.recipients.iter().all(Mailbox::is_ascii))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    #[test]
    fn recipients_are_distinct_and_bounded() {
        let mut draft = Draft::new(ReversePath::Null, 2);
        assert_eq!(draft.clone().seal(), None);
        assert_eq!(draft.count_with(&mailbox("a@x.example")), 1);
        assert_eq!(draft.add(mailbox("a@x.example")), Added::New);
        assert_eq!(draft.add(mailbox("\"a\"@X.example")), Added::Known);
        assert_eq!(draft.count_with(&mailbox("a@x.example")), 1, "it is one already");
        assert_eq!(draft.count_with(&mailbox("b@x.example")), 2);
        assert_eq!(draft.add(mailbox("b@x.example")), Added::New);
        assert_eq!(draft.count_with(&mailbox("c@x.example")), 2, "it will not be taken");
        assert_eq!(draft.add(mailbox("c@x.example")), Added::Full);
        assert_eq!(draft.seal().unwrap().recipients().len(), 2);
        let mut draft = Draft::new(ReversePath::Null, 2);
        for (address, want) in [
            ("a@bücher.example", Added::New),
            ("a@xn--bcher-kva.example", Added::Known),
            ("A@bücher.example", Added::New),
        ] {
            assert_eq!(draft.add(mailbox(address)), want, "{address}");
        }
    }

    #[test]
    fn non_ascii_addresses_need_smtputf8() {
        let mut draft = Draft::new(ReversePath::Null, 9);
        draft.add(mailbox("a@x.example"));
        assert!(!draft.clone().seal().unwrap().needs_smtputf8());
        draft.add(mailbox("grüße@x.example"));
        assert!(draft.seal().unwrap().needs_smtputf8());
    }
}
