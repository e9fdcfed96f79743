//! When the next call may leave, so that a burst of mail does not run into the
//! rate limit and be refused. Pure: the time is an argument.
//!
//! Resend counts calls a second for the whole account and tells the figure with
//! every answer (resend.com/docs, "Rate Limit"). Calls are spaced evenly; other
//! nodes and programs on the same account are not known here, which is what the
//! 429 is for.

use std::time::{Duration, Instant};

use crate::outbound::{MAX_RETRY_AFTER, RateInfo};

/// Calls a second before Resend has said anything.
const DEFAULT_PER_SECOND: u32 = 10;

/// The longest that a call waits for its turn in memory; beyond it, the queue waits.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The spacing, and the next free moment.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    interval: Duration,
    next: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1) / DEFAULT_PER_SECOND, next: None }
    }
}

impl Pace {
    /// Takes the next turn and says how far off it is; takes none if that is
    /// more than ten seconds.
    pub(super) fn turn(&mut self, now: Instant) -> Result<Duration, Duration> {
        let at = self.next.map_or(now, |next| next.max(now));
        let wait = at.saturating_duration_since(now);
        if wait > MAX_WAIT {
            return Err(wait);
        }
        self.next = Some(at + self.interval);
        Ok(wait)
    }

    /// Takes a turn that nobody else wants, if this is one; or says when to ask again.
    pub(super) fn spare_turn(&mut self, now: Instant) -> Result<(), Duration> {
        match self.next.map(|next| next.saturating_duration_since(now)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.next = Some(now + self.interval);
                Ok(())
            }
        }
    }

    /// Takes in what an answer says about the limit, whose window is one second.
    pub(super) fn learn(&mut self, status: u16, rate: &RateInfo, now: Instant) {
        if let Some(limit) = rate.limit.filter(|limit| *limit > 0) {
            self.interval = Duration::from_secs(1) / limit;
        }
        let reset = rate.reset.map(Duration::from_secs).unwrap_or(Duration::from_secs(1));
        let hold = match status {
            429 => rate.retry_after.unwrap_or(reset),
            _ if rate.remaining == Some(0) => reset,
            _ => return,
        };
        let until = now + hold.min(MAX_RETRY_AFTER);
        self.next = Some(self.next.map_or(until, |next| next.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_burst_is_spread_at_ten_a_second_until_told_otherwise() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for want in [0, 100, 200] {
            assert_eq!(pace.turn(now), Ok(millis(want)));
        }
        assert_eq!(pace.turn(now + millis(250)), Ok(millis(50)));
        assert_eq!(pace.turn(now + millis(5_000)), Ok(millis(0)));
        pace.learn(200, &RateInfo { limit: Some(2), ..RateInfo::default() }, now);
        let now = now + millis(9_000);
        assert_eq!(pace.turn(now), Ok(millis(0)));
        assert_eq!(pace.turn(now), Ok(millis(500)));
        pace.learn(200, &RateInfo { limit: Some(0), ..RateInfo::default() }, now);
        assert_eq!(pace.turn(now), Ok(millis(1_000)));
    }

    #[test]
    fn everyone_waits_after_a_429_or_a_spent_window() {
        let rate = |remaining, reset, retry_after: Option<u64>| RateInfo {
            limit: None,
            remaining,
            reset,
            retry_after: retry_after.map(Duration::from_secs),
        };
        let table = [
            (429, rate(None, None, Some(4)), 4_000),
            (429, rate(None, Some(2), None), 2_000),
            (429, rate(None, None, None), 1_000),
            (200, rate(Some(0), Some(1), Some(9)), 1_000),
            (200, rate(Some(5), Some(1), Some(9)), 0),
        ];
        for (status, rate, want) in table {
            let (mut pace, now) = (Pace::default(), Instant::now());
            pace.learn(status, &rate, now);
            assert_eq!(pace.turn(now), Ok(millis(want)), "{status} {rate:?}");
        }
    }

    #[test]
    fn a_spare_turn_is_one_that_no_mail_wants() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.spare_turn(now), Ok(()));
        assert_eq!(pace.spare_turn(now), Err(millis(100)));
        assert_eq!(pace.turn(now), Ok(millis(100)), "mail waits for one call at most");
        assert_eq!(pace.spare_turn(now + millis(100)), Err(millis(100)));
        assert_eq!(pace.turn(now + millis(100)), Ok(millis(100)), "nobody stands before it");
        assert_eq!(pace.spare_turn(now + millis(300)), Ok(()));
    }

    #[test]
    fn what_would_wait_long_goes_back_to_the_queue() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.learn(429, &RateInfo { retry_after: Some(millis(60_000)), ..RateInfo::default() }, now);
        assert_eq!(pace.turn(now), Err(millis(60_000)));
        assert_eq!(pace.turn(now), Err(millis(60_000)), "no turn was taken");
        assert_eq!(pace.turn(now + millis(60_000)), Ok(millis(0)));
    }
}
