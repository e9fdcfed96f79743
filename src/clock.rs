//! The only clock. Everything that needs the time is handed this, so that tests
//! can let a day pass in a microsecond.
//!
//! Where several processes share a database they go by its time: how long ago the database was
//! asked is measured, and what this machine takes for the time of day is asked by nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Who took longer to answer does not say what time it is.
const LONGEST_JOURNEY: Duration = Duration::from_secs(1);

/// Tells the time of day.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
    Followed(Arc<Followed>),
}

#[derive(Debug)]
struct Followed {
    began: Instant,
    /// What the other clock showed when this one began, in milliseconds.
    at_the_beginning: AtomicI64,
}

/// What another clock showed, and the journey to it and back.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    /// What it showed on the way.
    pub time: Timestamp,
    /// When it was asked.
    pub asked: Instant,
    /// When it had answered.
    pub answered: Instant,
}

impl Clock {
    /// The machine's clock.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is moved; clones move together.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.as_millisecond()))))
    }

    /// A clock that goes by another one; clones go by the same.
    pub fn followed(shown: Shown) -> Self {
        let at_the_beginning = AtomicI64::new(shown.time.as_millisecond());
        Self(Source::Followed(Arc::new(Followed { began: shown.middle(), at_the_beginning })))
    }

    /// Sets a followed clock by what the other one showed, unless it may be as right as that.
    /// `false`: the answer took too long to be believed.
    pub fn correct(&self, shown: Shown) -> bool {
        let Source::Followed(followed) = &self.0 else { return true };
        let journey = shown.answered.saturating_duration_since(shown.asked);
        if journey > LONGEST_JOURNEY {
            return false;
        }
        let since = millis(shown.middle().saturating_duration_since(followed.began));
        let at_the_beginning = shown.time.as_millisecond().saturating_sub(since);
        let wrong = at_the_beginning.saturating_sub(followed.at_the_beginning.load(Ordering::SeqCst));
        if wrong.saturating_abs() > millis(journey / 2) {
            followed.at_the_beginning.store(at_the_beginning, Ordering::SeqCst);
        }
        true
    }

    /// Now, in whole milliseconds, as the database keeps it.
    pub fn now(&self) -> Timestamp {
        let millis = match &self.0 {
            Source::System => Timestamp::now().as_millisecond(),
            Source::Manual(millis) => millis.load(Ordering::SeqCst),
            Source::Followed(followed) => {
                let at_the_beginning = followed.at_the_beginning.load(Ordering::SeqCst);
                at_the_beginning.saturating_add(millis(followed.began.elapsed()))
            }
        };
        Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Moves a manual clock on; the others move by themselves.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(millis) = &self.0 {
            millis.fetch_add(self::millis(by), Ordering::SeqCst);
        }
    }
}

impl Shown {
    /// When the other clock showed it, as far as that can be known.
    fn middle(&self) -> Instant {
        self.asked + self.answered.saturating_duration_since(self.asked) / 2
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn shown(time: i64, asked: Instant, journey: u64) -> Shown {
        let answered = asked + Duration::from_millis(journey);
        Shown { time: Timestamp::from_millisecond(time).unwrap(), asked, answered }
    }

    fn at_the_beginning(clock: &Clock) -> i64 {
        let Source::Followed(followed) = &clock.0 else { panic!("{clock:?}") };
        followed.at_the_beginning.load(Ordering::SeqCst)
    }

    #[test]
    fn a_followed_clock_shows_what_the_other_one_does() {
        let began = Instant::now();
        let clock = Clock::followed(shown(HOUR, began, 0));
        assert!(clock.now().as_millisecond() >= HOUR);
        // The other one was set back an hour, ten seconds later.
        assert!(clock.correct(shown(10_000, began + Duration::from_secs(10), 0)));
        assert_eq!(at_the_beginning(&clock), 0);
        assert!(clock.now().as_millisecond() < HOUR);
    }

    #[test]
    fn what_may_be_the_journey_is_not_corrected_and_a_long_one_is_not_believed() {
        let began = Instant::now();
        let clock = Clock::followed(shown(HOUR, began, 0));
        let later = began + Duration::from_secs(5);
        let table = [
            // Shown at the middle of the journey, its length, whether it is believed, what it comes to.
            (HOUR + 5_100, 100, true, HOUR),
            (HOUR + 5_000, 100, true, HOUR),
            (HOUR + 9_000, 1_002, false, HOUR),
            (HOUR + 5_151, 100, true, HOUR + 101),
        ];
        for (time, journey, is_believed, want) in table {
            assert_eq!(clock.correct(shown(time, later, journey)), is_believed, "{time}");
            assert_eq!(at_the_beginning(&clock), want, "{time}");
        }
    }
}
