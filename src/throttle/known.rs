//! Who has signed in from where lately. Bounded for each, so that one customer who comes
//! from very many addresses takes no room from the others, and in all. A restart
//! forgets it, which costs little: until they have signed in once more, customers at an
//! address where others fail too often wait with those.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::sign_in::Name;

/// How long a username is known at an address after it signed in there.
pub(super) const KNOWN_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Addresses at which one username is known at the same time; the one that it was seen at
/// longest ago is forgotten for another.
const MAX_ADDRESSES: usize = 64;
/// Pairs of username and address that are known at the same time.
const MAX_KNOWN: usize = 50_000;

/// Who is known where, and when they were seen there last.
#[derive(Debug, Default)]
pub(super) struct Known {
    names: HashMap<Name, HashMap<IpAddr, Timestamp>>,
    pairs: usize,
}

impl Known {
    pub(super) fn has(&self, name: Name, address: IpAddr, now: Timestamp) -> bool {
        let seen = self.names.get(&name).and_then(|addresses| addresses.get(&address));
        seen.is_some_and(|seen| is_fresh(*seen, now))
    }

    /// Where there is room for no more, who is new is not taken in.
    pub(super) fn saw(&mut self, name: Name, address: IpAddr, now: Timestamp) {
        let addresses = self.names.entry(name).or_default();
        if let Some(seen) = addresses.get_mut(&address) {
            *seen = now;
            return;
        }
        if addresses.len() >= MAX_ADDRESSES {
            let oldest = addresses.iter().min_by_key(|(_, seen)| **seen).map(|(address, _)| *address);
            if oldest.and_then(|oldest| addresses.remove(&oldest)).is_some() {
                self.pairs -= 1;
            }
        }
        if self.pairs >= MAX_KNOWN {
            self.forget_old(now);
        }
        if self.pairs < MAX_KNOWN {
            self.names.entry(name).or_default().insert(address, now);
            self.pairs += 1;
        }
    }

    fn forget_old(&mut self, now: Timestamp) {
        self.names.retain(|_, addresses| {
            addresses.retain(|_, seen| is_fresh(*seen, now));
            !addresses.is_empty()
        });
        self.pairs = self.names.values().map(HashMap::len).sum();
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
        known.saw(1, address(0), at(0));
        for n in 0..100_000 {
            known.saw(2, address(n), at(i64::from(n)));
        }
        assert_eq!(known.pairs, 1 + MAX_ADDRESSES);
        assert!(known.has(1, address(0), at(100_000)));
        assert!(known.has(2, address(99_999), at(100_000)), "the latest are kept");
        assert!(!known.has(2, address(99_999 - 64), at(100_000)));
        // Seen again, and so not the one to be forgotten.
        known.saw(2, address(99_999 - 63), at(100_000));
        known.saw(2, address(7), at(100_000));
        assert!(known.has(2, address(99_999 - 63), at(100_000)));
        assert!(!known.has(2, address(99_999 - 62), at(100_000)));
    }

    #[test]
    fn there_is_an_end_to_it_until_the_old_are_forgotten() {
        let mut known = Known::default();
        let many = u64::try_from(MAX_KNOWN).unwrap();
        for name in 0..many + 10 {
            known.saw(name, address(0), at(0));
        }
        assert_eq!((known.pairs, known.names.len()), (MAX_KNOWN, MAX_KNOWN));
        assert!(known.has(0, address(0), at(1)) && !known.has(many, address(0), at(1)));
        let week = KNOWN_FOR.as_secs();
        assert!(!known.has(0, address(0), at(week)));
        known.saw(many, address(0), at(week));
        assert!(known.has(many, address(0), at(week)));
        assert_eq!((known.pairs, known.names.len()), (1, 1));
    }
}
