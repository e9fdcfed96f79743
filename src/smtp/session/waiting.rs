//! The stages in which a session waits for something other than a command. Each
//! has what the world needs to know, and takes its answer.

use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::credential::Secret;
use crate::domain::credits::Credits;
use crate::domain::dsn::{Dsn, RecipientDsn};
use crate::domain::envelope::{Added, Draft, Envelope};
use crate::domain::refusal::Refusal;
use crate::submission::{Accepted, Begun, Covered, SignedIn};

use super::super::data::{Body, Whole};
use super::super::line::Flaw;
use super::super::reply::Reply;
use super::super::sasl::{Exchange, Login};
use super::stages::{Connected, Greeted, Mail, Ready};
use super::tally::Tally;
use super::{Next, Rules, Security, Session, Step};

/// STARTTLS came; the handshake is due.
#[derive(Debug)]
pub struct Upgrading {
    pub(super) tally: Tally,
}

/// A SASL challenge is out; a response is due.
#[derive(Debug)]
pub struct Authenticating {
    pub(super) greeted: Greeted,
    pub(super) exchange: Exchange,
}

/// A username and secret are to be checked.
#[derive(Debug)]
pub struct SigningIn {
    pub(super) greeted: Greeted,
    pub(super) login: Login,
}

/// A sender is to be checked.
#[derive(Debug)]
pub struct Beginning {
    pub(super) ready: Ready,
    pub(super) reverse_path: ReversePath,
    pub(super) smtputf8: bool,
    pub(super) dsn: Dsn,
}

/// A recipient is to be checked.
#[derive(Debug)]
pub struct Checking {
    pub(super) mail: Mail,
    pub(super) recipient: Mailbox,
    pub(super) dsn: RecipientDsn,
}

/// A body is arriving.
#[derive(Debug)]
pub struct Receiving {
    pub(super) ready: Ready,
    pub(super) begun: Begun,
    pub(super) envelope: Envelope,
}

/// A complete message, to be handed in.
#[derive(Debug)]
pub struct Submit {
    /// Who sends and who receives.
    pub envelope: Envelope,
    /// The message, as far as it was kept.
    pub whole: Whole,
    /// Takes the verdict.
    pub submitting: Submitting,
}

/// The verdict on a message is due.
#[derive(Debug)]
pub struct Submitting {
    ready: Ready,
    begun: Begun,
}

impl Upgrading {
    /// What is said right before the handshake.
    pub fn offer(&self) -> Reply {
        Reply::ready_for_tls()
    }

    /// More came in clear text behind STARTTLS; it is never obeyed.
    pub fn pipelined(self) -> Step {
        Step::close(Reply::pipelined_starttls())
    }

    /// The handshake is done: a new beginning, without a banner.
    pub fn secured(self) -> Session {
        Connected { security: Security::Tls, tally: self.tally }.into()
    }
}

impl Authenticating {
    /// Takes the client's response, one line without CRLF.
    pub fn response(self, line: &[u8], rules: &Rules) -> Step {
        self.greeted.authenticate(self.exchange.respond(line), rules)
    }

    /// Takes note of a response that is no line; the exchange is over.
    pub fn flawed(self, flaw: Flaw, rules: &Rules) -> Step {
        Session::from(self.greeted).refuse(Reply::flawed_response(flaw), rules)
    }
}

impl SigningIn {
    /// The username as it was presented.
    pub fn username(&self) -> &str {
        &self.login.username
    }

    /// The secret as it was presented.
    pub fn secret(&self) -> &Secret {
        &self.login.secret
    }

    /// Takes the answer of [`crate::submission::Submission::sign_in`].
    pub fn answered(self, answer: Result<(SignedIn, Option<Credits>), Refusal>, rules: &Rules) -> Step {
        let Greeted { tally, helo, .. } = self.greeted;
        match answer {
            Ok((who, available)) => {
                Session::from(Ready { tally, helo, who }).goes_on(Reply::signed_in(available))
            }
            Err(refusal) => {
                let session = Session::from(Greeted { security: Security::Tls, tally, helo });
                let reply = Reply::refusal(&refusal, rules.out_of_credit_reply);
                match refusal {
                    Refusal::BadCredential | Refusal::TooManyFailures { .. } => {
                        session.refuse_sign_in(reply, rules)
                    }
                    Refusal::TooManySessions { .. } => Step::close(reply),
                    _ => session.refuse(reply, rules),
                }
            }
        }
    }
}

impl Beginning {
    /// Who sends.
    pub fn who(&self) -> &SignedIn {
        &self.ready.who
    }

    /// From which address.
    pub fn reverse_path(&self) -> &ReversePath {
        &self.reverse_path
    }

    /// Takes the answer of [`crate::submission::Submission::begin`].
    pub fn answered(self, answer: Result<Begun, Refusal>, rules: &Rules) -> Step {
        let Self { ready, reverse_path, smtputf8, dsn } = self;
        match answer {
            Ok(begun) => {
                let draft = Draft::new(reverse_path, rules.max_recipients).asking(dsn);
                Session::from(Mail { ready, begun, draft, smtputf8 }).goes_on(Reply::sender_ok())
            }
            Err(refusal) => turned_down(ready, &refusal, rules),
        }
    }
}

impl Checking {
    /// The recipient in question.
    pub fn recipient(&self) -> &Mailbox {
        &self.recipient
    }

    /// Who sends.
    pub fn who(&self) -> &SignedIn {
        &self.mail.ready.who
    }

    /// What MAIL found out, or an earlier RCPT.
    pub fn begun(&self) -> &Begun {
        &self.mail.begun
    }

    /// How many recipients there would be with this one.
    pub fn recipients(&self) -> usize {
        self.mail.draft.count_with(&self.recipient)
    }

    /// Takes the answers of [`crate::submission::Submission::check_recipient`] and
    /// [`crate::submission::Submission::check_credit`].
    pub fn answered(self, answer: Result<Option<Covered>, Refusal>, rules: &Rules) -> Step {
        let Self { mut mail, recipient, dsn } = self;
        if let Ok(Some(covered)) = answer {
            mail.begun.covers(covered);
        }
        let added = answer.map(|_| mail.draft.add_asking(recipient, dsn));
        let session = Session::from(mail);
        match added {
            Ok(Added::New) => session.goes_on(Reply::recipient_ok()),
            Ok(Added::Known) => session.brings_nothing(Reply::recipient_ok(), rules),
            Ok(Added::Full) => {
                session.brings_nothing(Reply::too_many_recipients(rules.max_recipients), rules)
            }
            Err(refusal) => {
                session.brings_nothing(Reply::refusal(&refusal, rules.out_of_credit_reply), rules)
            }
        }
    }
}

impl Receiving {
    /// Takes the body at its end. The transaction is over, whatever becomes of it.
    pub fn ended(self, body: Body, rules: &Rules) -> Step {
        let Self { ready, begun, envelope } = self;
        match whole(body, rules) {
            Ok(whole) => {
                let submitting = Submitting { ready, begun };
                Step::silent(Next::Submit(Submit { envelope, whole, submitting }))
            }
            Err(refused) => Session::from(ready).goes_on(refused),
        }
    }

    /// It goes on far beyond the size limit: that is not mail.
    pub fn endless(self) -> Step {
        Step::close(Reply::endless_message())
    }

    /// Nothing followed what may be an end or not: the message is refused, and so
    /// is everything that might yet come and be taken for commands.
    pub fn ended_in_doubt(self, body: Body, rules: &Rules) -> Step {
        Step { next: Next::Close, ..self.ended(body, rules) }
    }
}

impl Submitting {
    /// Who sends.
    pub fn who(&self) -> &SignedIn {
        &self.ready.who
    }

    /// What MAIL found out.
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// What the client called itself.
    pub fn helo(&self) -> &str {
        &self.ready.helo
    }

    /// Takes the answer of [`crate::submission::Submission::submit`]. A message
    /// that was accepted makes up for earlier errors.
    pub fn answered(self, answer: &Result<Accepted, Refusal>, rules: &Rules) -> Step {
        match answer {
            Ok(accepted) => Session::from(Ready { tally: Tally::default(), ..self.ready })
                .goes_on(Reply::queued(&accepted.message_id, accepted.available)),
            Err(refusal) => turned_down(self.ready, refusal, rules),
        }
    }
}

/// The message, or what is said to a body that is none.
pub(super) fn whole(body: Body, rules: &Rules) -> Result<Whole, Reply> {
    match body {
        Body::Whole(whole) => Ok(whole),
        Body::Malformed(flaw) => Err(Reply::malformed_body(flaw)),
        Body::TooLarge => Err(Reply::too_large(rules.max_message_bytes)),
        Body::NoRoom => Err(Reply::no_room()),
    }
}

/// A refusal of a message. Only a credential that is no longer good changes who
/// the session belongs to.
fn turned_down(ready: Ready, refusal: &Refusal, rules: &Rules) -> Step {
    let reply = Reply::refusal(refusal, rules.out_of_credit_reply);
    match refusal {
        Refusal::BadCredential => Session::from(ready.sign_out()).refuse(reply, rules),
        _ => Session::from(ready).goes_on(reply),
    }
}
