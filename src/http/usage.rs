//! What a customer used on each of the last days, kept in memory: days that are over
//! change seldom, and to count those of a large customer takes a while. Whoever looks waits
//! a moment; what was counted by then is kept for whoever looks next. What this must not
//! know: how it is shown.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::domain::ids::CustomerId;
use crate::store::usage::Used;
use crate::store::{Store, StoreError};

/// Days that are shown at most.
const MOST_DAYS: u32 = 30;
/// How long the sum of today holds, of the days before on which mail may still be under way, and
/// of all others, of which something may still be given back.
const TODAY: Duration = Duration::from_secs(5);
const LATELY: Duration = Duration::from_secs(300);
const LONG_AGO: Duration = Duration::from_secs(3600);
const LATELY_DAYS: i64 = 3;
/// How long somebody waits for the sums.
const PATIENCE: Duration = Duration::from_millis(150);
/// So many days are counted at once where each has few messages.
const AT_ONCE: i64 = 10;
const FEW: i64 = 2_000;
/// Customers whose sums are kept.
const MOST_CUSTOMERS: usize = 1_000;
const DAY_S: i64 = 86_400;

/// The sums that are kept.
#[derive(Debug)]
pub(super) struct Usage {
    days: u32,
    slots: Mutex<BTreeMap<CustomerId, Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// One counts at a time.
    turn: tokio::sync::Mutex<()>,
    sums: Mutex<BTreeMap<i64, (Instant, Used)>>,
}

/// A day and what was used on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Day {
    /// When it began.
    pub(super) begins: Timestamp,
    /// What was used on it.
    pub(super) used: Used,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The day of a moment, counted from 1970.
fn day_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(DAY_S)
}

/// When a day began.
fn begin_of(day: i64) -> Timestamp {
    Timestamp::from_second(day.saturating_mul(DAY_S)).unwrap_or_default()
}

impl Usage {
    /// Of as many days as rows stay in the log, thirty at most.
    pub(super) fn new(log_days: u32) -> Self {
        Self { days: log_days.min(MOST_DAYS), slots: Mutex::default() }
    }

    /// What the customer used on each of the last days, today last. `None`: that is still being counted.
    pub(super) async fn of(
        &self,
        store: &Store,
        customer_id: &CustomerId,
        now: Timestamp,
    ) -> Result<Option<Vec<Day>>, StoreError> {
        let today = day_of(now);
        let days = today.saturating_sub(i64::from(self.days)).saturating_add(1)..today.saturating_add(1);
        let slot = self.slot(customer_id);
        let counting = slot.count(store, customer_id, days.clone(), today);
        if let Ok(counted) = tokio::time::timeout(PATIENCE, counting).await {
            counted?;
        }
        let sums = lock(&slot.sums);
        let day = |day: i64| Some(Day { begins: begin_of(day), used: sums.get(&day)?.1 });
        Ok(days.map(day).collect())
    }

    fn slot(&self, customer_id: &CustomerId) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        if slots.len() >= MOST_CUSTOMERS && !slots.contains_key(customer_id) {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.is_of_use());
            if slots.len() >= MOST_CUSTOMERS {
                slots.pop_first();
            }
        }
        Arc::clone(slots.entry(customer_id.clone()).or_default())
    }
}

impl Slot {
    fn is_of_use(&self) -> bool {
        lock(&self.sums).values().any(|(at, _)| at.elapsed() < LATELY)
    }

    /// Counts what is not known, or not any more, newest first.
    async fn count(
        &self,
        store: &Store,
        customer_id: &CustomerId,
        days: Range<i64>,
        today: i64,
    ) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        lock(&self.sums).retain(|day, _| days.contains(day));
        let mut at_once = 1;
        loop {
            let range = next(&lock(&self.sums), days.clone(), today, at_once);
            let Some(range) = range else { return Ok(()) };
            let at = Instant::now();
            let used = store.used(customer_id, range.clone()).await?;
            at_once = if used.values().all(|day| day.messages < FEW) { AT_ONCE } else { 1 };
            let mut sums = lock(&self.sums);
            for day in range {
                sums.insert(day, (at, used.get(&day).copied().unwrap_or_default()));
            }
        }
    }
}

/// The newest days that are to be counted together.
fn next(
    sums: &BTreeMap<i64, (Instant, Used)>,
    days: Range<i64>,
    today: i64,
    at_once: i64,
) -> Option<Range<i64>> {
    let is_stale = |day: &i64| {
        let holds = match today.saturating_sub(*day) {
            ..=0 => TODAY,
            1..=LATELY_DAYS => LATELY,
            _ => LONG_AGO,
        };
        sums.get(day).is_none_or(|(at, _)| at.elapsed() >= holds)
    };
    let last = days.clone().rev().find(is_stale)?;
    let first = (days.start..=last).rev().take_while(is_stale).take(usize::try_from(at_once).ok()?).last()?;
    Some(first..last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_stale_is_counted_again_newest_first_and_a_few_days_at_once() {
        let begin = Instant::now();
        let mut sums = BTreeMap::new();
        assert_eq!(next(&sums, 1..31, 30, 1), Some(30..31));
        assert_eq!(next(&sums, 1..31, 30, 10), Some(21..31));
        assert_eq!(next(&sums, 1..1, 0, 10), None, "nothing is kept");
        for day in 5..31 {
            sums.insert(day, (begin, Used::default()));
        }
        assert_eq!(next(&sums, 1..31, 30, 10), Some(1..5));
        for day in 1..5 {
            sums.insert(day, (begin, Used::default()));
        }
        assert_eq!(next(&sums, 1..31, 30, 10), None);
        tokio::time::advance(TODAY).await;
        assert_eq!(next(&sums, 1..31, 30, 10), Some(30..31));
        tokio::time::advance(LATELY).await;
        assert_eq!(next(&sums, 1..31, 30, 10), Some(27..31));
        tokio::time::advance(LONG_AGO).await;
        assert_eq!(next(&sums, 1..31, 30, 10), Some(21..31));
    }

    #[test]
    fn days_begin_at_midnight() {
        let at: Timestamp = "2026-11-23T23:59:59Z".parse().unwrap();
        assert_eq!(begin_of(day_of(at)), "2026-11-23T00:00:00Z".parse().unwrap());
        assert_eq!(day_of(Timestamp::UNIX_EPOCH), 0);
    }
}
