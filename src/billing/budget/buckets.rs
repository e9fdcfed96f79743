//! How the calls that Dodo allows are shared out. Pure: the time is an argument.
//!
//! Two buckets refill steadily: a third of the budget is for entries alone, the
//! rest is for calls that a client waits for, and for entries and background reads
//! only while it is at least half full. So a burst of one kind never starves
//! another, what a client waits for goes first, and on a quiet system an entry
//! leaves at once.
//!
//! The limit is what Dodo's answers say. The account may be shared with other
//! programs: what an answer says is left of the window is what we share out, so
//! that the faster the others are, the slower we go. While Dodo does not answer at
//! all, calls that nobody waits for are made one at a time and ever more seldom.

use std::time::Duration;

use tokio::time::Instant;

use super::Purpose;
use crate::outbound::RateInfo;
use crate::ration::{Ration, Share};

/// Calls a second and a minute of each of Dodo's tiers; a new account is in the first.
const TIERS: [(u32, u32); 3] = [(40, 240), (100, 1_000), (500, 5_000)];
const FIRST_LIMIT: f64 = 240.0;
/// A limit below this with nothing that says how long its window is, is not learned.
const LEAST_MINUTE_LIMIT: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
/// How long we stay away when Dodo says "too many" and not for how long; it
/// doubles while Dodo goes on saying so.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest that one answer keeps us away.
const MAX_PAUSE: Duration = Duration::from_secs(60);
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// So many calls in a row without an answer, and Dodo is taken to be away.
const AWAY_AFTER: u32 = 3;
/// First and longest wait between the calls that try whether it is back.
const PROBE_MIN: Duration = Duration::from_millis(500);
const PROBE_MAX: Duration = Duration::from_secs(10);

/// What there is to share out.
#[derive(Debug)]
pub(in crate::billing) struct Buckets {
    /// Calls a minute.
    limit: f64,
    entries: f64,
    shared: f64,
    refilled: Instant,
    window: Window,
    closed_until: Option<Instant>,
    /// Answers in a row that said "too many".
    too_many: u32,
    /// Calls in a row without an answer.
    unanswered: u32,
    /// When the next call tries whether Dodo is back, and the wait after it.
    probe: Option<(Instant, Duration)>,
}

/// What Dodo's answers say about its window.
#[derive(Debug)]
struct Window {
    /// The limit that they name.
    limit: Option<u32>,
    /// The longest time to its end that they named with this limit.
    longest: Option<Duration>,
    remaining: Option<u32>,
    /// When it began, as far as `remaining` shows.
    began: Instant,
    /// When the last of them came, and when the window ends by it.
    told: Option<(Instant, Instant)>,
}

/// A bucket holds a twelfth of a minute's calls; what it holds and what it gains
/// in a minute stay together within the limit.
fn entries_room(limit: f64) -> f64 {
    (limit / 36.0).max(1.0)
}

fn shared_room(limit: f64) -> f64 {
    (limit / 18.0).max(1.0)
}

impl Buckets {
    /// A full budget of a new account.
    pub(in crate::billing) fn new(now: Instant) -> Self {
        Self {
            limit: FIRST_LIMIT,
            entries: entries_room(FIRST_LIMIT),
            shared: shared_room(FIRST_LIMIT),
            refilled: now,
            window: Window { limit: None, longest: None, remaining: None, began: now, told: None },
            closed_until: None,
            too_many: 0,
            unanswered: 0,
            probe: None,
        }
    }

    /// `None`: the call is counted. Otherwise how long to wait before asking again.
    pub(in crate::billing) fn try_take(&mut self, purpose: Purpose, now: Instant) -> Option<Duration> {
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return Some(until.duration_since(now));
        }
        let probe = self.probe.filter(|_| purpose != Purpose::Answer);
        if let Some((at, _)) = probe.filter(|(at, _)| *at > now) {
            return Some(at.duration_since(now));
        }
        self.refill(now);
        let shared_is_relaxed = self.shared >= (shared_room(self.limit) / 2.0).max(1.0);
        let bucket = match purpose {
            Purpose::Answer if self.shared >= 1.0 => &mut self.shared,
            Purpose::Entry | Purpose::Refresh if shared_is_relaxed => &mut self.shared,
            Purpose::Entry if self.entries >= 1.0 => &mut self.entries,
            _ => return Some(Duration::from_secs_f64((20.0 / self.limit).min(1.0))),
        };
        *bucket -= 1.0;
        if let Some((_, wait)) = probe {
            self.probe = Some((now + wait, (wait * 2).min(PROBE_MAX)));
        }
        None
    }

    /// The same two buckets for all nodes together, of which a call of `purpose` may be drawn.
    pub(in crate::billing) fn shares(&self, purpose: Purpose) -> Vec<Share> {
        let interval = MINUTE.mul_f64(12.0 / 11.0 / self.limit);
        let share =
            |name, interval: Duration, calls| Share { name, interval, ahead: interval.mul_f64(calls) };
        let room = shared_room(self.limit);
        let room = if purpose == Purpose::Answer { room } else { (room / 2.0).max(1.0) };
        let mut shares = vec![share(Ration::DODO, interval.mul_f64(1.5), room)];
        if purpose == Purpose::Entry {
            shares.push(share(Ration::DODO_ENTRIES, interval * 3, entries_room(self.limit)));
        }
        shares
    }

    fn refill(&mut self, now: Instant) {
        let calls = now.saturating_duration_since(self.refilled).as_secs_f64() * self.pace(now);
        self.refilled = now;
        self.entries = (self.entries + calls / 3.0).min(entries_room(self.limit));
        self.shared = (self.shared + calls * 2.0 / 3.0).min(shared_room(self.limit));
    }

    /// Calls a second. A twelfth of the limit can be spent at once, so eleven
    /// twelfths may come in a minute; and no more than Dodo says is left.
    fn pace(&self, now: Instant) -> f64 {
        let pace = self.limit * 11.0 / 12.0 / 60.0;
        let Some((told, ends)) = self.window.told.filter(|(_, ends)| *ends > now) else { return pace };
        let left = f64::from(self.window.remaining.unwrap_or(u32::MAX));
        pace.min(left / ends.saturating_duration_since(told).as_secs_f64().max(1.0))
    }

    /// Learns from an answer.
    pub(in crate::billing) fn learn(&mut self, rate: &RateInfo, is_limited: bool, now: Instant) {
        // What has come in so far came at the old pace.
        self.refill(now);
        let ends_in = self.window.hear(rate, now);
        if let Some(limit) = self.window.minute_limit() {
            self.limit = limit;
        }
        if let Some(remaining) = rate.remaining {
            let left = f64::from(remaining);
            self.entries = self.entries.min(left / 3.0).min(entries_room(self.limit));
            self.shared = self.shared.min(left * 2.0 / 3.0).min(shared_room(self.limit));
        }
        if !is_limited {
            self.too_many = 0;
            return;
        }
        let own = PAUSE * 2_u32.saturating_pow(self.too_many.min(5));
        self.too_many = self.too_many.saturating_add(1);
        let asked = rate.retry_after.or(ends_in.filter(|_| rate.remaining == Some(0)));
        self.closed_until = Some(now + asked.unwrap_or(own).clamp(MIN_PAUSE, MAX_PAUSE));
    }

    /// Counts a call that was answered, or was not. Returns whether Dodo is back.
    pub(in crate::billing) fn went(&mut self, is_answered: bool, now: Instant) -> bool {
        if is_answered {
            self.unanswered = 0;
            return self.probe.take().is_some();
        }
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered >= AWAY_AFTER && self.probe.is_none() {
            self.probe = Some((now + PROBE_MIN, PROBE_MIN * 2));
        }
        false
    }

    pub(in crate::billing) const fn is_away(&self) -> bool {
        self.probe.is_some()
    }
}

impl Window {
    /// Takes in what an answer says. Returns the time to the window's end, if it says that.
    fn hear(&mut self, rate: &RateInfo, now: Instant) -> Option<Duration> {
        let ends_in = rate.reset.and_then(time_to_reset);
        if rate.limit.is_some() && rate.limit != self.limit {
            (self.limit, self.longest) = (rate.limit, None);
        }
        self.longest = self.longest.max(ends_in);
        let remaining = rate.remaining?;
        // More is left than before: another window.
        if self.remaining.is_none_or(|before| remaining > before) {
            self.began = now;
        }
        self.remaining = Some(remaining);
        let length = if self.is_of_a_second() { SECOND } else { MINUTE };
        let by_start = length.saturating_sub(now.saturating_duration_since(self.began));
        let left = match ends_in {
            Some(ends_in) => ends_in,
            // With nothing left, and nothing said about the end, one call in a while finds out.
            None if remaining == 0 => PAUSE,
            None => by_start.max(SECOND),
        };
        self.told = Some((now, now + left));
        ends_in
    }

    /// Dodo has a limit for the second too, and does not say which of them it tells.
    fn is_of_a_second(&self) -> bool {
        self.longest.is_none_or(|longest| longest <= SECOND)
            && TIERS.iter().any(|(second, _)| self.limit == Some(*second))
    }

    /// Calls a minute, as far as the answers tell.
    fn minute_limit(&self) -> Option<f64> {
        let limit = self.limit?;
        if self.is_of_a_second() {
            return TIERS.iter().find(|(second, _)| *second == limit).map(|(_, minute)| f64::from(*minute));
        }
        let is_of_a_minute =
            limit >= LEAST_MINUTE_LIMIT || self.longest.is_some_and(|longest| longest > SECOND);
        (is_of_a_minute && limit > 0).then(|| f64::from(limit))
    }
}

/// The unit of `X-RateLimit-Reset` is not documented: a number up to two minutes is
/// seconds, up to as many milliseconds it is those, and a time of day is not used.
fn time_to_reset(reset: u64) -> Option<Duration> {
    match reset {
        0..=120 => Some(Duration::from_secs(reset.min(60))),
        121..=120_000 => Some(Duration::from_millis(reset.min(60_000))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
