//! The life of a message: its parts, its recipients, and the one function that
//! says which step may follow which.
//!
//! ```text
//!                 ┌──────────────── Retry{due} ───────────────┐
//!                 ▼                                           │
//!   accepted → Queued ── Lease ──→ Sending ── Sent ─────→ Sent (final)
//!                 │ ▲                 │ │ └── Failed ───→ Failed (final)
//!                 │ └─ Lapse, Retry ──┘ └──── Hold ─────→ Held
//!                 ├── Expire, Cancel → Failed                │ operator: Retry → Queued
//!                 └── Sent (late news) → Sent                │           Cancel → Failed
//!                                                            └ Sent (late news) → Sent
//! ```
//!
//! A part waits on when somebody in it may have it by an earlier attempt, and no later
//! answer can tell (a connection lost after the final dot): neither the end of its
//! lifetime nor a refusal makes that recipient `Failed`. Who surely has nothing of it
//! fails alone, and when nobody is left to be tried again, the part is held (`Hold`).
//!
//! `Hasten` makes a part that waits due at once, and changes nothing else. What the
//! operator may decide about a whole message is in [`super::decision`].
//!
//! `Retry`, `Failed` and `Hold` speak for one attempt and need it to be the
//! current one; `Sent` is news of something that happened in the world, so it
//! wins from any attempt of a part that is not final. SQL does the same steps as
//! compare-and-set and checks the rows it changed.

use jiff::Timestamp;

/// What a message may have in memory and in one row; what is larger is spooled in
/// chunks of this size.
pub const CHUNK_BYTES: usize = 256 << 10;

/// The road a part takes; fixed when the message is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Road {
    /// Resend's HTTP API.
    Resend,
    /// An upstream SMTP server.
    Smtp,
}

impl Road {
    /// The name in the database, the log and the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resend => "resend",
            Self::Smtp => "smtp",
        }
    }

    /// The road of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Resend, Self::Smtp].into_iter().find(|road| road.as_str() == text)
    }
}

/// Where a part stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartState {
    /// Waiting until `due`; `attempt` attempts were made.
    Queued {
        /// When the next attempt may start.
        due: Timestamp,
        /// Attempts made so far.
        attempt: u32,
    },
    /// A worker has it until `lease`.
    Sending {
        /// When the lease lapses unless it is renewed.
        lease: Timestamp,
        /// The number of this attempt, from 1.
        attempt: u32,
    },
    /// The upstream accepted it for at least one recipient, and every recipient is final.
    Sent,
    /// Given up: nobody got it.
    Failed,
    /// Its outcome cannot be known; the operator decides.
    Held,
}

/// A step in the life of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartStep {
    /// A worker takes it until `lease`.
    Lease {
        /// When the lease lapses.
        lease: Timestamp,
    },
    /// The lease ran out without a word.
    Lapse {
        /// Now.
        now: Timestamp,
    },
    /// Attempt number `attempt` ended without a final answer.
    Retry {
        /// The attempt that speaks.
        attempt: u32,
        /// When the next may start.
        due: Timestamp,
    },
    /// The upstream has it.
    Sent,
    /// Attempt number `attempt` ended with a definite refusal of everyone.
    Failed {
        /// The attempt that speaks.
        attempt: u32,
    },
    /// After attempt number `attempt` the operator decides: it cannot be repeated safely,
    /// or is not worth repeating and an earlier one may have been taken.
    Hold {
        /// The attempt that speaks.
        attempt: u32,
    },
    /// The lifetime is over.
    Expire,
    /// The operator gives it up.
    Cancel,
    /// The operator does not want to wait until a queued part is due.
    Hasten {
        /// Now.
        now: Timestamp,
    },
    /// The operator has a held part sent again.
    Resume {
        /// Now.
        now: Timestamp,
        /// Attempts made so far: no number is used twice, or a late attempt could
        /// speak for a new one.
        attempt: u32,
    },
}

impl PartState {
    /// Whether nothing can happen to it any more.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Sent | Self::Failed)
    }

    /// The state after `step`, or `None` where the step is not allowed now.
    pub fn after(&self, step: PartStep) -> Option<Self> {
        use PartStep as S;
        match (self, step) {
            (Self::Queued { attempt, .. }, S::Lease { lease }) => {
                Some(Self::Sending { lease, attempt: attempt.saturating_add(1) })
            }
            (Self::Queued { .. }, S::Expire | S::Cancel) => Some(Self::Failed),
            (Self::Sending { lease, attempt }, S::Lapse { now }) if *lease <= now => {
                Some(Self::Queued { due: now, attempt: *attempt })
            }
            (Self::Sending { attempt: current, .. }, S::Retry { attempt, due }) if *current == attempt => {
                Some(Self::Queued { due, attempt })
            }
            (Self::Sending { attempt: current, .. }, S::Failed { attempt }) if *current == attempt => {
                Some(Self::Failed)
            }
            (Self::Sending { attempt: current, .. }, S::Hold { attempt }) if *current == attempt => {
                Some(Self::Held)
            }
            (Self::Held, S::Cancel) => Some(Self::Failed),
            (Self::Held, S::Resume { now, attempt }) => Some(Self::Queued { due: now, attempt }),
            (Self::Queued { due, attempt }, S::Hasten { now }) => {
                Some(Self::Queued { due: now.min(*due), attempt: *attempt })
            }
            (state, S::Sent) if !state.is_final() => Some(Self::Sent),
            _ => None,
        }
    }
}

/// Where a recipient of a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientState {
    /// Not final yet.
    Queued,
    /// The upstream accepted the message for it.
    Sent,
    /// Refused, expired or cancelled.
    Failed,
}

impl RecipientState {
    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Failed => "failed",
        }
    }

    /// The state of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Queued, Self::Sent, Self::Failed].into_iter().find(|state| state.as_str() == text)
    }
}

/// What a message is said to be, derived from its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// Some part waits or is under way.
    Queued,
    /// A part is held for the operator, and none waits.
    Held,
    /// Everything is final, and somebody got it.
    Sent,
    /// Everything is final, and nobody got it.
    Failed,
}

impl MessageState {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Held, Self::Sent, Self::Failed];

    /// The name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Held => "held",
            Self::Sent => "sent",
            Self::Failed => "failed",
        }
    }

    /// The state of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Derives the state from those of the parts.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a PartState>) -> Self {
        let mut state = Self::Failed;
        for part in parts {
            let own = match part {
                PartState::Queued { .. } | PartState::Sending { .. } => return Self::Queued,
                PartState::Held => Self::Held,
                PartState::Sent => Self::Sent,
                PartState::Failed => Self::Failed,
            };
            if state == Self::Failed || own == Self::Held {
                state = own;
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn states() -> [PartState; 5] {
        [
            PartState::Queued { due: at(5), attempt: 1 },
            PartState::Sending { lease: at(50), attempt: 2 },
            PartState::Sent,
            PartState::Failed,
            PartState::Held,
        ]
    }

    #[test]
    fn every_step_from_every_state() {
        let queued = |due, attempt| Some(PartState::Queued { due: at(due), attempt });
        let sent = Some(PartState::Sent);
        let failed = Some(PartState::Failed);
        let sending = Some(PartState::Sending { lease: at(99), attempt: 2 });
        // Columns: queued (attempt 1), sending (attempt 2), sent, failed, held.
        let table = [
            (PartStep::Lease { lease: at(99) }, [sending, None, None, None, None]),
            (PartStep::Lapse { now: at(49) }, [None, None, None, None, None]),
            (PartStep::Lapse { now: at(50) }, [None, queued(50, 2), None, None, None]),
            (PartStep::Retry { attempt: 2, due: at(60) }, [None, queued(60, 2), None, None, None]),
            (PartStep::Retry { attempt: 1, due: at(60) }, [None, None, None, None, None]),
            (PartStep::Sent, [sent.clone(), sent.clone(), None, None, sent]),
            (PartStep::Failed { attempt: 2 }, [None, failed.clone(), None, None, None]),
            (PartStep::Failed { attempt: 1 }, [None, None, None, None, None]),
            (PartStep::Hold { attempt: 2 }, [None, Some(PartState::Held), None, None, None]),
            (PartStep::Expire, [failed.clone(), None, None, None, None]),
            (PartStep::Cancel, [failed.clone(), None, None, None, failed]),
            (PartStep::Hasten { now: at(3) }, [queued(3, 1), None, None, None, None]),
            (PartStep::Hasten { now: at(9) }, [queued(5, 1), None, None, None, None]),
            (PartStep::Resume { now: at(70), attempt: 4 }, [None, None, None, None, queued(70, 4)]),
        ];
        for (step, wants) in table {
            for (state, want) in states().iter().zip(wants) {
                assert_eq!(state.after(step), want, "{state:?} {step:?}");
            }
        }
    }

    #[test]
    fn a_message_is_what_its_parts_are() {
        let [queued, sending, sent, failed, held] = states();
        let table: [(&[&PartState], MessageState); 7] = [
            (&[&sent], MessageState::Sent),
            (&[&failed], MessageState::Failed),
            (&[&failed, &sent], MessageState::Sent),
            (&[&sent, &failed], MessageState::Sent),
            (&[&sent, &held, &sent], MessageState::Held),
            (&[&held, &sending], MessageState::Queued),
            (&[&queued, &sent], MessageState::Queued),
        ];
        for (parts, want) in table {
            assert_eq!(MessageState::of(parts.iter().copied()), want, "{parts:?}");
        }
    }
}
