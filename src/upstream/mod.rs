//! The roads by which mail leaves: Resend's API and an upstream SMTP server.
//!
//! Both take one [`Outgoing`] part, make it [`Ready`], send it and say what became of
//! it in the same words. What is not sent yet may be left, and nothing has happened.
//! Neither retries by itself: the durable queue is the one retry loop. What this
//! room must not know: SQL, money, who the customer is.

pub mod resend;
pub mod smtp;
pub mod tenure;
pub mod translate;
pub mod translating;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::domain::address::{Mailbox, ReversePath};
pub use crate::domain::answer::Answer;
use crate::domain::closure::Closure;
use crate::domain::dsn::Dsn;
use crate::domain::ids::PartId;
use crate::domain::message::Road;
use tenure::Tenure;
use translating::Translating;

/// One part of a message, ready to leave.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The part; Resend carries it as the tag `postmeter`.
    pub part_id: PartId,
    /// The `Idempotency-Key` of the call; the same for every try of the same bytes. By SMTP
    /// Resend carries it in [`smtp::PART_FIELD`].
    pub idempotency_key: String,
    /// The envelope sender.
    pub reverse_path: ReversePath,
    /// The recipients of this part that are not final yet.
    pub recipients: Vec<Mailbox>,
    /// Where an earlier call may have been taken and is made again: SHA-256 of its request.
    pub repeats: Option<String>,
    /// The message as it was accepted.
    pub bytes: Bytes,
    /// What the sender asks to be told.
    pub dsn: Arc<Dsn>,
    /// Whether it is still ours to send; asked before the final dot of SMTP.
    pub tenure: Tenure,
}

/// What became of one attempt to send a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A definite answer for every recipient that was asked for.
    Answered {
        /// The upstream's id of what it accepted (Resend's email id, the text of an SMTP 250).
        upstream_id: Option<String>,
        /// One answer a recipient, in the order of [`Outgoing::recipients`].
        answers: Vec<RecipientAnswer>,
        /// The host that answered, if it is a mail server's.
        host: Option<String>,
    },
    /// The account may not send this as things stand: refused for everyone. It says
    /// nothing about an earlier call with the same key, which things may have allowed.
    Barred(Answer),
    /// A definite "not now": nothing was accepted for anyone.
    Transient {
        /// What the upstream said.
        answer: Answer,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
        /// Whether the attempt counts for the retry schedule (a rate limit does not).
        counts: bool,
    },
    /// The upstream's door is closed for everyone: a bad key, a spent quota. Nothing was accepted.
    Closed {
        /// Why, for the operator; it begins with the words of a [`Closure`].
        reason: String,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// An earlier call may have been taken, and to repeat it would make another one. None was made.
    Unrepeatable,
    /// The bytes left and no answer came: it may have been accepted.
    Unknown {
        /// What happened.
        reason: String,
        /// How long to wait before the same call is made again, if the upstream said.
        retry_after: Option<Duration>,
        /// Recipients that the call was surely not for: whatever became of it, they have nothing of it.
        left_out: Vec<Mailbox>,
    },
}

/// What the upstream said about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientAnswer {
    /// Accepted: the mail was sent to it.
    Accepted,
    /// The same, and the upstream was told what the sender asks to be told of it: whatever
    /// becomes of it now, the upstream says so (RFC 3461 §5.2.1).
    Vouched,
    /// Refused for good.
    Refused(Answer),
    /// The same, since nobody has that address: no other mail to it would fare better.
    NoMailbox(Answer),
    /// Not now.
    Deferred(Answer),
}

impl RecipientAnswer {
    /// Whether the mail was sent to it.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted | Self::Vouched)
    }
}

/// The upstreams that are configured.
#[derive(Debug)]
pub struct Upstreams {
    /// Resend, if `upstream.kind` is `resend`.
    pub resend: Option<resend::Resend>,
    /// The SMTP server, if `upstream.kind` or `upstream.fallback` is `smtp`.
    pub smtp: Option<smtp::SmtpUpstream>,
    /// The turns of large messages at their translation.
    pub translating: Translating,
}

/// A part as its upstream takes it, and the upstream.
#[derive(Debug)]
pub enum Ready<'a> {
    /// The request, and its turn where it has one already.
    Resend(&'a resend::Resend, resend::Request, Option<resend::turns::Turn>),
    /// The message as it is; to Resend's own service under the rate of its API.
    Smtp(&'a smtp::SmtpUpstream, Outgoing, Option<&'a resend::Resend>),
}

impl Upstreams {
    /// Makes a part ready for that road. A large one may wait for its turn to be
    /// translated, two minutes at most; a small one for Resend waits for its turn to leave
    /// first, so that nothing is translated that is put off.
    ///
    /// # Errors
    /// What became of it without a call.
    pub async fn prepare(&self, road: Road, outgoing: Outgoing) -> Result<Ready<'_>, Outcome> {
        match (road, &self.resend, &self.smtp) {
            (Road::Resend, Some(resend), _) => {
                let is_small = outgoing.bytes.len() <= translating::SMALL;
                let turn = if is_small { Some(resend.turn_of_one().await?) } else { None };
                let request = resend::Request::make(outgoing, &self.translating).await?;
                Ok(Ready::Resend(resend, request, turn))
            }
            (Road::Smtp, resend, Some(smtp)) => {
                Ok(Ready::Smtp(smtp, outgoing, resend.as_ref().filter(|_| smtp.is_resend())))
            }
            _ => Err(Outcome::Closed {
                reason: Closure::NotConfigured
                    .because(&format!("`{}` is where this part is to go", road.as_str())),
                retry_after: Duration::from_secs(300),
            }),
        }
    }
}

impl Ready<'_> {
    /// Makes one attempt.
    pub async fn send(self) -> Outcome {
        match self {
            Self::Resend(resend, request, None) => resend.send(request).await,
            Self::Resend(resend, request, Some(turn)) => resend.send_in(turn, request).await,
            Self::Smtp(smtp, outgoing, None) => smtp.send(&outgoing).await,
            Self::Smtp(smtp, outgoing, Some(resend)) => match resend.next_of_all().await {
                Ok(()) => smtp.send(&outgoing).await,
                Err(outcome) => outcome,
            },
        }
    }
}
