//! How often something may be done: one leaky bucket for each who does it, be it a
//! network, a customer or a username.
//!
//! Bounded in memory whoever comes: buckets that are full again are forgotten, and
//! when too many come at once the newcomers share one bucket. Pure but for its lock:
//! the time is an argument. What this must not know: what is asked for.

mod known;
pub mod sign_in;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// Those who have a bucket of their own at the same time.
const MAX_KEYS: usize = 10_000;
/// Full buckets are looked for at most so often, in microseconds: a look goes through all.
const SWEEP_INTERVAL_US: i64 = 1_000_000;

/// Too soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests: try again in {retry_after_s} seconds")]
pub struct TooSoon {
    /// Seconds until one more is allowed; at least 1.
    pub retry_after_s: u64,
}

/// The buckets.
#[derive(Debug)]
pub struct Throttle<K> {
    burst: u32,
    interval_us: i64,
    buckets: Mutex<Buckets<K>>,
}

/// When each bucket will be full, in Unix microseconds: one number says how many
/// tokens it holds now.
#[derive(Debug)]
struct Buckets<K> {
    full_at: HashMap<K, i64>,
    /// The bucket of whoever comes when the map is full.
    others: i64,
    swept_at: i64,
}

impl<K: Hash + Eq> Throttle<K> {
    /// `burst` at once, then one each `interval`.
    pub fn new(burst: u32, interval: Duration) -> Self {
        let interval_us = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX).max(1);
        let buckets = Buckets { full_at: HashMap::new(), others: 0, swept_at: 0 };
        Self { burst, interval_us, buckets: Mutex::new(buckets) }
    }

    /// Takes one from the bucket of `key`, or says when there will be one.
    pub fn take(&self, key: K, now: Timestamp) -> Result<(), TooSoon> {
        let now_us = now.as_microsecond();
        let mut buckets = self.buckets();
        let full_at = buckets.of(key, now_us);
        self.room(*full_at, now_us)?;
        *full_at = (*full_at).max(now_us).saturating_add(self.interval_us);
        Ok(())
    }

    /// Whether the bucket of `key` itself holds one now. Who has none of their own is
    /// not judged by what others took.
    pub fn check(&self, key: &K, now: Timestamp) -> Result<(), TooSoon> {
        self.check_with(key, 0, now)
    }

    /// The same, where others took from it elsewhere what is refilled in `elsewhere_us`.
    pub fn check_with(&self, key: &K, elsewhere_us: i64, now: Timestamp) -> Result<(), TooSoon> {
        let (full_at, now_us) = (self.buckets().full_at.get(key).copied().unwrap_or(0), now.as_microsecond());
        self.room(full_at.max(now_us).saturating_add(elsewhere_us.max(0)), now_us)
    }

    /// How many are taken from the bucket of `key` and not refilled yet, at most `burst`.
    pub fn taken(&self, key: &K, now: Timestamp) -> u32 {
        self.taken_with(key, 0, now)
    }

    /// The same, with what others took from it elsewhere, which is refilled in `elsewhere_us`.
    pub fn taken_with(&self, key: &K, elsewhere_us: i64, now: Timestamp) -> u32 {
        let buckets = self.buckets();
        let shared = if buckets.full_at.len() < MAX_KEYS { 0 } else { buckets.others };
        let full_at = buckets.full_at.get(key).copied().unwrap_or(shared);
        let lacking_us = full_at.saturating_sub(now.as_microsecond()).max(0);
        self.count(lacking_us.saturating_add(elsewhere_us.max(0)))
    }

    /// How many are refilled in that time, at most `burst`.
    pub fn count(&self, lacking_us: i64) -> u32 {
        let lacking = lacking_us.saturating_add(self.interval_us - 1) / self.interval_us;
        u32::try_from(lacking).unwrap_or(u32::MAX).min(self.burst)
    }

    /// So many go back into the bucket of `key`.
    pub fn put_back(&self, key: &K, count: u32) {
        if let Some(full_at) = self.buckets().full_at.get_mut(key) {
            *full_at = full_at.saturating_sub(self.interval_us.saturating_mul(i64::from(count)));
        }
    }

    /// The time in which one is refilled, and in which all are, in microseconds.
    pub fn refills_us(&self) -> (i64, i64) {
        (self.interval_us, self.interval_us.saturating_mul(i64::from(self.burst)))
    }

    fn room(&self, full_at: i64, now_us: i64) -> Result<(), TooSoon> {
        let after = full_at.max(now_us).saturating_add(self.interval_us);
        let over_us = after.saturating_sub(now_us) - self.interval_us.saturating_mul(i64::from(self.burst));
        if over_us <= 0 {
            return Ok(());
        }
        let retry_after_s = u64::try_from(over_us).unwrap_or(0).div_ceil(1_000_000).max(1);
        Err(TooSoon { retry_after_s })
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets<K>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Buckets<K> {
    fn of(&mut self, key: K, now_us: i64) -> &mut i64 {
        let Self { full_at, others, swept_at } = self;
        if full_at.len() >= MAX_KEYS && !full_at.contains_key(&key) {
            if now_us.saturating_sub(*swept_at) >= SWEEP_INTERVAL_US {
                *swept_at = now_us;
                full_at.retain(|_, full_at| *full_at > now_us);
            }
            if full_at.len() >= MAX_KEYS {
                return others;
            }
        }
        full_at.entry(key).or_insert(now_us)
    }
}

/// What counts as one address: for IPv6 the /64, which is what one host is given.
pub fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

/// The /48 that an IPv6 address lies in: the most that one site is given, and so what one
/// client may easily have. `None`: an IPv4 address.
pub fn site_of(peer: IpAddr) -> Option<IpAddr> {
    match peer.to_canonical() {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
    }

    #[test]
    fn a_burst_then_one_each_interval() {
        let throttle = Throttle::new(2, Duration::from_secs(10));
        let too_soon = |s| Err(TooSoon { retry_after_s: s });
        let table = [
            (0, Ok(()), 1),
            (0, Ok(()), 2),
            (0, too_soon(10), 2),
            (9_001, too_soon(1), 2),
            (10_000, Ok(()), 2),
            (10_000, too_soon(10), 2),
            (25_000, Ok(()), 2),
            (100_000, Ok(()), 1),
            (100_000, Ok(()), 2),
            (100_000, too_soon(10), 2),
        ];
        for (millis, want, taken) in table {
            assert_eq!(throttle.check(&"a", at(millis)), want, "{millis}");
            assert_eq!(throttle.take("a", at(millis)), want, "{millis}");
            assert_eq!(throttle.taken(&"a", at(millis)), taken, "{millis}");
        }
        assert_eq!(throttle.check(&"b", at(100_000)), Ok(()), "another has a bucket of their own");
        throttle.put_back(&"a", 1);
        throttle.put_back(&"nobody", 1);
        assert_eq!((throttle.taken(&"a", at(100_000)), throttle.take("a", at(100_000))), (1, Ok(())));
        assert_eq!(throttle.take("a", at(100_000)), too_soon(10));
    }

    #[test]
    fn what_others_took_elsewhere_counts_with_what_was_taken_here() {
        let throttle = Throttle::new(3, Duration::from_secs(10));
        throttle.take("a", at(0)).unwrap();
        let table = [
            (0, 1, Ok(())),
            (10_000_000, 2, Ok(())),
            (10_000_001, 3, Err(TooSoon { retry_after_s: 1 })),
            (20_000_000, 3, Err(TooSoon { retry_after_s: 10 })),
            (90_000_000, 3, Err(TooSoon { retry_after_s: 80 })),
            (-1, 1, Ok(())),
        ];
        for (elsewhere_us, taken, want) in table {
            assert_eq!(throttle.taken_with(&"a", elsewhere_us, at(0)), taken, "{elsewhere_us}");
            assert_eq!(throttle.check_with(&"a", elsewhere_us, at(0)), want, "{elsewhere_us}");
        }
    }

    #[test]
    fn an_interval_may_be_shorter_than_a_millisecond() {
        let throttle = Throttle::new(1, Duration::from_micros(250));
        let passed = (0..1_000).filter(|ms| throttle.take((), at(*ms)).is_ok()).count();
        assert_eq!(passed, 1_000, "4,000 a second leave room for one each millisecond");
        let throttle = Throttle::new(1_000, Duration::from_micros(250));
        let passed = (0..10_000).filter(|_| throttle.take((), at(0)).is_ok()).count();
        assert_eq!(passed, 1_000);
        let passed = (0..10_000).filter(|_| throttle.take((), at(10)).is_ok()).count();
        assert_eq!(passed, 40);
    }

    #[test]
    fn an_ipv4_address_or_an_ipv6_64_is_one() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.1"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:0:0:2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    }

    #[test]
    fn an_ipv6_48_is_one_site() {
        let site = |text: &str| site_of(text.parse().unwrap());
        assert_eq!(site("2001:db8:1:2::3"), Some("2001:db8:1::".parse().unwrap()));
        assert_ne!(site("2001:db8:1::"), site("2001:db8:2::"));
        assert_eq!((site("192.0.2.1"), site("::ffff:192.0.2.1")), (None, None));
    }

    #[test]
    fn a_flood_of_newcomers_fills_no_memory() {
        let throttle = Throttle::new(1, Duration::from_secs(10));
        let passed = (0..30_000u32).filter(|n| throttle.take(*n, at(0)).is_ok()).count();
        assert_eq!(passed, MAX_KEYS + 1);
        assert_eq!(throttle.buckets().full_at.len(), MAX_KEYS);
        assert_eq!(throttle.check(&77_777, at(0)), Ok(()), "what others took is theirs");
        assert_eq!(throttle.taken(&77_777, at(0)), 1, "and yet there is no telling who did");
        assert!(throttle.take(77_777, at(10_000)).is_ok());
        assert_eq!(throttle.buckets().full_at.len(), 1);
    }
}
