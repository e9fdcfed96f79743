//! When a customer's credits run out, at the pace of the last days. Pure.

use jiff::SignedDuration;

/// What was used in how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Credits debited, or held for mail on its way.
    pub used: i64,
    /// How long that took.
    pub over: SignedDuration,
}

/// When the credits run out, as far as that can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forecast {
    /// The balance was never read.
    Unknown,
    /// There are none, or more is owed than there is.
    Gone,
    /// Less than a day was seen, or nothing was kept: no pace.
    TooNew,
    /// Nothing was used.
    Unused,
    /// In so many whole days; 0: within a day.
    Days(i64),
    /// In more than [`HORIZON_DAYS`].
    Far,
}

/// Beyond this a number of days says nothing.
pub const HORIZON_DAYS: i64 = 365;
/// A pace of less than this is luck.
const SHORTEST: SignedDuration = SignedDuration::from_hours(24);

impl Forecast {
    /// What follows from what may still be spent and from how fast that was done.
    pub fn of(available: Option<i64>, pace: Pace) -> Self {
        let Some(available) = available else { return Self::Unknown };
        if available <= 0 {
            return Self::Gone;
        }
        if pace.over < SHORTEST {
            return Self::TooNew;
        }
        if pace.used <= 0 {
            return Self::Unused;
        }
        let seconds = i128::from(available).saturating_mul(i128::from(pace.over.as_secs()));
        let days = seconds / i128::from(pace.used) / (24 * 3600);
        match i64::try_from(days) {
            Ok(days) if days <= HORIZON_DAYS => Self::Days(days),
            _ => Self::Far,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_says_no_more_than_is_known() {
        let week = 7 * 24;
        let table = [
            // Available, used, in hours.
            (None, 10, week, Forecast::Unknown),
            (Some(0), 10, week, Forecast::Gone),
            // Debts grow, and whatever was used says nothing about them.
            (Some(-5), 0, week, Forecast::Gone),
            (Some(-500), 700, week, Forecast::Gone),
            (Some(100), 50, 23, Forecast::TooNew),
            (Some(100), 0, 1, Forecast::TooNew),
            (Some(100), 0, 0, Forecast::TooNew),
            (Some(100), 0, week, Forecast::Unused),
            (Some(100), -3, week, Forecast::Unused),
            (Some(100), 70, week, Forecast::Days(10)),
            (Some(109), 70, week, Forecast::Days(10)),
            (Some(9), 70, week, Forecast::Days(0)),
            // Two days old and twenty a day.
            (Some(100), 40, 48, Forecast::Days(5)),
            (Some(365), 7, week, Forecast::Days(365)),
            (Some(366), 7, week, Forecast::Far),
            (Some(i64::MAX), 1, week, Forecast::Far),
            (Some(1), i64::MAX, week, Forecast::Days(0)),
        ];
        for (available, used, hours, want) in table {
            let pace = Pace { used, over: SignedDuration::from_hours(hours) };
            assert_eq!(Forecast::of(available, pace), want, "{available:?} {used} {hours}");
        }
    }
}
