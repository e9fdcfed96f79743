//! How often something may be asked for: one token bucket for each network that asks.
//!
//! Bounded in memory whoever comes: buckets that are full again are forgotten, and
//! when too many networks ask at once the newcomers share one bucket. Pure but for
//! its lock: the time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// Networks that have a bucket of their own at the same time.
const MAX_NETWORKS: usize = 10_000;

/// Whoever comes when the map is full.
const EVERYONE_ELSE: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Too soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests: try again in {retry_after_s} seconds")]
pub struct TooSoon {
    /// Seconds until one more is allowed; at least 1.
    pub retry_after_s: u64,
}

/// The buckets.
#[derive(Debug)]
pub struct Throttle {
    burst: u32,
    interval_ms: i64,
    /// When each bucket will be full, in Unix milliseconds: one number says how
    /// many tokens it holds now.
    full_at: Mutex<HashMap<IpAddr, i64>>,
}

impl Throttle {
    /// `burst` at once, then one each `interval`.
    pub fn new(burst: u32, interval: Duration) -> Self {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        Self { burst, interval_ms, full_at: Mutex::default() }
    }

    /// Takes one from the bucket of `peer`'s network, or says when there will be one.
    pub fn take(&self, peer: IpAddr, now: Timestamp) -> Result<(), TooSoon> {
        let now_ms = now.as_millisecond();
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let mut network = network_of(peer);
        if !full_at.contains_key(&network) && full_at.len() >= MAX_NETWORKS {
            full_at.retain(|_, full_at| *full_at > now_ms);
            if full_at.len() >= MAX_NETWORKS {
                network = EVERYONE_ELSE;
            }
        }
        let bucket = full_at.entry(network).or_insert(now_ms);
        let after = (*bucket).max(now_ms).saturating_add(self.interval_ms);
        let over_ms = after.saturating_sub(now_ms) - self.interval_ms.saturating_mul(i64::from(self.burst));
        if over_ms > 0 {
            let retry_after_s = u64::try_from(over_ms).unwrap_or(0).div_ceil(1_000).max(1);
            return Err(TooSoon { retry_after_s });
        }
        *bucket = after;
        Ok(())
    }
}

/// One customer of a provider has a whole /64, so IPv6 counts by that.
pub fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_then_one_each_interval() {
        let throttle = Throttle::new(2, Duration::from_secs(10));
        let too_soon = |s| Err(TooSoon { retry_after_s: s });
        let table = [
            (0, Ok(())),
            (0, Ok(())),
            (0, too_soon(10)),
            (9_001, too_soon(1)),
            (10_000, Ok(())),
            (10_000, too_soon(10)),
            (100_000, Ok(())),
            (100_000, Ok(())),
            (100_000, too_soon(10)),
        ];
        for (millis, want) in table {
            assert_eq!(throttle.take(ip("192.0.2.1"), at(millis)), want, "{millis}");
        }
    }

    #[test]
    fn each_network_has_its_own_bucket() {
        let throttle = Throttle::new(1, Duration::from_secs(10));
        let table = [
            ("192.0.2.1", true),
            ("192.0.2.2", true),
            ("::ffff:192.0.2.1", false),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
            ("2001:db8:0:1::1", true),
        ];
        for (peer, want) in table {
            assert_eq!(throttle.take(ip(peer), at(0)).is_ok(), want, "{peer}");
        }
    }

    #[test]
    fn a_flood_of_addresses_fills_no_memory() {
        let throttle = Throttle::new(1, Duration::from_secs(10));
        let passed = (0..30_000u32)
            .filter(|n| throttle.take(IpAddr::V4((0x0a00_0000 + n).into()), at(0)).is_ok())
            .count();
        assert_eq!(passed, MAX_NETWORKS + 1);
        assert_eq!(throttle.full_at.lock().unwrap().len(), MAX_NETWORKS + 1);
        assert!(throttle.take(ip("192.0.2.1"), at(10_000)).is_ok());
        assert_eq!(throttle.full_at.lock().unwrap().len(), 1);
    }
}
