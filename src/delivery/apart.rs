//! Whose mail has no company but its own for a while. Pure: the time is an argument.
//!
//! Resend takes or refuses a call as a whole, so mail that it refuses, or fails at, costs
//! those who leave with it. Once it is known whose it was, that customer's mail leaves in
//! calls of its own, and costs nobody else anything.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::{BatchId, CustomerId};

/// How long a customer's mail stays apart after the last reason for it.
const WHILE: Duration = Duration::from_secs(600);
/// Customers of whom it is known at most; whoever has been apart for the longest makes room.
const MOST_KNOWN: usize = 10_000;

/// The customers whose mail leaves apart.
#[derive(Debug, Default)]
pub(super) struct Apart(BTreeMap<CustomerId, Stay>);

#[derive(Debug)]
struct Stay {
    until: Instant,
    /// The call at which Resend failed; `None`: their own mail was refused.
    failed: Option<BatchId>,
}

impl Apart {
    /// Resend refused a call with no mail but theirs.
    pub(super) fn refused(&mut self, customer: &CustomerId, now: Instant) {
        self.stay(customer, None, now);
    }

    /// Resend failed at a call with theirs in it; it may be anybody's fault.
    pub(super) fn failed(&mut self, customer: &CustomerId, call: &BatchId, now: Instant) {
        if self.0.get(customer).is_none_or(|stay| stay.failed.is_some()) {
            self.stay(customer, Some(call.clone()), now);
        }
    }

    /// That call was taken after all: nothing was wrong with it.
    pub(super) fn taken(&mut self, call: &BatchId) {
        self.0.retain(|_, stay| stay.failed.as_ref() != Some(call));
    }

    /// Forgets those whose time is over.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, stay| stay.until > now);
    }

    /// Whether this customer's mail leaves apart.
    pub(super) fn has(&self, customer: &CustomerId) -> bool {
        self.0.contains_key(customer)
    }

    fn stay(&mut self, customer: &CustomerId, failed: Option<BatchId>, now: Instant) {
        self.0.insert(customer.clone(), Stay { until: now + WHILE, failed });
        if self.0.len() > MOST_KNOWN {
            let longest = self.0.iter().min_by_key(|(_, stay)| stay.until);
            if let Some(longest) = longest.map(|(customer, _)| customer.clone()) {
                self.0.remove(&longest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(name: &str) -> CustomerId {
        CustomerId::parse(name).unwrap()
    }

    #[test]
    fn they_are_apart_for_ten_minutes_after_the_last_reason() {
        let (mut apart, now) = (Apart::default(), Instant::now());
        apart.refused(&customer("ann"), now);
        apart.refused(&customer("ann"), now + WHILE / 2);
        apart.refused(&customer("bob"), now);
        apart.forget(now + WHILE);
        assert!(apart.has(&customer("ann")) && !apart.has(&customer("bob")));
        apart.forget(now + WHILE * 3 / 2);
        assert!(!apart.has(&customer("ann")));
    }

    #[test]
    fn a_call_that_is_taken_after_all_proves_nothing_against_anyone() {
        let (mut apart, now) = (Apart::default(), Instant::now());
        let (one, other) = (BatchId::parse("b_1").unwrap(), BatchId::parse("b_2").unwrap());
        apart.failed(&customer("ann"), &one, now);
        apart.failed(&customer("bob"), &other, now);
        apart.refused(&customer("cid"), now);
        apart.failed(&customer("cid"), &one, now);
        apart.taken(&one);
        let left = ["ann", "bob", "cid"].map(|name| apart.has(&customer(name)));
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn there_is_an_end_to_how_many_are_known() {
        let (mut apart, now) = (Apart::default(), Instant::now());
        for nth in 0..=MOST_KNOWN {
            let later = Duration::from_millis(u64::try_from(nth).unwrap());
            apart.refused(&customer(&format!("c{nth}")), now + later);
        }
        assert_eq!((apart.0.len(), apart.has(&customer("c0"))), (MOST_KNOWN, false));
    }
}
