//! When the next call may leave, so that a burst of mail does not run into the
//! rate limit and be refused. Pure: the time is an argument.
//!
//! Resend counts calls a second for the whole account and tells the figure with
//! every answer (resend.com/docs, "Rate Limit"). Turns are spaced evenly. A call may leave
//! some time after its turn, as long as it took to make it ready, and then no second,
//! wherever it begins, has more calls than are allowed; so all of the rate is used, and
//! none of it is lost to the limit. If none gets ready, no more turns are given than a
//! second has calls: they would leave no sooner. Other nodes and programs on the same account
//! are known by what an answer says is left, and by the 429.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::outbound::{MAX_RETRY_AFTER, RateInfo};

/// Calls a second before Resend has said anything.
const DEFAULT_PER_SECOND: u32 = 10;
/// Resend's second, and what one call may be quicker on its way than another.
const WINDOW: Duration = Duration::from_millis(1_020);
/// How far back our own calls can be the reason that none is left: a second, and the
/// time of an answer on its way.
const OWN_DOING: Duration = Duration::from_millis(1_250);
/// Beyond so many calls a second it is enough to space them.
const MOST_REMEMBERED: u32 = 1_000;

/// The calls of the last second, and when the next one may follow.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    per_second: u32,
    /// Even spacing.
    next: Option<Instant>,
    /// Nobody before this, as we were told.
    held_until: Option<Instant>,
    /// Turns whose call has not left.
    not_left: u32,
    /// When calls left, earliest first.
    left: VecDeque<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        let left = VecDeque::new();
        Self { per_second: DEFAULT_PER_SECOND, next: None, held_until: None, not_left: 0, left }
    }
}

impl Pace {
    /// Takes a turn, if there is one now.
    ///
    /// # Errors
    /// How long until there may be one.
    pub(super) fn turn(&mut self, now: Instant) -> Result<(), Duration> {
        let at = [self.next, self.held_until].into_iter().flatten().max();
        let wait = at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        if !wait.is_zero() {
            return Err(wait);
        }
        if self.not_left >= self.per_second {
            return Err(self.interval());
        }
        self.not_left += 1;
        // Whoever comes a little late for a turn does not put the others off.
        let interval = self.interval();
        let due = self.next.filter(|next| now.saturating_duration_since(*next) < interval);
        self.next = Some(due.unwrap_or(now) + interval);
        Ok(())
    }

    /// The call of a turn leaves, if it may.
    ///
    /// # Errors
    /// How long until it may.
    pub(super) fn leave(&mut self, now: Instant) -> Result<(), Duration> {
        let wait = self.window_opens().map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        if !wait.is_zero() {
            return Err(wait);
        }
        self.forget(now);
        self.not_left = self.not_left.saturating_sub(1);
        self.left.push_back(now);
        Ok(())
    }

    /// No call was made in a turn.
    pub(super) fn give_back(&mut self) {
        self.not_left = self.not_left.saturating_sub(1);
        self.next = self.next.and_then(|next| next.checked_sub(self.interval()));
    }

    /// Takes in what an answer says about the limit, whose window is one second.
    pub(super) fn learn(&mut self, status: u16, rate: &RateInfo, now: Instant) {
        if let Some(limit) = rate.limit.filter(|limit| *limit > 0) {
            self.per_second = limit;
        }
        let reset = rate.reset.map(Duration::from_secs).unwrap_or(Duration::from_secs(1));
        let hold = match status {
            429 => rate.retry_after.unwrap_or(reset),
            // Where it was all ours, the window opens when its first call is a second old.
            _ if rate.remaining == Some(0) && !self.is_our_doing(now) => reset,
            _ => return,
        };
        let until = now + hold.min(MAX_RETRY_AFTER);
        self.held_until = Some(self.held_until.map_or(until, |held| held.max(until)));
    }

    /// Between two calls, where they are spaced evenly.
    pub(super) fn interval(&self) -> Duration {
        WINDOW / self.per_second
    }

    /// When the first of the calls that fill a second is old enough for another one.
    fn window_opens(&self) -> Option<Instant> {
        let most = usize::try_from(self.per_second.min(MOST_REMEMBERED)).ok()?;
        let first = self.left.len().checked_sub(most)?;
        let at = self.left.get(first).filter(|_| self.per_second <= MOST_REMEMBERED)?;
        Some(*at + WINDOW)
    }

    fn is_our_doing(&self, now: Instant) -> bool {
        let ours = self.left.iter().filter(|at| now.saturating_duration_since(**at) < OWN_DOING).count();
        u32::try_from(ours).is_ok_and(|ours| ours >= self.per_second)
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > OWN_DOING;
        while self.left.front().is_some_and(is_old) {
            self.left.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn told(limit: u32) -> RateInfo {
        RateInfo { limit: Some(limit), ..RateInfo::default() }
    }

    #[test]
    fn a_burst_is_spread_at_ten_a_second_until_told_otherwise() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.turn(now), Ok(()));
        assert_eq!(pace.turn(now), Err(millis(102)));
        assert_eq!(pace.turn(now + millis(130)), Ok(()), "a little late");
        assert_eq!(pace.turn(now + millis(130)), Err(millis(74)), "which nobody after it feels");
        assert_eq!(pace.turn(now + millis(5_000)), Ok(()));
        for nth in 0..3 {
            assert_eq!(pace.leave(now + millis(5_000 + nth)), Ok(()));
        }
        pace.learn(200, &told(2), now);
        let now = now + millis(9_000);
        assert_eq!(pace.turn(now), Ok(()));
        assert_eq!(pace.turn(now), Err(millis(510)));
        pace.learn(200, &told(0), now);
        assert_eq!(pace.turn(now), Err(millis(510)));
    }

    /// When calls leave in a minute of a deep queue: turns are asked for whenever there may be
    /// one, and each call is ready so many milliseconds after its turn.
    fn calls_of_a_minute(per_second: u32, late: fn(u64) -> u64) -> Vec<Instant> {
        let (mut pace, began) = (Pace::default(), Instant::now());
        pace.learn(200, &told(per_second), began);
        let (mut now, mut calls, mut ready, mut turns) = (began, Vec::new(), Vec::<Instant>::new(), 0);
        while now < began + millis(60_000) {
            ready.retain(|at| {
                let leaves = *at <= now && pace.leave(now).is_ok();
                calls.extend(leaves.then_some(now));
                !leaves
            });
            if pace.turn(now).is_ok() {
                turns += 1;
                ready.push(now + millis(late(turns)));
            }
            now += millis(1);
        }
        calls
    }

    #[test]
    fn all_of_the_rate_is_used_and_no_second_has_more_than_are_allowed() {
        let lateness: [fn(u64) -> u64; 4] =
            [|_| 0, |turn| turn % 7 * 5, |_| 400, |turn| if turn % 50 == 0 { 300 } else { 10 }];
        for (per_second, most) in [(2, 2), (10, 10), (25, 25)] {
            for late in lateness {
                let (calls, allowed) = (calls_of_a_minute(per_second, late), 60 * most);
                let too_soon = calls.windows(most + 1).find(|few| few[most] - few[0] < millis(1_000));
                assert_eq!(too_soon, None);
                assert!(calls.len() * 100 > allowed * 95, "{} of {allowed}", calls.len());
            }
        }
    }

    #[test]
    fn after_a_stall_no_more_leave_than_are_allowed_and_none_has_waited_for_long() {
        // None that begins in the sixth second is ready before the ninth.
        let late = |turn: u64| if (60..70).contains(&turn) { 3_000 - (turn - 60) * 100 } else { 10 };
        let calls = calls_of_a_minute(10, late);
        assert_eq!(calls.windows(11).find(|few| few[10] - few[0] < millis(1_000)), None);
        let (mut pace, now) = (Pace::default(), Instant::now());
        let turns = (0..3_000).filter(|nth| pace.turn(now + millis(*nth)).is_ok()).count();
        assert_eq!(turns, 10, "nothing gets ready");
        pace.give_back();
        assert_eq!(pace.turn(now + millis(3_000)), Ok(()));
        assert_eq!(pace.turn(now + millis(4_000)), Err(millis(102)));
        assert_eq!(pace.leave(now + millis(4_000)), Ok(()));
        assert_eq!(pace.turn(now + millis(4_000)), Ok(()));
    }

    #[test]
    fn where_there_is_no_limit_to_speak_of_nobody_waits() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.learn(200, &told(u32::MAX), now);
        for nth in 1..5_000 {
            assert_eq!(pace.turn(now + millis(nth)), Ok(()));
            assert_eq!(pace.leave(now + millis(nth)), Ok(()));
        }
        assert!(pace.left.len() < 2_000, "what is long gone is forgotten");
    }

    #[test]
    fn everyone_waits_after_a_429_or_a_window_that_others_have_spent() {
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
            let turn = pace.turn(now).map_or_else(|wait| wait, |_| Duration::ZERO);
            assert_eq!(turn, millis(want), "{status} {rate:?}");
        }
    }

    #[test]
    fn a_window_that_we_have_spent_ourselves_costs_nobody_a_second() {
        let (mut pace, began) = (Pace::default(), Instant::now());
        for nth in 0..10 {
            assert_eq!(pace.leave(began + millis(nth * 100)), Ok(()));
        }
        let now = began + millis(990);
        pace.learn(200, &RateInfo { remaining: Some(0), reset: Some(1), ..RateInfo::default() }, now);
        assert_eq!(pace.turn(now), Ok(()));
        assert_eq!(pace.leave(now), Err(millis(30)), "the first call is a second old then");
        assert_eq!(pace.leave(began + WINDOW), Ok(()));
    }

    #[test]
    fn a_turn_without_a_call_is_given_back() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.turn(now), Ok(()));
        pace.give_back();
        assert_eq!(pace.turn(now), Ok(()));
        assert_eq!(pace.turn(now), Err(millis(102)));
    }
}
