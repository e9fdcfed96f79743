//! Who has signed in from where lately. Bounded for each username and for each customer,
//! so that one who comes from very many addresses, or with very many credentials, takes
//! no room from the others, and in all. A restart forgets it, which costs little: until
//! they have signed in once more, customers at an address where others fail too often
//! wait with those.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::sign_in::Name;

/// How long a username is known at an address after it signed in there.
pub(super) const KNOWN_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Addresses at which one username is known at the same time; the one that it was seen at
/// longest ago is forgotten for another.
const MAX_ADDRESSES: usize = 64;
/// The same of pairs of username and address, of one customer.
const MAX_OF_CUSTOMER: usize = 1_000;
/// Pairs that are known at the same time, of all customers.
const MAX_KNOWN: usize = 50_000;
/// Where there is room for no more, old pairs are looked for at most so often: that goes
/// through all customers.
const SWEEP_INTERVAL: SignedDuration = SignedDuration::from_secs(1);

/// A customer, by the keyed hash of its id.
pub(super) type Whose = u64;

/// A pair, in the order in which they were seen.
type Pair = (Timestamp, Name, IpAddr);

/// Who is known where, and when they were seen there last.
#[derive(Debug, Default)]
pub(super) struct Known {
    names: HashMap<Name, HashMap<IpAddr, Timestamp>>,
    /// The same pairs, by customer and age.
    customers: HashMap<Whose, BTreeSet<Pair>>,
    pairs: usize,
    swept_at: Timestamp,
}

impl Known {
    pub(super) fn has(&self, name: Name, address: IpAddr, now: Timestamp) -> bool {
        let seen = self.names.get(&name).and_then(|addresses| addresses.get(&address));
        seen.is_some_and(|seen| is_fresh(*seen, now))
    }

    /// Where there is room for no more, who is new is not taken in. A username is one customer's.
    pub(super) fn saw(&mut self, whose: Whose, name: Name, address: IpAddr, now: Timestamp) {
        if let Some(pair) = self.goes_for(name, address) {
            self.forget(whose, pair);
        }
        let theirs = self.customers.get(&whose).filter(|pairs| pairs.len() >= MAX_OF_CUSTOMER);
        if let Some(oldest) = theirs.and_then(BTreeSet::first).copied() {
            self.forget(whose, oldest);
        }
        if self.pairs >= MAX_KNOWN && now.duration_since(self.swept_at) >= SWEEP_INTERVAL {
            self.swept_at = now;
            self.forget_old(now);
        }
        if self.pairs < MAX_KNOWN && self.customers.entry(whose).or_default().insert((now, name, address)) {
            self.names.entry(name).or_default().insert(address, now);
            self.pairs += 1;
        }
    }

    /// Which pair of a username makes room for one with this address: the same, or the oldest
    /// where there are enough.
    fn goes_for(&self, name: Name, address: IpAddr) -> Option<Pair> {
        let addresses = self.names.get(&name)?;
        if let Some(seen) = addresses.get(&address) {
            return Some((*seen, name, address));
        }
        let oldest = addresses.iter().min_by_key(|(_, seen)| **seen);
        oldest.filter(|_| addresses.len() >= MAX_ADDRESSES).map(|(address, seen)| (*seen, name, *address))
    }

    fn forget_old(&mut self, now: Timestamp) {
        let first =
            |pairs: &BTreeSet<Pair>| pairs.first().copied().filter(|(seen, ..)| !is_fresh(*seen, now));
        let old = |(whose, pairs): (&Whose, &BTreeSet<Pair>)| first(pairs).map(|_| *whose);
        for whose in self.customers.iter().filter_map(old).collect::<Vec<_>>() {
            while let Some(pair) = self.customers.get(&whose).and_then(first) {
                self.forget(whose, pair);
            }
        }
    }

    fn forget(&mut self, whose: Whose, pair: Pair) {
        let (_, name, address) = pair;
        let Some(pairs) = self.customers.get_mut(&whose) else { return };
        if !pairs.remove(&pair) {
            return;
        }
        self.pairs -= 1;
        if pairs.is_empty() {
            self.customers.remove(&whose);
        }
        if let Some(addresses) = self.names.get_mut(&name) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.names.remove(&name);
            }
        }
    }
}

fn is_fresh(seen: Timestamp, now: Timestamp) -> bool {
    now.duration_since(seen) < KNOWN_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + n).into())
    }

    #[test]
    fn who_comes_from_very_many_addresses_takes_no_room_from_others() {
        let mut known = Known::default();
        known.saw(1, 1, address(0), at(0));
        for n in 0..100_000 {
            known.saw(2, 2, address(n), at(i64::from(n)));
        }
        assert_eq!(known.pairs, 1 + MAX_ADDRESSES);
        assert!(known.has(1, address(0), at(100_000)));
        assert!(known.has(2, address(99_999), at(100_000)), "the latest are kept");
        assert!(!known.has(2, address(99_999 - 64), at(100_000)));
        // Seen again, and so not the one to be forgotten.
        known.saw(2, 2, address(99_999 - 63), at(100_000));
        known.saw(2, 2, address(7), at(100_000));
        assert!(known.has(2, address(99_999 - 63), at(100_000)));
        assert!(!known.has(2, address(99_999 - 62), at(100_000)));
    }

    #[test]
    fn who_comes_with_very_many_credentials_takes_no_room_from_others() {
        let mut known = Known::default();
        known.saw(1, 1, address(0), at(0));
        for n in 0..60_000 {
            known.saw(2, 2 + u64::from(n % 400), address(n / 400), at(i64::from(n)));
        }
        assert_eq!(known.pairs, 1 + MAX_OF_CUSTOMER);
        assert_eq!(known.customers.values().map(BTreeSet::len).sum::<usize>(), known.pairs);
        assert_eq!(known.names.values().map(HashMap::len).sum::<usize>(), known.pairs);
        assert!(known.has(1, address(0), at(60_000)));
        let at_last = |n: u32| known.has(2 + u64::from(n % 400), address(n / 400), at(60_000));
        assert!(at_last(59_000) && !at_last(58_999), "the latest are kept");
    }

    #[test]
    fn the_old_are_looked_for_at_most_once_a_second() {
        let mut known = Known::default();
        for name in 0..u64::try_from(MAX_KNOWN).unwrap() {
            known.saw(name, name, address(0), at(i64::from(name > 0)));
        }
        let week = KNOWN_FOR.as_secs();
        known.saw(77_777, 77_777, address(0), at(week - 1));
        assert_eq!((known.pairs, known.swept_at), (MAX_KNOWN, at(week - 1)));
        known.saw(77_778, 77_778, address(0), at(week));
        assert!(known.has(77_778, address(0), at(week)), "the first was old");
        let half = at(week + 1) - SignedDuration::from_millis(500);
        known.saw(77_779, 77_779, address(0), half);
        assert!(!known.has(77_779, address(0), half), "not so soon again");
        known.saw(77_779, 77_779, address(0), at(week + 1));
        assert_eq!((known.pairs, known.customers.len(), known.names.len()), (2, 2, 2));
    }

    #[test]
    fn there_is_an_end_to_it_until_the_old_are_forgotten() {
        let mut known = Known::default();
        let many = u64::try_from(MAX_KNOWN).unwrap();
        for name in 0..many + 10 {
            known.saw(name, name, address(0), at(0));
        }
        assert_eq!((known.pairs, known.names.len()), (MAX_KNOWN, MAX_KNOWN));
        assert!(known.has(0, address(0), at(1)) && !known.has(many, address(0), at(1)));
        let week = KNOWN_FOR.as_secs();
        assert!(!known.has(0, address(0), at(week)));
        known.saw(many, many, address(0), at(week));
        assert!(known.has(many, address(0), at(week)));
        assert_eq!((known.pairs, known.names.len()), (1, 1));
    }
}
