//! What an answer to an entry means for it, and for how much an entry is opened.
//! Pure: the settler does what is decided here, and writes it down.
//!
//! Only a 2xx or a 409 settles; only a 400 that no unknown try went before proves
//! that nothing was applied. A 400 after one proves nothing, and once Dodo may have
//! forgotten the key no answer would: either makes the entry doubtful.

use std::time::Duration;

use jiff::Timestamp;

use super::dodo::EntryAnswer;
use crate::domain::account::Account;
use crate::domain::credits::Credits;
use crate::store::entry::{Entry, Settled};

/// How long an entry waits for the operator, who has to set something right first.
const OPERATOR_WAIT: Duration = Duration::from_secs(30);

/// What a try of an entry means for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Dodo has it.
    Settled(Settled),
    /// Surely nothing was applied, and nothing will be.
    Void {
        /// Dodo's words.
        message: String,
    },
    /// This try applied nothing: the next may.
    NotNow {
        /// What happened.
        error: String,
        /// How long to wait at least.
        after: Option<Duration>,
    },
    /// Refused, but an earlier try may have been applied: no further post can tell.
    Doubtful {
        /// Dodo's words.
        message: String,
    },
    /// It may have been applied: the same entry is posted again.
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// What Dodo's answer to the call under way means for `entry`.
pub(crate) fn of(entry: &Entry, answer: EntryAnswer) -> Verdict {
    let is_certain = entry.unknown_tries == 0;
    match answer {
        // Between two tries a balance may have been read that is newer than this one.
        EntryAnswer::Applied { balance_after: Some(balance_after) } if is_certain && entry.tries == 1 => {
            Verdict::Settled(Settled::Now { balance_after })
        }
        EntryAnswer::Applied { .. } | EntryAnswer::KeyUsed => Verdict::Settled(Settled::Sometime),
        EntryAnswer::Rejected { message, .. } if is_certain => Verdict::Void { message },
        // Dodo may check the balance before the key: after an unknown try this proves nothing.
        EntryAnswer::Rejected { message, .. } => Verdict::Doubtful { message },
        EntryAnswer::RateLimited { retry_after } => {
            Verdict::NotNow { error: "too many calls (429)".to_owned(), after: retry_after }
        }
        EntryAnswer::Unauthorized => Verdict::NotNow {
            error: "Dodo refused the API key (401): it is wrong, read-only, or of the other mode".to_owned(),
            after: Some(OPERATOR_WAIT),
        },
        EntryAnswer::Misconfigured { status, message, .. } => {
            Verdict::NotNow { error: format!("{status}: {message}"), after: Some(OPERATOR_WAIT) }
        }
        EntryAnswer::NotSent { reason } => Verdict::NotNow { error: reason, after: None },
        EntryAnswer::Unknown { reason } => Verdict::Unknown { reason },
    }
}

/// The most that an entry is opened for; `None`: all that is owed. A debt beyond
/// the balance waits for the next top-up.
pub(crate) fn at_most(account: &Account) -> Option<Credits> {
    let balance = account.balance?.max(0);
    if balance < account.owed.to_i64() { Credits::from_i64(balance) } else { None }
}

/// Whether Dodo may have forgotten the key of a call that was never answered, so
/// that another post could be applied a second time.
pub(crate) fn may_be_forgotten(entry: &Entry, now: Timestamp, key_lifetime: Duration) -> bool {
    let first_unknown_at = entry.first_unknown_at.unwrap_or(entry.opened_at);
    let age = Duration::try_from(now.duration_since(first_unknown_at)).unwrap_or_default();
    entry.unknown_tries > 0 && age >= key_lifetime
}

impl Entry {
    /// The entry after a call that began at `began` and did not close it.
    pub(crate) fn tried(&mut self, is_unknown: bool, began: Timestamp) {
        self.last_tried_at = Some(began);
        if is_unknown {
            self.first_unknown_at.get_or_insert(began);
        }
        self.tries = self.tries.saturating_add(1);
        self.unknown_tries = self.unknown_tries.saturating_add(u32::from(is_unknown));
    }
}
