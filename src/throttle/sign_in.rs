//! Failed sign-ins, counted across connections, over SMTP and HTTP together.
//!
//! | counted by | beyond the limit |
//! |---|---|
//! | username and address | nothing more is looked at until a failure is forgiven |
//! | address (IPv6: its /64) | the same, but not for a username that has signed in from there lately |
//! | username, from everywhere | a wrong secret waits longest for its answer; a right one never |
//!
//! So nobody can lock a customer out: not from elsewhere, since what others do to a
//! username never keeps its secret from being looked at, and not from a shared
//! address, since whoever has signed in from it is kept out by failures of their own
//! username alone. Who that is a restart forgets, and each username is known at so many
//! addresses only, which takes no room from others (`known`). That costs nothing in
//! strength: a secret has 256 random bits, and the limits are there to spare the log and
//! the processor.
//!
//! Nothing tells whether a username exists, or has signed in from an address. What is
//! not a customer's is counted like what is. A failure is answered at a time that is
//! fixed before anything is looked up; and beyond a limit what was looked at and is
//! wrong reads like what was not. Usernames are kept as keyed hashes of what was
//! presented. Attempts that run at the same moment may all pass: as many as one
//! address may have connections.
//!
//! Where several processes share a database a failure counts there, so that whichever of them
//! forgives it forgives it for all, and here for as long as it could not be told.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::known::Known;
use super::{Throttle, network_of};
use crate::config::Limits;

/// A username as it was presented, or the hash of a bearer token, hashed under a key.
pub(super) type Name = u64;

/// The key under which names are hashed: one for all who share their counts.
#[derive(Clone, Copy)]
pub struct NamesKey(pub [u8; 32]);

impl std::fmt::Debug for NamesKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NamesKey(…)")
    }
}

impl NamesKey {
    fn hash_one(self, name: impl Hash) -> Name {
        let mut hasher = Keyed(Sha256::new_with_prefix(self.0));
        name.hash(&mut hasher);
        hasher.finish()
    }
}

struct Keyed(Sha256);

impl Hasher for Keyed {
    fn write(&mut self, octets: &[u8]) {
        self.0.update(octets);
    }

    fn finish(&self) -> Name {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |name, octet| name << 8 | Name::from(*octet))
    }
}

/// A count as other processes know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Whose it is.
    pub name: String,
    /// The time in which what is counted is forgiven, in microseconds; less than none: it is forgiven now.
    pub counted_us: i64,
    /// The same where the limit is reached.
    pub limit_us: i64,
}

/// What is counted elsewhere of whoever is about to sign in: in how many microseconds it is forgiven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Elsewhere {
    pair_us: i64,
    address_us: i64,
    username_us: i64,
}

/// The counts.
#[derive(Debug)]
pub struct SignIns {
    by_pair: Throttle<(IpAddr, Name)>,
    by_address: Throttle<IpAddr>,
    by_username: Throttle<Name>,
    limits: Limits,
    names: NamesKey,
    /// Who has signed in from where, and when last.
    known: Mutex<Known>,
}

/// A sign-in that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    address: IpAddr,
    name: Name,
    /// Failures of this username and address that are counted elsewhere.
    slips_elsewhere: u32,
    /// Whether the secret is to be looked at. If not, it is taken to be wrong.
    pub is_looked_at: bool,
    /// Whether what is wrong is told to come later, looked at or not.
    pub is_put_off: bool,
    /// After this time from its beginning what is wrong is answered.
    pub answer_after: Duration,
}

impl SignIns {
    /// Nobody has failed yet.
    pub fn new(limits: &Limits, names: NamesKey) -> Self {
        let each = Duration::from_secs(limits.sign_in_forgive_s);
        Self {
            by_pair: Throttle::new(limits.sign_in_failures, each),
            by_address: Throttle::new(limits.sign_in_failures_per_address, each),
            by_username: Throttle::new(limits.sign_in_failures_per_username, each),
            limits: limits.clone(),
            names,
            known: Mutex::default(),
        }
    }

    /// Somebody is about to sign in from there, as whom is said by a username or a token.
    pub fn begin(&self, peer: IpAddr, name: impl Hash, elsewhere: Elsewhere, now: Timestamp) -> Attempt {
        let (address, name) = (network_of(peer), self.names.hash_one(name));
        let pair = (address, name);
        let is_known = self.known().has(name, address, now);
        let Elsewhere { pair_us, address_us, username_us } = elsewhere;
        let is_pair_over = self.by_pair.check_with(&pair, pair_us, now).is_err();
        let is_address_over = self.by_address.check_with(&address, address_us, now).is_err();
        let limits = &self.limits;
        let failures = [
            (self.by_pair.taken_with(&pair, pair_us, now), limits.sign_in_failures),
            (self.by_address.taken_with(&address, address_us, now), limits.sign_in_failures_per_address),
            (self.by_username.taken_with(&name, username_us, now), limits.sign_in_failures_per_username),
        ];
        let waits = failures.map(|(failures, limit)| self.wait(failures, limit));
        Attempt {
            address,
            name,
            slips_elsewhere: self.by_pair.count(pair_us),
            is_looked_at: !is_pair_over && (is_known || !is_address_over),
            is_put_off: is_pair_over || is_address_over,
            answer_after: waits.into_iter().max().unwrap_or_default(),
        }
    }

    /// What is counted elsewhere too, of whoever is about to sign in.
    pub fn counts_of(&self, peer: IpAddr, name: impl Hash) -> [String; 3] {
        names_of(network_of(peer), self.names.hash_one(name))
    }

    /// What was counted elsewhere: of whom, and when all of it will be forgiven.
    pub fn hear(
        &self,
        peer: IpAddr,
        name: impl Hash,
        counted: &[(String, Timestamp)],
        now: Timestamp,
    ) -> Elsewhere {
        let names = names_of(network_of(peer), self.names.hash_one(name));
        let [pair_us, address_us, username_us] = names.map(|name| {
            let forgiven_at =
                counted.iter().find(|(whose, _)| *whose == name).map(|(_, at)| at.as_microsecond());
            forgiven_at.map_or(0, |at| at.saturating_sub(now.as_microsecond()).max(0))
        });
        Elsewhere { pair_us, address_us, username_us }
    }

    /// What others are to count for a failure.
    pub fn failure(&self, attempt: &Attempt) -> Vec<Count> {
        self.counts(attempt, [1, 1, 1])
    }

    /// When who is put off may come again, in seconds: one time for all, so that it
    /// does not tell which limit was reached.
    pub fn retry_after_s(&self) -> u64 {
        self.limits.sign_in_forgive_s
    }

    /// What was looked at was wrong.
    pub fn failed(&self, attempt: &Attempt, now: Timestamp) {
        // Where a limit is reached there is nothing left to take, and it stays reached.
        let _ = self.by_address.take(attempt.address, now);
        let _ = self.by_pair.take((attempt.address, attempt.name), now);
        let _ = self.by_username.take(attempt.name, now);
    }

    /// A failure is counted elsewhere, and so not here any more.
    pub fn told(&self, attempt: &Attempt) {
        self.by_address.put_back(&attempt.address, 1);
        self.by_pair.put_back(&(attempt.address, attempt.name), 1);
        self.by_username.put_back(&attempt.name, 1);
    }

    /// It succeeded, and was this customer's: what went wrong before was a slip. Returns
    /// what others are to forgive too.
    pub fn succeeded(&self, attempt: &Attempt, whose: impl Hash, now: Timestamp) -> Vec<Count> {
        let pair = (attempt.address, attempt.name);
        let slips = self.by_pair.taken(&pair, now);
        self.by_pair.put_back(&pair, slips);
        self.by_address.put_back(&attempt.address, slips);
        self.known().saw(self.names.hash_one(whose), attempt.name, attempt.address, now);
        let forgiven = -i64::from(attempt.slips_elsewhere);
        self.counts(attempt, [forgiven, forgiven, 0])
    }

    fn counts(&self, attempt: &Attempt, counted: [i64; 3]) -> Vec<Count> {
        let refills =
            [self.by_pair.refills_us(), self.by_address.refills_us(), self.by_username.refills_us()];
        let names = names_of(attempt.address, attempt.name);
        let count = |((name, counted), (each_us, limit_us)): ((String, i64), (i64, i64))| Count {
            name,
            counted_us: each_us.saturating_mul(counted),
            limit_us,
        };
        names.into_iter().zip(counted).zip(refills).map(count).filter(|count| count.counted_us != 0).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With the square of the failures: a slip costs next to nothing.
    fn wait(&self, failures: u32, limit: u32) -> Duration {
        let longest_ms = self.limits.sign_in_max_delay_s.saturating_mul(1_000);
        let (nth, limit) = (u64::from(failures).saturating_add(1), u64::from(limit.max(1)));
        let grown_ms = longest_ms.saturating_mul(nth.saturating_mul(nth)) / limit.saturating_mul(limit);
        Duration::from_millis(grown_ms.min(longest_ms))
    }
}

fn names_of(address: IpAddr, name: Name) -> [String; 3] {
    [format!("sign-in {address} {name:016x}"), format!("sign-in {address}"), format!("sign-in {name:016x}")]
}

#[cfg(test)]
mod tests {
    use super::super::known::KNOWN_FOR;
    use super::*;

    const HERE: &str = "192.0.2.1";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn sign_ins() -> SignIns {
        SignIns::new(
            &Limits {
                sign_in_failures: 3,
                sign_in_failures_per_address: 6,
                sign_in_failures_per_username: 8,
                sign_in_forgive_s: 60,
                sign_in_max_delay_s: 9,
                ..Limits::default()
            },
            NamesKey([7; 32]),
        )
    }

    /// It was not looked at.
    #[derive(Debug, PartialEq, Eq)]
    struct PutOff;

    impl SignIns {
        fn attempt(&self, peer: &str, username: &str, now: Timestamp) -> Attempt {
            self.begin(peer.parse().unwrap(), username, Elsewhere::default(), now)
        }

        /// A wrong secret: how long it waits for its answer, in milliseconds.
        fn wrong(&self, peer: &str, username: &str, now: Timestamp) -> Result<u128, PutOff> {
            let attempt = self.attempt(peer, username, now);
            if attempt.is_looked_at {
                self.failed(&attempt, now);
            }
            if attempt.is_put_off { Err(PutOff) } else { Ok(attempt.answer_after.as_millis()) }
        }

        fn right(&self, peer: &str, username: &str, now: Timestamp) -> Result<(), PutOff> {
            let attempt = self.attempt(peer, username, now);
            if !attempt.is_looked_at {
                return Err(PutOff);
            }
            self.succeeded(&attempt, username, now);
            Ok(())
        }
    }

    #[test]
    fn each_failure_waits_longer_and_then_nothing_is_looked_at_for_a_while() {
        let sign_ins = sign_ins();
        let table = [
            (0, Ok(1_000)),
            (0, Ok(4_000)),
            (0, Ok(9_000)),
            (0, Err(PutOff)),
            (59, Err(PutOff)),
            (60, Ok(9_000)),
            (60, Err(PutOff)),
            (1_000, Ok(1_000)),
        ];
        for (second, want) in table {
            assert_eq!(sign_ins.wrong(HERE, "ann", at(second)), want, "{second}");
        }
        assert_eq!(sign_ins.retry_after_s(), 60);
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
        assert_eq!(sign_ins.wrong("2001:db8::4", "user7", at(0)), Err(PutOff));
        let token = sign_ins.begin("2001:db8::5".parse().unwrap(), (), Elsewhere::default(), at(0));
        assert!(!token.is_looked_at, "nor is a token that was never right here");
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
    fn nothing_tells_who_has_signed_in_from_a_shared_address() {
        let sign_ins = sign_ins();
        assert_eq!(sign_ins.right(HERE, "ann", at(0)), Ok(()));
        let told = |name: &str| {
            let attempt = sign_ins.attempt(HERE, name, at(1));
            if attempt.is_looked_at {
                sign_ins.failed(&attempt, at(1));
            }
            (attempt.is_put_off, attempt.answer_after)
        };
        for n in 0..5 {
            // Turn by turn, from nothing to beyond every limit; each name for the first time.
            let (ann, nobody) =
                (sign_ins.attempt(HERE, "ann", at(1)), sign_ins.attempt(HERE, "nobody", at(1)));
            assert_eq!((ann.is_put_off, ann.answer_after), (nobody.is_put_off, nobody.answer_after), "{n}");
            told(&format!("user{n}"));
        }
        let mut seen = Vec::new();
        for name in ["ann", "nobody"] {
            seen.push((0..9).map(|_| told(name)).skip(1).collect::<Vec<_>>());
        }
        assert_eq!(seen[0].last(), seen[1].last());
        assert!(seen.iter().flatten().all(|(is_put_off, _)| *is_put_off), "{seen:?}");
        assert!(seen.iter().flatten().all(|(_, after)| *after == Duration::from_secs(9)), "{seen:?}");
    }

    #[test]
    fn a_token_that_was_right_at_an_address_is_looked_at_there_whatever_others_do() {
        let sign_ins = sign_ins();
        let here: IpAddr = HERE.parse().unwrap();
        let token = ("token", [7; 32]);
        sign_ins.succeeded(&sign_ins.begin(here, token, Elsewhere::default(), at(0)), "cus_1", at(0));
        for n in 0..20 {
            let attempt = sign_ins.begin(here, ("token", [n + 10; 32]), Elsewhere::default(), at(1));
            sign_ins.failed(&attempt, at(1));
        }
        assert!(!sign_ins.begin(here, ("token", [8; 32]), Elsewhere::default(), at(1)).is_looked_at);
        assert!(sign_ins.begin(here, token, Elsewhere::default(), at(1)).is_looked_at);
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
            let attempt = sign_ins.begin(peer, format!("user{n}"), Elsewhere::default(), at(0));
            sign_ins.failed(&attempt, at(0));
        }
        assert_eq!(sign_ins.right(HERE, "ann", at(0)), Ok(()));
        assert_eq!(sign_ins.wrong("203.0.113.1", "bob", at(0)), Ok(9_000), "failing waits longest meanwhile");
    }
}
