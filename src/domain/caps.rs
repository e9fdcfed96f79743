//! How many messages a credential may send in a minute and in a day. Pure.
//!
//! Minutes and days are those of the clock (UTC), so that the count is two numbers whatever
//! the caps are. Messages are counted, not recipients: a cap of one lets any message pass.

use std::fmt;

use jiff::Timestamp;

/// Seconds of a minute, and minutes of a day.
const MINUTE_S: i64 = 60;
const DAY_MIN: i64 = 1_440;

/// The caps of a credential; most have none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// Messages in a day.
    pub per_day: Option<u32>,
    /// Messages in a minute.
    pub per_minute: Option<u32>,
}

/// In which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// A minute.
    Minute,
    /// A day.
    Day,
}

impl Span {
    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Day => "day",
        }
    }
}

/// A cap is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The cap.
    pub limit: u32,
    /// In which time.
    pub span: Span,
    /// Seconds until that is over; at least 1.
    pub retry_after_s: u64,
}

/// `20 messages a minute`.
impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages = if self.limit == 1 { "message" } else { "messages" };
        write!(f, "{} {messages} a {}", self.limit, self.span.as_str())
    }
}

/// What a credential with caps has sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// The caps.
    pub caps: Caps,
    /// The minute of the last message, since 1970.
    pub minute: i64,
    /// Messages in that minute.
    pub in_minute: u32,
    /// Messages in its day.
    pub in_day: u32,
}

impl Caps {
    /// Whether there are any.
    pub const fn is_some(self) -> bool {
        self.per_day.is_some() || self.per_minute.is_some()
    }
}

/// `500 a day, 20 a minute`.
impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spans = [(self.per_day, Span::Day), (self.per_minute, Span::Minute)];
        let mut between = "";
        for (cap, span) in spans {
            if let Some(cap) = cap {
                write!(f, "{between}{cap} a {}", span.as_str())?;
                between = ", ";
            }
        }
        Ok(())
    }
}

impl Tally {
    /// The same at this time: what was sent before its minute and its day is out of it. Where
    /// another clock is a little ahead, its minute and its day are those that count; what is further
    /// ahead was said by a clock that was wrong.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        let now = now.as_second().div_euclid(MINUTE_S);
        let (of_day, today) = (self.minute.div_euclid(DAY_MIN), now.div_euclid(DAY_MIN));
        let is_of = |counted: i64, current: i64| (current..=current.saturating_add(1)).contains(&counted);
        let in_minute = if is_of(self.minute, now) { self.in_minute } else { 0 };
        let in_day = if is_of(of_day, today) { self.in_day } else { 0 };
        let minute = match (is_of(self.minute, now), is_of(of_day, today)) {
            (true, _) => self.minute,
            // The day that another clock has begun goes on.
            (false, true) => now.max(of_day.saturating_mul(DAY_MIN)),
            (false, false) => now,
        };
        Self { caps: self.caps, minute, in_minute, in_day }
    }

    /// Whether one more may be sent.
    pub fn check(self, now: Timestamp) -> Result<(), Reached> {
        self.check_for(1, now)
    }

    /// Whether so many more may be sent; the day is told first, since it is longer.
    pub fn check_for(self, more: u32, now: Timestamp) -> Result<(), Reached> {
        let current = self.at(now);
        let second = now.as_second();
        let left = |of_s: i64| u64::try_from(of_s - second.rem_euclid(of_s)).unwrap_or(1).max(1);
        let spans = [
            (self.caps.per_day, current.in_day, Span::Day, MINUTE_S * DAY_MIN),
            (self.caps.per_minute, current.in_minute, Span::Minute, MINUTE_S),
        ];
        for (cap, sent, span, of_s) in spans {
            if let Some(limit) = cap.filter(|limit| sent.saturating_add(more) > *limit) {
                return Err(Reached { limit, span, retry_after_s: left(of_s) });
            }
        }
        Ok(())
    }

    /// Counts one more, if it may be sent.
    pub fn take(&mut self, now: Timestamp) -> Result<(), Reached> {
        self.check(now)?;
        *self = self.at(now);
        self.in_minute = self.in_minute.saturating_add(1);
        self.in_day = self.in_day.saturating_add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds after the beginning of a day.
    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_057_600 + second).unwrap()
    }

    fn tally(per_day: Option<u32>, per_minute: Option<u32>) -> Tally {
        Tally { caps: Caps { per_day, per_minute }, ..Tally::default() }
    }

    #[test]
    fn a_minute_and_a_day_are_those_of_the_clock() {
        assert_eq!(at(0).to_string(), "2027-01-16T00:00:00Z");
        let mut tally = tally(Some(4), Some(2));
        let reached = |limit, span, retry_after_s| Err(Reached { limit, span, retry_after_s });
        let table = [
            (10, Ok(())),
            (59, Ok(())),
            (59, reached(2, Span::Minute, 1)),
            (60, Ok(())),
            (61, Ok(())),
            (62, reached(4, Span::Day, 86_338)),
            (86_399, reached(4, Span::Day, 1)),
            (86_400, Ok(())),
            (86_401, Ok(())),
            (86_402, reached(2, Span::Minute, 58)),
        ];
        for (second, want) in table {
            assert_eq!(tally.take(at(second)), want, "{second}");
        }
    }

    #[test]
    fn without_a_cap_nothing_is_refused_and_a_cap_of_none_refuses_all() {
        let mut open = tally(None, None);
        for _ in 0..1_000 {
            open.take(at(0)).unwrap();
        }
        assert_eq!(tally(Some(0), None).take(at(0)).unwrap_err().span, Span::Day);
        assert_eq!(tally(Some(3), None).check_for(3, at(0)), Ok(()));
        assert_eq!(tally(Some(3), None).check_for(4, at(0)).unwrap_err().limit, 3);
        assert!(!open.caps.is_some() && tally(None, Some(1)).caps.is_some());
    }

    #[test]
    fn a_clock_that_is_a_little_ahead_grants_nothing_and_one_that_is_far_ahead_bars_nobody() {
        let mut tally = tally(Some(3), Some(1));
        tally.take(at(86_400)).unwrap();
        // Another server, before midnight.
        assert_eq!(tally.take(at(86_399)).unwrap_err().span, Span::Minute);
        tally.take(at(86_300)).unwrap();
        assert_eq!(tally.in_day, 2);
        tally.take(at(86_520)).unwrap();
        assert_eq!(tally.take(at(86_600)).unwrap_err().span, Span::Day);
        tally.take(at(-400_000)).unwrap();
        assert_eq!((tally.in_minute, tally.in_day), (1, 1));
    }
}
