//! What must be true of a session, by what was said on it: who is signed in, what is open,
//! and how many messages may have been handed in.

use postmeter::domain::address::{Mailbox, ReversePath};
use postmeter::domain::envelope::Envelope;
use postmeter::domain::refusal::Refusal;
use postmeter::smtp::command::Bdat;
use postmeter::smtp::data::{Body, Whole};
use postmeter::submission::Accepted;

use super::super::bdat;
use super::super::command::announced;
use super::{MAX_MESSAGE_BYTES, MAX_RECIPIENTS};

pub(super) struct Model {
    is_secure: bool,
    is_greeted: bool,
    is_signed_in: bool,
    open: Option<Open>,
    /// The verb and argument of the command that is not answered yet, in upper case.
    said: Option<String>,
    /// Final answers to it.
    answers: usize,
    /// A message whose true end was found, and which was not handed in.
    ended: Option<(Open, Body)>,
}

/// A message that was begun.
struct Open {
    reverse_path: ReversePath,
    recipients: Vec<Mailbox>,
    chunks: Option<Chunks>,
}

#[derive(Default)]
struct Chunks {
    octets: Vec<u8>,
    /// One of them was refused, and so is the rest.
    is_spoiled: bool,
}

impl Model {
    pub(super) fn new(is_secure: bool) -> Self {
        Self {
            is_secure,
            is_greeted: false,
            is_signed_in: false,
            open: None,
            // The connection itself is answered with the banner.
            said: Some(String::new()),
            answers: 0,
            ended: None,
        }
    }

    /// The session waits for a command: the one before it is done with.
    pub(super) fn settled(&mut self, is_signed_in: bool, is_mid_message: bool) {
        assert_eq!(
            self.answers,
            usize::from(self.said.is_some()),
            "each command has one answer: {:?}",
            self.said
        );
        self.said = None;
        self.answers = 0;
        assert!(!matches!(self.ended.take(), Some((_, Body::Whole(_)))), "a sound message is handed in");
        assert_eq!(is_signed_in, self.is_signed_in);
        assert_eq!(is_mid_message, self.open.as_ref().is_some_and(|open| open.chunks.is_some()));
    }

    /// A command came, or a line that is none.
    pub(super) fn says(&mut self, line: &[u8]) {
        self.said = Some(String::from_utf8_lossy(line).to_ascii_uppercase());
    }

    pub(super) fn answered(&mut self, code: u16) {
        let said = self.said.clone().expect("nothing was asked");
        if code / 100 == 3 {
            return;
        }
        self.answers += 1;
        let (verb, _) = said.split_once(' ').unwrap_or((&said, ""));
        match (verb, code) {
            ("EHLO" | "HELO", 250) => {
                self.is_greeted = true;
                self.open = None;
            }
            ("RSET", 250) => self.open = None,
            ("MAIL", 250) | ("RCPT", 250) => assert!(self.is_signed_in && self.open.is_some()),
            ("BDAT", 250) => assert!(self.is_signed_in),
            ("BDAT", _) => self.spoiled(),
            ("AUTH", 235) => assert!(self.is_signed_in),
            _ => {}
        }
    }

    pub(super) fn closed(&self) {
        assert!(self.answers <= 1, "{:?}", self.said);
    }

    pub(super) fn secured(&mut self, code: u16) {
        assert!(code == 220 && !self.is_secure && !self.is_signed_in && self.open.is_none());
        assert_eq!(self.said.as_deref().map(|said| said.trim_end_matches(' ')), Some("STARTTLS"));
        // Everything begins anew, and nothing is said before the client is.
        (self.is_secure, self.is_greeted, self.said) = (true, false, None);
    }

    pub(super) fn challenged(&self) {
        assert!(self.is_secure && self.is_greeted && !self.is_signed_in);
    }

    pub(super) fn signing_in(&mut self, is_good: bool) {
        self.challenged();
        self.is_signed_in = is_good;
    }

    pub(super) fn begins(&mut self, reverse_path: &ReversePath, answer: &Result<(), Refusal>) {
        assert!(self.is_secure && self.is_greeted && self.is_signed_in && self.open.is_none());
        self.is_signed_in = *answer != Err(Refusal::BadCredential);
        self.open = answer.is_ok().then(|| Open {
            reverse_path: reverse_path.clone(),
            recipients: Vec::new(),
            chunks: None,
        });
    }

    pub(super) fn named(&mut self, recipient: &Mailbox, is_good: bool) {
        let open = self.open.as_mut().filter(|_| self.is_signed_in).expect("a message is open");
        assert!(open.chunks.is_none(), "nobody comes late");
        let is_known = open.recipients.iter().any(|known| known.is_same(recipient));
        if is_good && !is_known && open.recipients.len() < MAX_RECIPIENTS {
            open.recipients.push(recipient.clone());
        }
    }

    pub(super) fn body_begins(&self) {
        let open = self.open.as_ref().filter(|_| self.is_signed_in).expect("a message is open");
        assert!(!open.recipients.is_empty() && open.chunks.is_none());
        assert_eq!(self.said.as_deref().map(|said| said.trim_end_matches(' ')), Some("DATA"));
    }

    /// The true end of a body after DATA.
    pub(super) fn body_ended(&mut self, body: Body) {
        self.ended = Some((self.open.take().expect("a message is open"), body));
    }

    /// All octets of a chunk are there; it is part of a message unless it came out of turn or
    /// another one was refused before.
    pub(super) fn chunk_arrived(&mut self, octets: &[u8], is_part: bool) {
        let bdat = self.said.as_deref().and_then(announced).expect("BDAT was said");
        assert_eq!(octets.len(), bdat.octets);
        let Some(open) = self.open.as_mut().filter(|open| !open.recipients.is_empty()) else {
            assert!(!is_part, "there is no message that it could be part of");
            return;
        };
        assert!(self.is_signed_in);
        let Bdat { is_last, .. } = bdat;
        let chunks = open.chunks.get_or_insert_default();
        let is_too_much = chunks.octets.len() + octets.len() > MAX_MESSAGE_BYTES;
        assert_eq!(is_part, !chunks.is_spoiled && !is_too_much);
        chunks.is_spoiled |= is_too_much;
        chunks.octets.extend_from_slice(if is_part { octets } else { b"" });
        if let Some(open) = self.open.take_if(|_| is_last) {
            let chunks = open.chunks.as_ref().expect("this one");
            let whole = bdat::body(&chunks.octets, MAX_MESSAGE_BYTES);
            let body = if chunks.is_spoiled { Body::TooLarge } else { whole };
            self.ended = Some((open, body));
        }
    }

    /// A chunk was refused, and with it the message that it is part of, if there is one.
    fn spoiled(&mut self) {
        if let Some(chunks) = self.open.as_mut().and_then(|open| open.chunks.as_mut()) {
            chunks.is_spoiled = true;
        }
    }

    /// Once for each true end, and only what was sent, to whom it was sent.
    pub(super) fn submitted(&mut self, envelope: &Envelope, whole: &Whole) {
        assert!(self.is_secure && self.is_signed_in);
        let (open, body) = self.ended.take().expect("a message has ended");
        assert_eq!(body, Body::Whole(whole.clone()));
        assert_eq!(envelope.reverse_path(), &open.reverse_path);
        assert_eq!(envelope.recipients(), open.recipients);
        assert!((1..=MAX_RECIPIENTS).contains(&open.recipients.len()));
    }

    pub(super) fn decided(&mut self, answer: &Result<Accepted, Refusal>) {
        self.is_signed_in = *answer != Err(Refusal::BadCredential);
    }
}
