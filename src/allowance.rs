//! How much room the messages that are not accepted yet may take: of all customers
//! together, and of each. There is one such room in memory and one on disk.
//!
//! A [`Claim`] grows before octets are kept, never after, so nothing is there uncounted.
//! It never waits to grow: whoever is kept waiting holds what it has, and two such could
//! wait for each other for ever; a client is refused for now instead. It ends with what
//! it was for, which [`smtp`](crate::smtp), [`http`](crate::http) and
//! [`store`](crate::store) each know of theirs. What this must not know: what a message is.
//!
//! On disk a claim ends when the spool is a message's, which was paid for, or when the
//! writer has committed that the last of it is gone. A spool that is given up takes its
//! claim along into the line of what leaves (`store::leftovers`); that line loses nobody,
//! and what cannot be deleted now stays in it, and counted, until it can. So no claim
//! outlives its octets for longer than a disk is broken, and no octets outlive their
//! claim but across a restart, where all that was left goes at the start. What a message
//! leaves behind at its end counts for nobody: it was no orphan, and whoever sent it paid
//! for it.

use std::sync::Arc;

use crate::census::{Census, Counted};
use crate::domain::ids::CustomerId;

/// How much there may be.
#[derive(Debug, Clone)]
pub struct Allowance {
    setting: &'static str,
    all: Arc<Census<()>>,
    each: Arc<Census<CustomerId>>,
}

/// What one message has of it.
#[derive(Debug)]
pub struct Claim {
    setting: &'static str,
    all: Counted<()>,
    each: Counted<CustomerId>,
}

/// Why a claim cannot grow, with the setting that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Beyond {
    /// The customer has as much as each may have.
    #[error("the customer's messages that are not accepted yet take {0}_per_customer")]
    OfCustomer(&'static str),
    /// All together have as much as they may.
    #[error("all messages that are not accepted yet take {0}")]
    OfAll(&'static str),
}

impl Allowance {
    /// So many octets for all together, which `setting` names, and for each customer,
    /// which the same with `_per_customer` names.
    pub fn new(setting: &'static str, all: usize, each: usize) -> Self {
        Self { setting, all: Census::new(all), each: Census::new(each) }
    }

    /// A claim to nothing yet.
    pub fn claim(&self, customer_id: &CustomerId) -> Claim {
        Claim { setting: self.setting, all: self.all.none(()), each: self.each.none(customer_id.clone()) }
    }
}

impl Claim {
    /// Whose it is.
    pub fn customer_id(&self) -> &CustomerId {
        self.each.whose()
    }

    /// How many octets it is.
    pub fn octets(&self) -> usize {
        self.each.number()
    }

    /// Makes it so many octets more, or leaves it as it is.
    ///
    /// # Errors
    /// When that is more than there may be.
    pub fn grow(&mut self, octets: usize) -> Result<(), Beyond> {
        if !self.each.add(octets) {
            return Err(Beyond::OfCustomer(self.setting));
        }
        if !self.all.add(octets) {
            self.each.take_off(octets);
            return Err(Beyond::OfAll(self.setting));
        }
        Ok(())
    }

    /// Makes it so many octets, or leaves it as it is.
    ///
    /// # Errors
    /// When that is more than there may be.
    pub fn resize(&mut self, octets: usize) -> Result<(), Beyond> {
        let has = self.octets();
        if octets > has {
            return self.grow(octets - has);
        }
        if octets < has {
            self.each.take_off(has - octets);
            self.all.take_off(has - octets);
        }
        Ok(())
    }

    /// The same, where more than the room of all is that room: what is larger can be
    /// had by one at a time.
    ///
    /// # Errors
    /// When that is more than there may be.
    pub fn resize_to_most(&mut self, octets: usize) -> Result<(), Beyond> {
        self.resize(octets.min(self.all.limit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_CUSTOMER: Result<(), Beyond> = Err(Beyond::OfCustomer("x"));
    const OF_ALL: Result<(), Beyond> = Err(Beyond::OfAll("x"));

    #[test]
    fn claims_stay_within_what_a_customer_may_have_and_all_together() {
        let allowance = Allowance::new("x", 15, 10);
        let claim = |name: &str| allowance.claim(&CustomerId::parse(name).unwrap());
        let mut claims = [claim("ann"), claim("ann"), claim("bob")];
        let table = [
            (0, 6, Ok(())),
            (1, 5, OF_CUSTOMER),
            (1, 4, Ok(())),
            (2, 6, OF_ALL),
            // What was refused is not counted.
            (2, 5, Ok(())),
            (0, 1, OF_CUSTOMER),
            (2, 1, OF_ALL),
        ];
        for (whose, octets, want) in table {
            assert_eq!(claims[whose].grow(octets), want, "{whose} {octets}");
        }
        drop(claims);
        assert_eq!(claim("ann").grow(10), Ok(()));
        assert_eq!(claim("bob").grow(11), OF_CUSTOMER);
    }

    #[test]
    fn claims_shrink_and_grow_again() {
        let allowance = Allowance::new("x", 15, 10);
        let claim = |name: &str| allowance.claim(&CustomerId::parse(name).unwrap());
        let mut claims = [claim("ann"), claim("ann"), claim("bob")];
        // Whose, its new size, what is said, and what it is then.
        let table = [
            (0, 8, Ok(()), 8),
            (1, 3, OF_CUSTOMER, 0),
            (2, 8, OF_ALL, 0),
            (2, 7, Ok(()), 7),
            (0, 2, Ok(()), 2),
            (1, 8, OF_ALL, 0),
            (1, 6, Ok(()), 6),
            (2, 0, Ok(()), 0),
            (1, 8, Ok(()), 8),
            (0, 2, Ok(()), 2),
        ];
        for (whose, octets, want, is) in table {
            assert_eq!(claims[whose].resize(octets), want, "{whose} {octets}");
            assert_eq!(claims[whose].octets(), is, "{whose} {octets}");
        }
    }

    #[test]
    fn what_is_larger_than_the_room_of_all_can_have_it_for_itself() {
        let allowance = Allowance::new("x", 10, 20);
        let claim = |name: &str| allowance.claim(&CustomerId::parse(name).unwrap());
        let (mut large, mut small) = (claim("ann"), claim("bob"));
        assert_eq!(large.resize(100), OF_CUSTOMER);
        assert_eq!(large.resize_to_most(100), Ok(()));
        assert_eq!(small.resize(1), OF_ALL);
        assert_eq!(large.resize(0), Ok(()));
        assert_eq!(small.resize(1), Ok(()));
        assert_eq!(large.resize_to_most(100), OF_ALL);
    }
}
