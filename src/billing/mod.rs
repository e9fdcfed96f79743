//! Money: balances read from Dodo, captured debits settled there.
//!
//! [`dodo`] makes the calls, [`events`] reads its webhooks. This room must not
//! know SMTP or how mail leaves.

pub mod dodo;
pub mod events;

use crate::domain::ids::CustomerId;

/// The handle on the money rooms that others hold.
#[derive(Debug, Clone)]
pub struct Billing {}

impl Billing {
    /// News that a customer's balance may have changed (a webhook): it is read
    /// soon, in the background, and a refusal may read it live again at once.
    pub fn balance_changed(&self, _customer_id: &CustomerId) {}

    /// News that credits were captured: the settler looks for what is owed.
    pub fn captured(&self) {}
}
