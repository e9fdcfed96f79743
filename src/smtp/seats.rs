//! How many sessions each customer has signed in, and that they are not too many.
//! What this must not know: what is said in them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::ids::CustomerId;

/// The seats of every customer.
#[derive(Debug)]
pub(super) struct Seats {
    limit: usize,
    taken: Mutex<HashMap<CustomerId, usize>>,
}

/// One session's; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    customer_id: CustomerId,
}

impl Seats {
    /// So many for each.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// So many for each.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// One more for this customer, if there is one.
    pub(super) fn take(self: &Arc<Self>, customer_id: &CustomerId) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let here = taken.get(customer_id).copied().unwrap_or(0);
        if here >= self.limit {
            return None;
        }
        taken.insert(customer_id.clone(), here + 1);
        Some(Seat { seats: Arc::clone(self), customer_id: customer_id.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.customer_id) {
            Some(here) if *here > 1 => *here -= 1,
            _ => drop(taken.remove(&self.customer_id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_customer_has_so_many_and_gives_them_back() {
        let seats = Seats::new(2);
        let take = |name: &str| seats.take(&CustomerId::parse(name).unwrap());
        let first = take("ann").unwrap();
        let second = take("ann").unwrap();
        assert!(take("ann").is_none());
        assert!(take("bob").is_some());
        drop(first);
        let third = take("ann").unwrap();
        assert!(take("ann").is_none());
        drop((second, third));
        assert!(seats.taken.lock().unwrap().is_empty());
    }
}
