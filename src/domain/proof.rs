//! The life of a domain that a customer proves alone. Pure.
//!
//! ```text
//!              answered             proven
//!   Adding ──────────────▶ Pending ───────▶ Verified ──┐ surely absent for a week, or gone
//!   (only at Resend)          │ a week        ▲        │
//!                             ▼               │ proven ▼
//!                         forgotten ◀──────────────── Lost
//!                                     a week
//! ```
//!
//! A look that finds nothing out changes nothing: mail from a proven domain never
//! stops because somebody's DNS was down. `Denied` is the operator's word and ends
//! only by another; `Removing` waits until Resend has forgotten the domain too.

use std::time::Duration;

use jiff::Timestamp;

/// An unproven domain is forgotten after this, so that nobody blocks a name, or a
/// place at Resend, for good.
pub const CLAIM_LIFETIME: Duration = Duration::from_secs(7 * DAY_S);
/// A proven domain whose proof is surely absent is lost after this …
const GRACE: Duration = Duration::from_secs(7 * DAY_S);
/// … and so many looks in a row, so that no two bad answers a week apart do it.
const GRACE_LOOKS: u32 = 8;

/// How a proven domain is looked at: each day, more often while it is in doubt.
const STEADY: Duration = Duration::from_secs(DAY_S);
const ABSENT_AGAIN: Duration = Duration::from_secs(6 * 3_600);
const UNKNOWN_AGAIN: Duration = Duration::from_secs(3_600);
/// How a pending domain is looked at after its customer asked: doubling, from this …
const PENDING_MIN_S: u64 = 10;
/// … to this.
const PENDING_MAX_S: u64 = 3_600;

const DAY_S: u64 = 86_400;

/// Declares an enum with the names that stand in the database and in answers.
macro_rules! named {
    ($(#[$doc:meta])+ $name:ident { $($(#[$variant_doc:meta])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$variant_doc])+ $variant,)+
        }

        impl $name {
            /// Each of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in the database and in answers.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// Reads what [`Self::as_str`] wrote.
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

named! {
    /// Who is asked whether a domain is proven.
    Way {
        /// The domain's DNS, for a record with a token of ours.
        Dns = "dns",
        /// Resend, which asks for records of its own.
        Resend = "resend",
    }
}

named! {
    /// Where a claim stands.
    ProofState {
        /// Resend is being told of it, or was and has not answered.
        Adding = "adding",
        /// The customer has its records and is to publish them.
        Pending = "pending",
        /// Proven: the customer may send from it.
        Verified = "verified",
        /// It was proven and is no more.
        Lost = "lost",
        /// The operator took it away.
        Denied = "denied",
        /// It was removed here, and Resend is to be told.
        Removing = "removing",
    }
}

named! {
    /// Where a line of a customer's list came from.
    Origin {
        /// The operator allowed it.
        Operator = "operator",
        /// It came with the account (`senders.starter_domain`).
        Starter = "starter",
        /// The customer proved the domain.
        Proof = "proof",
    }
}

/// What a look at a domain found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The proof is there.
    Proven,
    /// It is surely not there, now.
    Absent,
    /// It is surely not there and will not come back by itself.
    Gone,
    /// There was no answer, or none that says so much.
    Unknown,
}

/// What is known of a claim when it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Where it stands.
    pub state: ProofState,
    /// Looks in a row that did not end as hoped.
    pub tries: u32,
    /// Since when the proof of a proven domain is absent.
    pub missing_since: Option<Timestamp>,
    /// When it is forgotten.
    pub expires_at: Option<Timestamp>,
    /// When it is looked at next.
    pub next_check_at: Option<Timestamp>,
}

impl Claim {
    /// A new one. It is not looked at before its customer asks for it, or it expires.
    pub fn new(state: ProofState, now: Timestamp) -> Self {
        let expires_at = Some(after(now, CLAIM_LIFETIME));
        Self { state, tries: 0, missing_since: None, expires_at, next_check_at: expires_at }
    }

    /// What it is after a look; `None`: it is forgotten.
    pub fn after(self, finding: Finding, now: Timestamp) -> Option<Self> {
        if self.state == ProofState::Verified {
            return Some(self.reviewed(finding, now));
        }
        if finding == Finding::Proven {
            let next_check_at = Some(after(now, STEADY));
            let state = ProofState::Verified;
            return Some(Self { state, tries: 0, missing_since: None, expires_at: None, next_check_at });
        }
        let is_over = self.expires_at.is_some_and(|end| end <= now) || finding == Finding::Gone;
        if is_over {
            return None;
        }
        let wait = match self.state {
            ProofState::Lost => STEADY,
            _ => Duration::from_secs((PENDING_MIN_S << self.tries.min(16)).min(PENDING_MAX_S)),
        };
        let next = after(now, wait);
        let next_check_at = Some(self.expires_at.map_or(next, |end| next.min(end)));
        Some(Self { tries: self.tries.saturating_add(1), next_check_at, ..self })
    }

    /// A proven domain, looked at again.
    fn reviewed(self, finding: Finding, now: Timestamp) -> Self {
        let again = |wait| Some(after(now, wait));
        let tries = self.tries.saturating_add(1);
        match finding {
            Finding::Proven => Self { tries: 0, missing_since: None, next_check_at: again(STEADY), ..self },
            Finding::Unknown => Self { next_check_at: again(UNKNOWN_AGAIN), ..self },
            Finding::Gone => Self { missing_since: Some(now), ..self.lost(now) },
            Finding::Absent => {
                let since = self.missing_since.unwrap_or(now);
                if after(since, GRACE) <= now && tries >= GRACE_LOOKS {
                    return Self { missing_since: Some(since), ..self.lost(now) };
                }
                let next_check_at = again(ABSENT_AGAIN);
                Self { tries, missing_since: Some(since), next_check_at, ..self }
            }
        }
    }

    fn lost(self, now: Timestamp) -> Self {
        let expires_at = Some(after(now, CLAIM_LIFETIME));
        let next_check_at = Some(after(now, STEADY));
        Self { state: ProofState::Lost, tries: 0, expires_at, next_check_at, ..self }
    }
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap()
    }

    fn verified() -> Claim {
        Claim::new(ProofState::Pending, at(0)).after(Finding::Proven, at(0)).unwrap()
    }

    /// Looks whenever one is due until the claim leaves its state; how many seconds that took.
    fn looked_at(mut claim: Claim, finding: Finding) -> (u64, u32, Option<Claim>) {
        let state = claim.state;
        for looks in 1.. {
            let now = claim.next_check_at.unwrap();
            let seconds = u64::try_from(now.as_second() - at(0).as_second()).unwrap();
            match claim.after(finding, now) {
                Some(next) if next.state == state && looks < 2_000 => claim = next,
                left => return (seconds, looks, left),
            }
        }
        unreachable!()
    }

    #[test]
    fn a_pending_domain_is_looked_at_less_and_less_and_forgotten_after_a_week() {
        let claim = Claim::new(ProofState::Pending, at(0));
        assert_eq!(claim.next_check_at, Some(at(7 * DAY_S)), "nobody asked for a look");
        let waits: Vec<_> = [10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, 3_600].to_vec();
        let mut claim = claim;
        for wait in waits {
            claim = claim.after(Finding::Absent, at(0)).unwrap();
            assert_eq!(claim.next_check_at, Some(at(wait)));
        }
        for finding in [Finding::Absent, Finding::Unknown] {
            let asked = Claim { tries: 0, ..claim }.after(finding, at(0)).unwrap();
            let (seconds, looks, left) = looked_at(asked, finding);
            assert_eq!((seconds, left), (7 * DAY_S, None));
            assert!(looks < 180, "{looks} looks");
        }
        assert_eq!(claim.after(Finding::Gone, at(1)), None);
        assert_eq!(claim.after(Finding::Proven, at(8 * DAY_S)).unwrap().state, ProofState::Verified);
    }

    #[test]
    fn a_proven_domain_is_lost_after_a_week_of_sure_absence_and_never_by_silence() {
        let (_, looks, left) = looked_at(verified(), Finding::Unknown);
        assert_eq!((looks, left.unwrap().state), (2_000, ProofState::Verified));
        let (seconds, looks, left) = looked_at(verified(), Finding::Absent);
        assert_eq!((seconds, left.unwrap().state), (8 * DAY_S, ProofState::Lost));
        assert!(looks >= GRACE_LOOKS);
        let doubted = verified().after(Finding::Absent, at(DAY_S)).unwrap();
        assert_eq!(doubted.missing_since, Some(at(DAY_S)));
        let late = doubted.after(Finding::Absent, at(30 * DAY_S)).unwrap();
        assert_eq!(late.state, ProofState::Verified, "two answers are not enough, however far apart");
        let silent = doubted.after(Finding::Unknown, at(DAY_S)).unwrap();
        assert_eq!((silent.missing_since, silent.tries), (doubted.missing_since, doubted.tries));
        let back = doubted.after(Finding::Proven, at(2 * DAY_S)).unwrap();
        assert_eq!((back.missing_since, back.tries), (None, 0));
    }

    #[test]
    fn what_is_gone_is_lost_at_once_and_can_come_back() {
        let lost = verified().after(Finding::Gone, at(5)).unwrap();
        assert_eq!((lost.state, lost.expires_at), (ProofState::Lost, Some(at(5 + 7 * DAY_S))));
        assert_eq!(lost.after(Finding::Proven, at(9)).unwrap(), {
            let next_check_at = Some(at(9 + DAY_S));
            Claim { next_check_at, ..verified() }
        });
        assert_eq!(looked_at(lost, Finding::Absent).2, None);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for state in ["adding", "pending", "verified", "lost", "denied", "removing"] {
            assert_eq!(ProofState::parse(state).unwrap().as_str(), state);
        }
        for (way, origin) in [("dns", "operator"), ("resend", "proof")] {
            assert_eq!(Way::parse(way).unwrap().as_str(), way);
            assert_eq!(Origin::parse(origin).unwrap().as_str(), origin);
        }
        assert_eq!((ProofState::parse("x"), Way::parse(""), Origin::parse("*")), (None, None, None));
    }
}
