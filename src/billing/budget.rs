//! The few calls that Dodo allows: shared by reads and writes, learned from its answers.
//!
//! A new account may make 240 calls a minute, all processes together. Two buckets
//! refill steadily: a third of the budget is for entries alone, the rest is for
//! reads that a client waits for, and for entries and background reads only while
//! it is at least half full. So a burst of one kind never starves another, and on
//! a quiet system an entry leaves at once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::dodo::DodoError;
use crate::outbound::RateInfo;

/// What a new Dodo account may call in a minute.
const FIRST_LIMIT: u32 = 240;
/// A limit below this is one of seconds, not of minutes, and is not learned.
const LEAST_MINUTE_LIMIT: u32 = 60;
/// How long we stay away when Dodo says "too many" and not for how long.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest that one answer keeps us away.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An entry.
    Entry,
    /// A read that a client is waiting for.
    Answer,
    /// A read that nobody is waiting for.
    Refresh,
}

/// The budget.
#[derive(Debug)]
pub struct Budget(Mutex<Buckets>);

#[derive(Debug)]
struct Buckets {
    limit: f64,
    entries: f64,
    shared: f64,
    refilled: Instant,
    closed_until: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

impl Budget {
    /// A full budget of a new account.
    pub fn new() -> Self {
        let limit = f64::from(FIRST_LIMIT);
        Self(Mutex::new(Buckets {
            limit,
            entries: entries_room(limit),
            shared: shared_room(limit),
            refilled: Instant::now(),
            closed_until: None,
        }))
    }

    /// Waits until a call for `purpose` may be made, and counts it.
    pub async fn take(&self, purpose: Purpose) {
        loop {
            let wait = self.buckets().try_take(purpose, Instant::now());
            match wait {
                None => return,
                Some(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Learns from an answer.
    pub fn learn(&self, rate: &RateInfo, is_limited: bool) {
        self.buckets().learn(rate, is_limited, Instant::now());
    }

    fn buckets(&self) -> std::sync::MutexGuard<'_, Buckets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an answer says "too many calls".
pub fn is_limited<T>(answer: &Result<T, DodoError>) -> bool {
    matches!(answer, Err(DodoError::RateLimited { .. }))
}

/// A bucket holds a twelfth of a minute's calls; what it holds and what it gains
/// in a minute stay together within the limit.
fn entries_room(limit: f64) -> f64 {
    limit / 36.0
}

fn shared_room(limit: f64) -> f64 {
    limit / 18.0
}

impl Buckets {
    /// `None`: the call is counted. Otherwise how long to wait before asking again.
    fn try_take(&mut self, purpose: Purpose, now: Instant) -> Option<Duration> {
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return Some(until.duration_since(now));
        }
        self.refill(now);
        let shared_is_relaxed = self.shared >= shared_room(self.limit) / 2.0;
        let bucket = match purpose {
            Purpose::Answer if self.shared >= 1.0 => &mut self.shared,
            Purpose::Entry | Purpose::Refresh if shared_is_relaxed => &mut self.shared,
            Purpose::Entry if self.entries >= 1.0 => &mut self.entries,
            _ => return Some(Duration::from_secs_f64(20.0 / self.limit)),
        };
        *bucket -= 1.0;
        None
    }

    fn refill(&mut self, now: Instant) {
        // A twelfth of the limit can be spent at once, so eleven twelfths may come in a minute.
        let calls = now.duration_since(self.refilled).as_secs_f64() * self.limit * 11.0 / 12.0 / 60.0;
        self.refilled = now;
        self.entries = (self.entries + calls / 3.0).min(entries_room(self.limit));
        self.shared = (self.shared + calls * 2.0 / 3.0).min(shared_room(self.limit));
    }

    fn learn(&mut self, rate: &RateInfo, is_limited: bool, now: Instant) {
        if let Some(limit) = rate.limit.filter(|limit| *limit >= LEAST_MINUTE_LIMIT) {
            self.limit = f64::from(limit);
        }
        if is_limited {
            let pause = rate.retry_after.unwrap_or(PAUSE).clamp(Duration::from_millis(100), MAX_PAUSE);
            self.closed_until = Some(now + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(buckets: &mut Buckets, purpose: Purpose, now: Instant) -> usize {
        (0..10_000).take_while(|_| buckets.try_take(purpose, now).is_none()).count()
    }

    fn full() -> (Buckets, Instant) {
        let budget = Budget::new();
        let buckets = budget.0.into_inner().unwrap();
        let now = buckets.refilled;
        (buckets, now)
    }

    #[test]
    fn no_minute_has_more_calls_than_the_limit() {
        let (mut buckets, start) = full();
        let calls: usize = (0..6000)
            .map(|tick| start + Duration::from_millis(tick * 10))
            .map(|now| spend(&mut buckets, Purpose::Answer, now) + spend(&mut buckets, Purpose::Entry, now))
            .sum();
        assert!((230..=240).contains(&calls), "{calls}");
    }

    #[test]
    fn reads_leave_a_third_to_entries() {
        let (mut buckets, now) = full();
        spend(&mut buckets, Purpose::Answer, now);
        assert!(spend(&mut buckets, Purpose::Entry, now) >= 6);
    }

    #[test]
    fn entries_leave_half_of_the_rest_to_answers() {
        let (mut buckets, now) = full();
        spend(&mut buckets, Purpose::Entry, now);
        assert!(spend(&mut buckets, Purpose::Answer, now) >= 6);
        assert_eq!(spend(&mut buckets, Purpose::Refresh, now), 0);
    }

    #[test]
    fn the_limit_is_learned_and_a_429_is_obeyed() {
        let (mut buckets, now) = full();
        let told = RateInfo { limit: Some(1000), ..RateInfo::default() };
        buckets.learn(&told, false, now);
        assert!(spend(&mut buckets, Purpose::Answer, now + Duration::from_secs(60)) > 50);
        let later = now + Duration::from_secs(600);
        let wait = RateInfo { retry_after: Some(Duration::from_secs(7)), ..RateInfo::default() };
        buckets.learn(&wait, true, later);
        assert_eq!(buckets.try_take(Purpose::Answer, later), Some(Duration::from_secs(7)));
        assert_eq!(buckets.try_take(Purpose::Answer, later + Duration::from_secs(7)), None);
    }
}
