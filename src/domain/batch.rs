//! Parts of several messages in one call: how many, and when a part leaves its call.
//!
//! Resend takes up to 100 mails without attachments in one call, all or none of them.
//! Every call with a part that may have company is composed before it is made: who is in
//! it, in which order, stands on disk under the key of the call, even where a part is
//! alone in it. So it is known after a crash who was tried.
//!
//! ```text
//!   free (max > 1) ── composed → fixed to a call ── unknown ──→ fixed: the same call again
//!         ▲                            │ │ └── sent, refused alone → final, keeps its call
//!         ├── put off ─────────────────┘ └── held → free, for the operator ── sent again ─┐
//!         └── refused with others, half as many ┘                                         ▼
//!                                                     alone (max = 1), composed no more ──┘
//! ```

use super::ids::BatchId;

/// Mails that Resend takes in one call.
pub const MOST: u32 = 100;
/// Octets of a message that may have company; a call of 100 of them stays small.
const SMALL_BYTES: usize = 64 << 10;

/// How many parts the first call with a part may carry that leaves through Resend's API.
pub const fn at_acceptance(octets: usize, has_attachments: bool) -> u32 {
    if has_attachments || octets >= SMALL_BYTES { 1 } else { MOST }
}

/// Where the members of a call go that was refused as a whole: nothing was accepted of
/// anyone, and one of them may be the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    /// How many parts the next call with it may carry.
    pub batch_max: u32,
    /// Which of the halves it is in, from 0: the others are due after it, so that the
    /// same company does not meet again.
    pub nth: u32,
}

/// The half of member number `no` of a call of `size`.
pub fn half(size: u32, no: u32) -> Half {
    let batch_max = (size / 2).max(1);
    Half { batch_max, nth: no.checked_div(batch_max).unwrap_or(0) }
}

/// How a part stands to its calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Company {
    /// How many parts its next call may carry; 1: it is alone, and its calls are not composed.
    pub max: u32,
    /// The call that it is fixed to.
    pub call: Option<BatchId>,
}

/// How a call ended that did not make the part final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Without an answer: only the same call again can tell.
    Unknown,
    /// Surely nothing was accepted, and it is nobody's fault.
    PutOff,
    /// It was refused because of one of its members; the next may carry so many.
    Refused(u32),
    /// It cannot be made again: the operator decides.
    Held,
    /// The operator has the part sent again.
    Resumed,
}

impl Company {
    /// How the part stands after that.
    pub fn after(&self, ended: Ended) -> Self {
        match (ended, &self.call) {
            (Ended::Unknown, Some(_)) => self.clone(),
            // It was tried under its own key: its call is itself.
            (Ended::Unknown, None) | (Ended::Resumed, _) => Self { max: 1, call: None },
            (Ended::PutOff | Ended::Held, _) => Self { max: self.max, call: None },
            (Ended::Refused(max), _) => Self { max: max.clamp(1, self.max.max(1)), call: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_mail_without_attachments_has_company() {
        let table = [
            (0, false, 100),
            (SMALL_BYTES - 1, false, 100),
            (SMALL_BYTES, false, 1),
            (SMALL_BYTES - 1, true, 1),
            (SMALL_BYTES, true, 1),
        ];
        for (octets, has_attachments, want) in table {
            assert_eq!(at_acceptance(octets, has_attachments), want, "{octets} {has_attachments}");
        }
    }

    #[test]
    fn halves_are_of_neighbours_and_none_is_larger_than_its_most() {
        let table: [(u32, u32, &[u32]); 7] = [
            (100, 50, &[50, 50]),
            (25, 12, &[12, 12, 1]),
            (5, 2, &[2, 2, 1]),
            (3, 1, &[1, 1, 1]),
            (2, 1, &[1, 1]),
            (1, 1, &[1]),
            (0, 1, &[]),
        ];
        for (size, want, sizes) in table {
            let halves: Vec<Half> = (0..size).map(|no| half(size, no)).collect();
            assert!(halves.iter().all(|half| half.batch_max == want), "{size}");
            assert!(halves.is_sorted_by_key(|half| half.nth), "{size}");
            for (nth, count) in (0..).zip(sizes) {
                let own = halves.iter().filter(|half| half.nth == nth).count();
                assert_eq!(u32::try_from(own), Ok(*count), "{size} {nth}");
            }
        }
    }

    #[test]
    fn one_bad_mail_among_a_hundred_costs_few_calls_and_is_found() {
        for bad in 0..MOST {
            let (mut calls, mut size, mut place) = (1, MOST, bad);
            while size > 1 {
                let Half { batch_max, nth } = half(size, place);
                let groups = size.div_ceil(batch_max);
                calls += groups;
                let is_last = nth + 1 == groups;
                (size, place) =
                    (if is_last { size - nth * batch_max } else { batch_max }, place - nth * batch_max);
            }
            assert!((6..=16).contains(&calls), "{bad}: {calls}");
        }
    }

    #[test]
    fn every_end_of_a_call() {
        let call = || Some(BatchId::parse("b_1").unwrap());
        let free = Company { max: 50, call: None };
        let fixed = Company { max: 50, call: call() };
        let alone = Company { max: 1, call: None };
        let of = |max| Company { max, call: None };
        // Columns: free, fixed to a call, alone.
        let table = [
            (Ended::Unknown, [of(1), fixed.clone(), of(1)]),
            (Ended::PutOff, [of(50), of(50), of(1)]),
            (Ended::Refused(25), [of(25), of(25), of(1)]),
            (Ended::Refused(0), [of(1), of(1), of(1)]),
            (Ended::Refused(99), [of(50), of(50), of(1)]),
            (Ended::Held, [of(50), of(50), of(1)]),
            (Ended::Resumed, [of(1), of(1), of(1)]),
        ];
        for (ended, wants) in table {
            for (company, want) in [&free, &fixed, &alone].into_iter().zip(wants) {
                assert_eq!(company.after(ended), want, "{company:?} {ended:?}");
            }
        }
    }
}
