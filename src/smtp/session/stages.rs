//! The stages in which a session waits for a command, and what each may do.

use crate::domain::address::Mailbox;
use crate::domain::dsn::Dsn;
use crate::domain::envelope::Draft;
use crate::submission::{Begun, SignedIn};

use super::super::command::{self, Bdat};
use super::super::reply::Reply;
use super::super::sasl::{self, Mechanism, Progress};
use super::chunks::{Chunks, Spoiled};
use super::tally::Tally;
use super::{
    Authenticating, Beginning, Checking, Next, Receiving, Rules, Security, Session, SigningIn, Stage, Step,
};

/// Nobody has said hello.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) security: Security,
    pub(super) tally: Tally,
}

/// EHLO or HELO came.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) security: Security,
    pub(super) tally: Tally,
    pub(super) helo: String,
}

/// Signed in, which is possible under TLS only; no message is begun.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) tally: Tally,
    pub(super) helo: String,
    pub(super) who: SignedIn,
}

/// MAIL was taken.
#[derive(Debug)]
pub(super) struct Mail {
    pub(super) ready: Ready,
    pub(super) begun: Begun,
    pub(super) draft: Draft,
    pub(super) smtputf8: bool,
}

macro_rules! is_a_session {
    ($($stage:ident),*) => {$(
        impl From<$stage> for Session {
            fn from(stage: $stage) -> Self {
                Self(Stage::$stage(stage))
            }
        }
    )*};
}
is_a_session!(Connected, Greeted, Ready, Mail, Chunks, Spoiled);

impl Greeted {
    pub(super) fn auth(self, mechanism: Mechanism, initial: Option<&str>, rules: &Rules) -> Step {
        match self.security {
            Security::Plain => Session::from(self).refuse(Reply::encryption_required(), rules),
            Security::Tls => self.authenticate(sasl::begin(mechanism, initial), rules),
        }
    }

    /// What a step of a SASL exchange leads to.
    pub(super) fn authenticate(self, progress: Progress, rules: &Rules) -> Step {
        match progress {
            Progress::Ask(exchange) => {
                let challenge = Reply::challenge(exchange.challenge());
                Step::reply(challenge, Next::Response(Authenticating { greeted: self, exchange }))
            }
            Progress::Complete(login) => Step::silent(Next::SignIn(SigningIn { greeted: self, login })),
            Progress::Failed(failure) => {
                Session::from(self).refuse(Reply::authentication_failed(failure), rules)
            }
        }
    }
}

impl Ready {
    pub(super) fn mail(self, mail: command::Mail, rules: &Rules) -> Step {
        let limit_bytes = rules.max_message_bytes;
        let fits = |size| usize::try_from(size).is_ok_and(|size| size <= limit_bytes);
        if !mail.size.is_none_or(fits) {
            return Session::from(self).goes_on(Reply::too_large(limit_bytes));
        }
        let is_ascii = mail.reverse_path.mailbox().is_none_or(Mailbox::is_ascii);
        if !is_ascii && !mail.smtputf8 {
            return Session::from(self).refuse(Reply::smtputf8_needed(), rules);
        }
        let command::Mail { reverse_path, smtputf8, ret, envelope_id, .. } = mail;
        let dsn = Dsn::new(ret, envelope_id);
        Step::silent(Next::Begin(Beginning { ready: self, reverse_path, smtputf8, dsn }))
    }

    /// The credential is no longer good: back to before the sign-in.
    pub(super) fn sign_out(self) -> Greeted {
        Greeted { security: Security::Tls, tally: self.tally, helo: self.helo }
    }
}

impl Mail {
    pub(super) fn rcpt(self, command::Rcpt { recipient, dsn }: command::Rcpt, rules: &Rules) -> Step {
        if !recipient.is_ascii() && !self.smtputf8 {
            return Session::from(self).brings_nothing(Reply::smtputf8_needed(), rules);
        }
        Step::silent(Next::Check(Checking { mail: self, recipient, dsn }))
    }

    pub(super) fn data(self, rules: &Rules) -> Step {
        match self.sealed(rules) {
            Ok(receiving) => Step::reply(Reply::go_ahead(), Next::Body(receiving)),
            Err(refused) => refused.unpipelined(),
        }
    }

    pub(super) fn bdat(self, bdat: Bdat, rules: &Rules) -> Step {
        match self.sealed(rules) {
            Ok(receiving) => Chunks::new(receiving, rules).bdat(bdat, rules),
            Err(refused) => refused.after_dropping(bdat, rules),
        }
    }

    /// A message may come if somebody is to get it.
    fn sealed(self, rules: &Rules) -> Result<Receiving, Box<Step>> {
        if self.draft.recipients().is_empty() {
            return Err(Box::new(Session::from(self).refuse(Reply::recipient_first(), rules)));
        }
        let Self { ready, begun, draft, .. } = self;
        match draft.seal() {
            Some(envelope) => Ok(Receiving { ready, begun, envelope }),
            None => Err(Box::new(Session::from(ready).refuse(Reply::recipient_first(), rules))),
        }
    }
}
