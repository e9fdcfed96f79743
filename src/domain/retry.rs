//! When a part that could not be sent is tried again.

use std::time::Duration;

/// The bounds of the schedule (`queue.retry_min_s`, `queue.retry_max_s`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySchedule {
    /// The wait after the first attempt.
    pub min: Duration,
    /// The longest wait between two attempts.
    pub max: Duration,
}

impl RetrySchedule {
    /// The wait after attempt number `attempt` (from 1): doubling from `min` to
    /// `max`, less up to a fifth by `jitter` (0 to 255 in 256ths of that fifth),
    /// so that what failed together does not return together. What the upstream
    /// asked for (`retry_after`) is a floor.
    pub fn wait(&self, attempt: u32, jitter: u8, retry_after: Option<Duration>) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let full = self.min.saturating_mul(1 << doublings).min(self.max);
        let less = full / 5 * u32::from(jitter) / 256;
        full.saturating_sub(less).max(retry_after.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_limit() {
        let schedule = RetrySchedule { min: Duration::from_secs(30), max: Duration::from_secs(14_400) };
        let table = [(0, 30), (1, 30), (2, 60), (3, 120), (10, 14_400), (11, 14_400), (u32::MAX, 14_400)];
        for (attempt, seconds) in table {
            assert_eq!(schedule.wait(attempt, 0, None), Duration::from_secs(seconds), "{attempt}");
        }
    }

    #[test]
    fn jitter_shortens_by_a_fifth_at_most_and_the_upstream_has_its_say() {
        let schedule = RetrySchedule { min: Duration::from_secs(100), max: Duration::from_secs(1_000) };
        assert!(schedule.wait(1, 255, None) > Duration::from_secs(80));
        assert!(schedule.wait(1, 255, None) < Duration::from_secs(81));
        assert_eq!(schedule.wait(1, 0, Some(Duration::from_secs(500))), Duration::from_secs(500));
    }
}
