//! Why a submission is not taken in: one list for SMTP and HTTP.
//!
//! `smtp::reply` gives each a reply, `http::error` a status and a body; both say
//! what to do about it (P9). Nothing here names internals.

use super::address::Mailbox;
use super::caps::Reached;
use super::credits::Credits;
use super::suppression::Why;

/// A reason for which a sign-in or a submission is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown username, wrong secret or a revoked credential: one answer for all three.
    BadCredential,
    /// Too many sign-ins have failed; this one was not looked at.
    TooManyFailures {
        /// Seconds until it is worth another try.
        retry_after_s: u64,
    },
    /// The customer has as many sessions as one may have.
    TooManySessions {
        /// `smtp.max_sessions_per_customer`.
        limit: usize,
    },
    /// The customer was suspended by the operator, who gave this reason.
    Suspended {
        /// The operator's words.
        reason: String,
    },
    /// The address may not be sent from.
    SenderNotAllowed {
        /// The address, as it was given; empty for a From header without one.
        address: String,
        /// Whether customers may add and prove domains alone (`senders.proof`).
        may_prove: bool,
    },
    /// The credits are gone.
    OutOfCredit {
        /// Where more can be bought.
        top_up_url: String,
        /// What the next top-up pays first: [`super::account::Account::shortfall`].
        shortfall: Credits,
    },
    /// No balance is known, or it is too old, and Dodo does not answer.
    BillingUnknown,
    /// The recipient is on the customer's suppression list.
    Suppressed {
        /// The recipient.
        recipient: Mailbox,
        /// Since when, and what for.
        why: Why,
    },
    /// A non-ASCII address that the road cannot carry.
    AddressNotCarried {
        /// The address.
        address: Mailbox,
    },
    /// More recipients than one message may have.
    TooManyRecipients {
        /// `smtp.max_recipients`.
        limit: usize,
    },
    /// Larger than a message may be.
    TooLarge {
        /// `smtp.max_message_bytes`.
        limit_bytes: usize,
    },
    /// Faster than the customer may send.
    TooFast {
        /// Seconds until it is worth another try.
        retry_after_s: u64,
    },
    /// The credential has sent as many messages as its caps let it.
    Capped(Reached),
    /// The message is malformed, or no road can carry a part of it.
    Unacceptable {
        /// Enhanced status code (RFC 3463): 5.6.0, 5.6.1 for what cannot be carried, 5.7.1 for
        /// what an upstream does not let pass.
        status: &'static str,
        /// What is wrong, for the customer to read: one line of ASCII.
        what: String,
    },
    /// The message has passed through too many hands.
    Looping,
    /// The idempotency key was used for another message.
    KeyReused,
    /// The store cannot take it now: disk full, database gone, spool full.
    StoreUnavailable,
}
