//! Those who have come in and have not said who they are, in the order in which they
//! came. They may have all places but some: where these are needed, who has been a
//! stranger longest makes room. So however many sit there in silence, whoever comes and
//! signs in finds a place, and who has signed in never loses one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// So many strangers for each place that is free: of the places on which nobody has
/// signed in, a quarter is for those who come next.
const FOR_EACH_FREE_PLACE: usize = 3;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// How each is told to go, by the number in which they came.
    present: BTreeMap<u64, CancellationToken>,
}

/// One who has come in and not signed in; dropped at the sign-in.
#[derive(Debug)]
pub struct Stranger {
    all: Arc<Strangers>,
    number: u64,
    came: Instant,
    leave: CancellationToken,
    stop: CancellationToken,
}

impl Strangers {
    /// One more, when so many places are free. If that is too few, the first one goes.
    pub(super) fn add(
        self: &Arc<Self>,
        free_places: usize,
        came: Instant,
        stop: &CancellationToken,
    ) -> Stranger {
        let leave = stop.child_token();
        let mut waiting = self.waiting();
        if waiting.present.len() >= free_places.saturating_mul(FOR_EACH_FREE_PLACE)
            && let Some((_, first)) = waiting.present.pop_first()
        {
            first.cancel();
        }
        let number = waiting.next;
        waiting.next = number.wrapping_add(1);
        waiting.present.insert(number, leave.clone());
        Stranger { all: Arc::clone(self), number, came, leave, stop: stop.clone() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stranger {
    /// When the connection was accepted: a header of a proxy may have come first.
    pub fn came(&self) -> Instant {
        self.came
    }

    /// Cancelled at the stop, and when this one is to go.
    pub fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// Whether this one is to go for want of room.
    pub fn makes_room(&self) -> bool {
        self.leave.is_cancelled() && !self.stop.is_cancelled()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.waiting().present.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_been_a_stranger_longest_makes_room() {
        let (all, stop) = (Arc::new(Strangers::default()), CancellationToken::new());
        let mut came: Vec<Stranger> = (1..=3).map(|n| all.add(10 - n, Instant::now(), &stop)).collect();
        let gone = |came: &[Stranger]| came.iter().map(|s| u8::from(s.makes_room())).collect::<Vec<_>>();
        came.push(all.add(2, Instant::now(), &stop));
        assert_eq!(gone(&came), [0, 0, 0, 0], "three others, and two places for those who come");
        came.push(all.add(1, Instant::now(), &stop));
        assert_eq!(gone(&came), [1, 0, 0, 0, 0]);
        // The second signs in.
        drop(came.remove(1));
        came.push(all.add(1, Instant::now(), &stop));
        assert_eq!(gone(&came), [1, 1, 0, 0, 0]);
        came.drain(..3);
        came.push(all.add(0, Instant::now(), &stop));
        assert_eq!(gone(&came), [1, 0, 0], "nobody goes for themselves");
        drop(came);
        assert!(all.waiting().present.is_empty());
        assert!(!all.add(0, Instant::now(), &stop).makes_room(), "who comes alone stays");
    }

    #[test]
    fn a_stop_is_no_want_of_room() {
        let (all, stop) = (Arc::new(Strangers::default()), CancellationToken::new());
        let stranger = all.add(9, Instant::now(), &stop);
        stop.cancel();
        assert!(stranger.leave().is_cancelled() && !stranger.makes_room());
    }
}
