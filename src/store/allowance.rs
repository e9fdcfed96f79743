//! How much may lie on disk that no message owns yet: of all customers together, and
//! of each.
//!
//! A [`Claim`] grows before a chunk is handed to the writer, never after, so nothing is
//! on disk uncounted. It ends when the spool is a message's, which was paid for, or when
//! the writer has committed that the last of it is gone. A spool that is given up takes
//! its claim along into the line of what leaves (`leftovers`); that line loses nobody,
//! and what cannot be deleted now stays in it, and counted, until it can. So no claim
//! outlives its octets for longer than a disk is broken, and no octets outlive their
//! claim but across a restart, where all that was left goes at the start.
//!
//! What a message leaves behind at its end counts for nobody: it was no orphan, and
//! whoever sent it paid for it.

use std::sync::Arc;

use crate::census::{Census, Counted};
use crate::domain::ids::CustomerId;

/// How much there may be.
#[derive(Debug, Clone)]
pub struct Allowance {
    all: Arc<Census<()>>,
    each: Arc<Census<CustomerId>>,
}

/// What one spool has of it.
#[derive(Debug)]
pub struct Claim {
    all: Counted<()>,
    each: Counted<CustomerId>,
}

/// Why a claim cannot grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Beyond {
    /// The customer has as much as each may have.
    #[error("the customer's messages that are not accepted yet take smtp.max_bytes_spooled_per_customer")]
    OfCustomer,
    /// All together have as much as they may.
    #[error("all messages that are not accepted yet take smtp.max_bytes_spooled")]
    OfAll,
}

impl Allowance {
    /// So many octets for all together, and for each customer.
    pub fn new(all: usize, each: usize) -> Self {
        Self { all: Census::new(all), each: Census::new(each) }
    }

    /// A claim to nothing yet.
    pub fn claim(&self, customer_id: &CustomerId) -> Claim {
        Claim { all: self.all.none(()), each: self.each.none(customer_id.clone()) }
    }
}

impl Claim {
    /// Whose it is.
    pub fn customer_id(&self) -> &CustomerId {
        self.each.whose()
    }

    /// Makes it so many octets more, or leaves it as it is.
    pub fn grow(&mut self, octets: usize) -> Result<(), Beyond> {
        if !self.each.add(octets) {
            return Err(Beyond::OfCustomer);
        }
        if !self.all.add(octets) {
            self.each.take_off(octets);
            return Err(Beyond::OfAll);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_stay_within_what_a_customer_may_have_and_all_together() {
        let allowance = Allowance::new(15, 10);
        let claim = |name: &str| allowance.claim(&CustomerId::parse(name).unwrap());
        let mut claims = [claim("ann"), claim("ann"), claim("bob")];
        let table = [
            (0, 6, Ok(())),
            (1, 5, Err(Beyond::OfCustomer)),
            (1, 4, Ok(())),
            (2, 6, Err(Beyond::OfAll)),
            // What was refused is not counted.
            (2, 5, Ok(())),
            (0, 1, Err(Beyond::OfCustomer)),
            (2, 1, Err(Beyond::OfAll)),
        ];
        for (whose, octets, want) in table {
            assert_eq!(claims[whose].grow(octets), want, "{whose} {octets}");
        }
        drop(claims);
        assert_eq!(claim("ann").grow(10), Ok(()));
        assert_eq!(claim("bob").grow(11), Err(Beyond::OfCustomer));
    }
}
