//! Failed sign-ins, counted across connections, over SMTP and HTTP together.
//!
//! | counted by | beyond the limit |
//! |---|---|
//! | username and address | nothing more is checked until a failure is forgiven |
//! | address (IPv6: its /64) | the same, but not for a username that has signed in from there lately |
//! | username, from everywhere | a wrong secret waits longest for its answer; a right one never |
//!
//! So nobody can lock a customer out: not from elsewhere, since what others do to a
//! username never keeps its secret from being looked at, and not from a shared
//! address, since whoever has signed in from it is judged by their own failures
//! alone. That costs nothing in strength: a secret has 256 random bits, and the
//! limits are there to spare the log and the processor.
//!
//! A failure is answered at a time that is fixed before anything is looked up, later
//! with each failure, so that the wait tells nothing about the username. What is not
//! a customer's is counted like what is. Usernames are kept as keyed hashes of what
//! was presented. Attempts that run at the same moment may all pass: as many as one
//! address may have connections.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Throttle, TooSoon, network_of};
use crate::config::Limits;

/// How long a username is known at an address after it signed in there.
const KNOWN_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Pairs of username and address that are known at the same time.
const MAX_KNOWN: usize = 50_000;

/// A username as it was presented, hashed under a key of this process.
type Name = u64;

/// The counts.
#[derive(Debug)]
pub struct SignIns {
    by_pair: Throttle<(IpAddr, Name)>,
    by_address: Throttle<IpAddr>,
    by_username: Throttle<Name>,
    limits: Limits,
    names: RandomState,
    /// Who has signed in from where, and when last.
    known: Mutex<HashMap<(IpAddr, Name), Timestamp>>,
}

/// A sign-in that may be checked.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    address: IpAddr,
    /// A bearer token comes without one.
    username: Option<Name>,
    /// After this time from its beginning a failure is answered.
    pub answer_after: Duration,
}

impl SignIns {
    /// Nobody has failed yet.
    pub fn new(limits: &Limits) -> Self {
        let each = Duration::from_secs(limits.sign_in_forgive_s);
        Self {
            by_pair: Throttle::new(limits.sign_in_failures, each),
            by_address: Throttle::new(limits.sign_in_failures_per_address, each),
            by_username: Throttle::new(limits.sign_in_failures_per_username, each),
            limits: limits.clone(),
            names: RandomState::new(),
            known: Mutex::default(),
        }
    }

    /// Whether a sign-in from there may be checked now, and when it is worth another try.
    pub fn begin(&self, peer: IpAddr, username: Option<&str>, now: Timestamp) -> Result<Attempt, TooSoon> {
        let address = network_of(peer);
        let username = username.map(|name| self.names.hash_one(name));
        let pair = username.map(|name| (address, name));
        let is_known = pair.is_some_and(|pair| self.is_known(&pair, now));
        let limits = &self.limits;
        let mut answer_after = Duration::ZERO;
        if let Some(pair) = pair {
            self.by_pair.check(&pair, now)?;
            answer_after = self.wait(self.by_pair.taken(&pair, now), limits.sign_in_failures);
        }
        if !is_known {
            self.by_address.check(&address, now)?;
            let failures = self.by_address.taken(&address, now);
            answer_after = answer_after.max(self.wait(failures, limits.sign_in_failures_per_address));
            let failures = username.map_or(0, |name| self.by_username.taken(&name, now));
            answer_after = answer_after.max(self.wait(failures, limits.sign_in_failures_per_username));
        }
        Ok(Attempt { address, username, answer_after })
    }

    /// It failed. Who is known there brings nobody else into disrepute.
    pub fn failed(&self, attempt: &Attempt, now: Timestamp) {
        // Nothing is left to take where the limit is reached, which is what is to be kept.
        let pair = attempt.username.map(|name| (attempt.address, name));
        if let Some(pair) = pair {
            let _ = self.by_pair.take(pair, now);
        }
        if !pair.is_some_and(|pair| self.is_known(&pair, now)) {
            let _ = self.by_address.take(attempt.address, now);
        }
        if let Some(name) = attempt.username {
            let _ = self.by_username.take(name, now);
        }
    }

    /// It succeeded: what went wrong before was a slip. A bearer token clears nothing,
    /// since it says nothing about the next one.
    pub fn succeeded(&self, attempt: &Attempt, now: Timestamp) {
        let Some(pair) = attempt.username.map(|name| (attempt.address, name)) else { return };
        self.by_pair.refill(&pair);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN && !known.contains_key(&pair) {
            known.retain(|_, seen| is_fresh(*seen, now));
            if known.len() >= MAX_KNOWN {
                return;
            }
        }
        known.insert(pair, now);
    }

    fn is_known(&self, pair: &(IpAddr, Name), now: Timestamp) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(pair).is_some_and(|seen| is_fresh(*seen, now))
    }

    /// With the square of the failures: a slip costs next to nothing.
    fn wait(&self, failures: u32, limit: u32) -> Duration {
        let longest_ms = self.limits.sign_in_max_delay_s.saturating_mul(1_000);
        let (nth, limit) = (u64::from(failures).saturating_add(1), u64::from(limit.max(1)));
        let grown_ms = longest_ms.saturating_mul(nth.saturating_mul(nth)) / limit.saturating_mul(limit);
        Duration::from_millis(grown_ms.min(longest_ms))
    }
}

fn is_fresh(seen: Timestamp, now: Timestamp) -> bool {
    now.duration_since(seen) < KNOWN_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "192.0.2.1";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn sign_ins() -> SignIns {
        SignIns::new(&Limits {
            sign_in_failures: 3,
            sign_in_failures_per_address: 6,
            sign_in_failures_per_username: 8,
            sign_in_forgive_s: 60,
            sign_in_max_delay_s: 9,
            ..Limits::default()
        })
    }

    impl SignIns {
        fn try_from(&self, peer: &str, username: &str, now: Timestamp) -> Result<Attempt, TooSoon> {
            self.begin(peer.parse().unwrap(), Some(username), now)
        }

        /// A wrong secret: how long it waits for its answer in milliseconds, or for the next try in seconds.
        fn wrong(&self, peer: &str, username: &str, now: Timestamp) -> Result<u128, u64> {
            let attempt = self.try_from(peer, username, now).map_err(|too_soon| too_soon.retry_after_s)?;
            self.failed(&attempt, now);
            Ok(attempt.answer_after.as_millis())
        }

        fn right(&self, peer: &str, username: &str, now: Timestamp) -> Result<(), TooSoon> {
            let attempt = self.try_from(peer, username, now)?;
            self.succeeded(&attempt, now);
            Ok(())
        }
    }

    #[test]
    fn each_failure_waits_longer_and_then_nothing_is_checked_for_a_while() {
        let sign_ins = sign_ins();
        let table = [
            (0, Ok(1_000)),
            (0, Ok(4_000)),
            (0, Ok(9_000)),
            (0, Err(60)),
            (59, Err(1)),
            (60, Ok(9_000)),
            (60, Err(60)),
            (1_000, Ok(1_000)),
        ];
        for (second, want) in table {
            assert_eq!(sign_ins.wrong(HERE, "ann", at(second)), want, "{second}");
        }
    }

    #[test]
    fn a_success_makes_up_for_slips() {
        let sign_ins = sign_ins();
        for _ in 0..20 {
            assert!(sign_ins.wrong(HERE, "ann", at(0)).is_ok());
            assert!(sign_ins.wrong(HERE, "ann", at(0)).is_ok());
            assert_eq!(sign_ins.right(HERE, "ann", at(0)), Ok(()));
        }
    }

    #[test]
    fn an_address_is_refused_whatever_it_calls_itself() {
        let sign_ins = sign_ins();
        let hosts = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];
        let named = (0..6).map(|n| sign_ins.wrong(hosts[n % 3], &format!("user{n}"), at(0)));
        assert!(named.collect::<Vec<_>>().iter().all(Result::is_ok));
        assert_eq!(sign_ins.wrong("2001:db8::4", "user7", at(0)), Err(60));
        let token = sign_ins.begin("2001:db8::5".parse().unwrap(), None, at(0));
        assert!(token.is_err(), "nor is a token looked at");
        assert!(sign_ins.wrong("2001:db8:0:1::1", "user7", at(0)).is_ok());
    }

    #[test]
    fn nobody_is_locked_out_from_elsewhere() {
        let sign_ins = sign_ins();
        for n in 0..200 {
            let _ = sign_ins.wrong(&format!("198.51.100.{n}"), "ann", at(0));
        }
        assert_eq!(sign_ins.wrong("203.0.113.1", "ann", at(0)), Ok(9_000), "a wrong secret waits longest");
        assert_eq!(sign_ins.right(HERE, "ann", at(0)), Ok(()), "from an address never seen before");
        assert_eq!(sign_ins.wrong(HERE, "ann", at(0)), Ok(1_000), "where ann is known, her own slips count");
    }

    #[test]
    fn whoever_signed_in_from_a_shared_address_is_not_locked_out_there() {
        let sign_ins = sign_ins();
        assert_eq!(sign_ins.right(HERE, "ann", at(0)), Ok(()));
        for n in 0..9 {
            let _ = sign_ins.wrong(HERE, &format!("user{n}"), at(1));
        }
        assert!(sign_ins.right(HERE, "bob", at(1)).is_err());
        assert_eq!(sign_ins.right(HERE, "ann", at(1)), Ok(()));
        let week = KNOWN_FOR.as_secs();
        for n in 0..9 {
            let _ = sign_ins.wrong(HERE, &format!("user{n}"), at(1 + week));
        }
        assert!(sign_ins.right(HERE, "ann", at(1 + week)).is_err(), "not for ever");
    }

    #[test]
    fn a_broken_app_does_not_lock_out_its_neighbours() {
        let sign_ins = sign_ins();
        assert_eq!(sign_ins.right(HERE, "old", at(0)), Ok(()));
        for _ in 0..100 {
            let _ = sign_ins.wrong(HERE, "old", at(1));
        }
        assert!(sign_ins.wrong(HERE, "old", at(1)).is_err());
        assert_eq!(sign_ins.right(HERE, "new", at(1)), Ok(()));
    }

    #[test]
    fn a_flood_of_addresses_and_names_keeps_nobody_out() {
        let sign_ins = sign_ins();
        for n in 0..40_000u32 {
            let peer = IpAddr::V4((0x0a00_0000 + n).into());
            let attempt = sign_ins.begin(peer, Some(&format!("user{n}")), at(0)).unwrap();
            sign_ins.failed(&attempt, at(0));
        }
        assert_eq!(sign_ins.right(HERE, "ann", at(0)), Ok(()));
        assert_eq!(sign_ins.wrong("203.0.113.1", "bob", at(0)), Ok(9_000), "failing waits longest meanwhile");
    }
}
