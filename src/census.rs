//! How many of something each somebody has at the same time, and that they are not
//! too many. What this must not know: who they are, and what they have.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Who has how many.
#[derive(Debug)]
pub struct Census<K: Eq + Hash> {
    limit: usize,
    present: Mutex<HashMap<K, usize>>,
}

/// Some that are counted; not any more when dropped.
#[derive(Debug)]
pub struct Counted<K: Eq + Hash> {
    census: Arc<Census<K>>,
    whose: K,
    number: usize,
}

impl<K: Eq + Hash + Clone> Census<K> {
    /// At most so many for each.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, present: Mutex::default() })
    }

    /// How many each may have.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Counts one more; `None`: they have as many as they may.
    pub fn count(self: &Arc<Self>, whose: K) -> Option<Counted<K>> {
        let mut counted = self.none(whose);
        counted.add(1).then_some(counted)
    }

    /// None yet, of which there may be some later.
    pub fn none(self: &Arc<Self>, whose: K) -> Counted<K> {
        Counted { census: Arc::clone(self), whose, number: 0 }
    }
}

impl<K: Eq + Hash + Clone> Counted<K> {
    /// Counts so many more; `false`: that would be more than they may have, and it is as it was.
    pub fn add(&mut self, more: usize) -> bool {
        let mut present = self.census.present.lock().unwrap_or_else(PoisonError::into_inner);
        let here = present.get(&self.whose).copied().unwrap_or(0);
        let Some(sum) = here.checked_add(more).filter(|sum| *sum <= self.census.limit) else { return false };
        match present.get_mut(&self.whose) {
            Some(here) => *here = sum,
            None if sum > 0 => drop(present.insert(self.whose.clone(), sum)),
            None => {}
        }
        self.number += more;
        true
    }
}

impl<K: Eq + Hash> Counted<K> {
    /// Whose they are.
    pub fn whose(&self) -> &K {
        &self.whose
    }

    /// How many each may have.
    pub fn limit(&self) -> usize {
        self.census.limit
    }

    /// How many they are.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Counts so many fewer, of those that it has.
    pub fn take_off(&mut self, fewer: usize) {
        let fewer = fewer.min(self.number);
        self.number -= fewer;
        let mut present = self.census.present.lock().unwrap_or_else(PoisonError::into_inner);
        match present.get_mut(&self.whose) {
            Some(here) if *here > fewer => *here -= fewer,
            _ => drop(present.remove(&self.whose)),
        }
    }
}

impl<K: Eq + Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        self.take_off(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::CustomerId;
    use crate::throttle::network_of;

    #[test]
    fn connections_are_counted_by_network() {
        let census = Census::new(2);
        let count = |ip: &str| census.count(network_of(ip.parse().unwrap()));
        let first = count("192.0.2.1").unwrap();
        let second = count("::ffff:192.0.2.1").unwrap();
        assert!(count("192.0.2.1").is_none());
        let third = count("2001:db8::1").unwrap();
        let fourth = count("2001:db8::2").unwrap();
        assert!(count("2001:db8::3").is_none());
        assert!(count("2001:db8:0:1::1").is_some());
        drop(first);
        assert!(count("192.0.2.1").is_some());
        drop((second, third, fourth));
        assert!(census.present.lock().unwrap().is_empty(), "nobody is remembered");
    }

    #[test]
    fn some_are_counted_together_and_only_as_many_as_fit() {
        let census = Census::new(10);
        let (mut one, mut two, mut other) = (census.none("ann"), census.none("ann"), census.none("bob"));
        // Whose, how many more, and whether that fits.
        for (whose, more, want) in [(1, 6, true), (2, 5, false), (2, 4, true), (1, 1, false), (3, 10, true)] {
            let counted = [&mut one, &mut two, &mut other].into_iter().nth(whose - 1).unwrap();
            assert_eq!(counted.add(more), want, "{whose} {more}");
        }
        two.take_off(9);
        assert!(!one.add(5), "it had four");
        assert!(one.add(4) && !one.add(usize::MAX));
        drop((one, two));
        assert_eq!(census.present.lock().unwrap().len(), 1);
        drop(other);
        assert!(census.present.lock().unwrap().is_empty(), "nobody is remembered");
    }

    #[test]
    fn each_customer_has_so_many_and_gives_them_back() {
        let seats = Census::new(2);
        let take = |name: &str| seats.count(CustomerId::parse(name).unwrap());
        let first = take("ann").unwrap();
        let second = take("ann").unwrap();
        assert!(take("ann").is_none());
        assert!(take("bob").is_some());
        drop(first);
        let third = take("ann").unwrap();
        assert!(take("ann").is_none());
        drop((second, third));
        assert!(seats.present.lock().unwrap().is_empty());
    }
}
