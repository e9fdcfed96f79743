//! The last refusals, in memory, for the operator's eyes. A restart forgets them; what
//! counts is counted in the metrics.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::domain::ids::CustomerId;
use crate::domain::refusal::Refusal;

/// Refusals that are remembered.
const MOST: usize = 50;

/// A refusal, and those of its kind that followed it at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// When the last of them was.
    pub at: Timestamp,
    /// Whose mail it was, as far as that was known.
    pub customer_id: Option<CustomerId>,
    /// Why, of the last.
    pub refusal: Refusal,
    /// How many in a row.
    pub times: u64,
}

/// The refusals, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Refused>>);

impl Recent {
    /// Remembers one. Whoever tries again and again takes no more than one place.
    pub(super) fn note(&self, customer_id: Option<&CustomerId>, refusal: &Refusal, at: Timestamp) {
        let mut all = self.all();
        let same = all.iter().rposition(|one| {
            one.customer_id.as_ref() == customer_id && discriminant(&one.refusal) == discriminant(refusal)
        });
        let times = same.and_then(|at| all.remove(at)).map_or(0, |one| one.times);
        if all.len() >= MOST {
            all.pop_front();
        }
        let (customer_id, times) = (customer_id.cloned(), times.saturating_add(1));
        all.push_back(Refused { at, customer_id, refusal: refusal.clone(), times });
    }

    /// The newest first, at most so many.
    pub(super) fn newest(&self, most: usize) -> Vec<Refused> {
        self.all().iter().rev().take(most).cloned().collect()
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<Refused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn who_is_refused_again_and_again_takes_one_place_and_the_oldest_leave() {
        let recent = Recent::default();
        let ids: Vec<CustomerId> = (0..60).map(|n| CustomerId::parse(&format!("cus_{n}")).unwrap()).collect();
        for id in &ids {
            recent.note(Some(id), &Refusal::Looping, at(1));
        }
        for second in 2..5 {
            recent.note(ids.last(), &Refusal::Looping, at(second));
            recent.note(None, &Refusal::BillingUnknown, at(second));
        }
        let newest = recent.newest(3);
        assert_eq!(
            newest.iter().map(|one| (one.customer_id.as_ref(), one.times)).collect::<Vec<_>>(),
            [(None, 3), (Some(&ids[59]), 4), (Some(&ids[58]), 1)]
        );
        assert_eq!((newest[0].at, recent.newest(99).len()), (at(4), MOST));
    }
}
