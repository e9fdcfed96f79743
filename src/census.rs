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

/// One that is counted; not any more when dropped.
#[derive(Debug)]
pub struct Counted<K: Eq + Hash> {
    census: Arc<Census<K>>,
    whose: K,
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
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let here = present.get(&whose).copied().unwrap_or(0);
        if here >= self.limit {
            return None;
        }
        present.insert(whose.clone(), here + 1);
        Some(Counted { census: Arc::clone(self), whose })
    }
}

impl<K: Eq + Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut present = self.census.present.lock().unwrap_or_else(PoisonError::into_inner);
        match present.get_mut(&self.whose) {
            Some(here) if *here > 1 => *here -= 1,
            _ => drop(present.remove(&self.whose)),
        }
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
