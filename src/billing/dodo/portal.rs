//! The pages that Dodo keeps for a customer: payments, invoices, subscriptions, cards
//! (docs.dodopayments.com, "Create Customer Portal Session").

use std::fmt;

use serde_json::Value;

use super::{Dodo, DodoError, Reply, reply, wire};
use crate::domain::ids::CustomerId;

/// A way into a customer's portal. Whoever has it is let in for a day: not for the log.
#[derive(Clone, PartialEq, Eq)]
pub struct PortalLink(pub String);

impl fmt::Debug for PortalLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PortalLink(…)")
    }
}

impl Dodo {
    /// A way into a customer's portal, from which Back leads to `return_url`. Not
    /// idempotent: a second call makes a second way, which does no harm.
    pub async fn portal(
        &self,
        customer_id: &CustomerId,
        return_url: &str,
    ) -> Reply<Result<PortalLink, DodoError>> {
        let request = self.service.post(&["customers", customer_id.as_str(), "customer-portal", "session"]);
        let called = self.call(request.query(&[("return_url", return_url)])).await;
        reply(&called, wire::answer_of(&called, "a portal session", link))
    }

    /// Whether a URL is below the one at which Dodo is asked.
    pub fn is_own(&self, url: &str) -> bool {
        url.strip_prefix(self.service.base_url()).is_some_and(|rest| rest.starts_with('/'))
    }
}

fn link(session: &Value) -> Option<PortalLink> {
    session.get("link")?.as_str().map(|link| PortalLink(link.to_owned()))
}
