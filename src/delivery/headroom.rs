//! How many mails a call may carry while Resend's quota has place for fewer.
//!
//! Resend refuses a call as a whole that asks for more than a quota has left, be it one mail
//! more. That says nothing about fewer: the next calls carry half as many, and so on, until
//! one mail is refused alone. Only then is the quota spent, and the gate closes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::batch::{MOST, half};

/// How long after the last refusal calls stay small: the way down to a single mail takes
/// less, and quotas are raised and begin anew.
const LIFE: Duration = Duration::from_secs(60);

/// What the quota has place for, as far as its refusals tell.
#[derive(Debug, Default)]
pub(super) struct Headroom(Mutex<Option<Known>>);

#[derive(Debug, Clone, Copy)]
struct Known {
    most: u32,
    until: Timestamp,
}

impl Headroom {
    /// How many mails the next call may carry.
    pub(super) fn most(&self, now: Timestamp) -> u32 {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|known| known.until > now).map_or(MOST, |known| known.most)
    }

    /// A call of so many was refused for a quota. Returns how many the next may carry.
    pub(super) fn exceeded(&self, size: u32, now: Timestamp) -> u32 {
        let most = half(size, 0).batch_max.min(self.most(now));
        let known = Known { most, until: now.checked_add(LIFE).unwrap_or(now) };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_get_smaller_until_they_carry_one_mail_and_larger_after_a_while() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let headroom = Headroom::default();
        assert_eq!(headroom.most(at(0)), 100);
        // Of those that were under way at the same time the smallest tells most.
        for (size, most) in [(100, 50), (100, 50), (50, 25), (100, 25), (7, 3), (3, 1), (2, 1), (1, 1)] {
            assert_eq!(headroom.exceeded(size, at(1)), most, "{size}");
            assert_eq!(headroom.most(at(60)), most);
        }
        assert_eq!(headroom.most(at(61)), 100);
        assert_eq!(headroom.exceeded(100, at(61)), 50);
    }
}
