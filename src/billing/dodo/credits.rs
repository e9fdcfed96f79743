//! Credits given back, and the grants that say until when
//! (docs.dodopayments.com, "Credit Entitlements": ledger entries, grants).
//!
//! A credit makes a new grant. Without `expires_at` Dodo decides whether it
//! lapses: never, or after the days of the entitlement; both are no later than
//! never.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Dodo, DodoError, EntryAnswer, MAX_PAGE, Reply, reply, wire};
use crate::domain::ids::CustomerId;
use crate::store::entry::Entry;

/// A portion of a customer's credits with its own expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// When it lapses; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// Whether anything of it is gone: spent, expired or rolled over.
    pub is_drawn: bool,
    /// Whole credits that are left of it, if that could be read.
    pub remaining: Option<i64>,
}

/// One page of grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantPage {
    /// The grants on it, used up and expired ones too.
    pub grants: Vec<Grant>,
    /// Whether it was short, so that no page follows.
    pub is_last: bool,
}

impl Dodo {
    /// Gives a customer credits, once for each entry whatever the number of calls.
    /// The same id must come with the same amount and the same expiry.
    pub async fn post_credit(&self, entry: &Entry) -> Reply<EntryAnswer> {
        let body = json!({
            "entry_type": "credit",
            "amount": entry.amount.to_string(),
            "idempotency_key": entry.entry_id.as_str(),
            "expires_at": entry.expires_at.map(|at| at.to_string()),
            "reason": entry.reason,
        });
        let called = self.post_entry(entry.customer_id.as_str(), &body).await;
        reply(&called, wire::entry_answer(&called))
    }

    /// A customer's grants on page number `page`, counted from 0.
    pub async fn grants(&self, customer_id: &CustomerId, page: u32) -> Reply<Result<GrantPage, DodoError>> {
        let query = [("page_size", MAX_PAGE.to_string()), ("page_number", page.to_string())];
        self.grants_by(customer_id, &query).await
    }

    /// Grants of which something can still be spent; the first page of them.
    pub async fn active_grants(&self, customer_id: &CustomerId) -> Reply<Result<GrantPage, DodoError>> {
        let query = [("page_size", MAX_PAGE.to_string()), ("status", "active".to_owned())];
        self.grants_by(customer_id, &query).await
    }

    async fn grants_by(
        &self,
        customer_id: &CustomerId,
        query: &[(&str, String)],
    ) -> Reply<Result<GrantPage, DodoError>> {
        let entitlement_id = self.settings.entitlement_id.as_str();
        let path = ["credit-entitlements", entitlement_id, "balances", customer_id.as_str(), "grants"];
        let called = self.call(self.service.get(&path).query(query)).await;
        reply(&called, wire::answer_of(&called, "a list of grants", grant_page))
    }
}

/// A grant whose expiry cannot be read makes the page worthless: it may be the one that was spent.
pub(crate) fn grant_page(list: &Value) -> Option<GrantPage> {
    let items = list.get("items")?.as_array()?;
    let grants = items.iter().map(grant).collect::<Option<Vec<_>>>()?;
    Some(GrantPage { grants, is_last: items.len() < MAX_PAGE })
}

fn grant(item: &Value) -> Option<Grant> {
    let expires_at = match item.get("expires_at") {
        None | Some(Value::Null) => None,
        Some(at) => Some(at.as_str()?.parse().ok()?),
    };
    let amount = |field: &str| item.get(field).and_then(wire::whole_credits);
    let (initial, remaining) = (amount("initial_amount"), amount("remaining_amount"));
    Some(Grant { expires_at, is_drawn: initial.is_none() || initial != remaining, remaining })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_with_numbers_and_with_texts_and_a_bad_expiry_is_no_grant() {
        let list = json!({ "items": [
            { "initial_amount": 5, "remaining_amount": 5, "expires_at": null },
            { "initial_amount": "5", "remaining_amount": "3.00" },
            { "initial_amount": "5", "remaining_amount": 0, "expires_at": "2026-12-01T00:00:00.000001Z" },
            { "expires_at": "2026-12-01T00:00:00Z" },
        ]});
        let page = grant_page(&list).unwrap();
        let drawn: Vec<_> = page.grants.iter().map(|grant| grant.is_drawn).collect();
        assert_eq!((drawn, page.is_last), (vec![false, true, true, true], true));
        assert!(page.grants[0].expires_at.is_none() && page.grants[2].expires_at.is_some());
        let remaining: Vec<_> = page.grants.iter().map(|grant| grant.remaining).collect();
        assert_eq!(remaining, [Some(5), Some(3), Some(0), None]);
        for bad in [json!({ "items": [{ "expires_at": "soon" }] }), json!({ "items": [{ "expires_at": 7 }] })]
        {
            assert_eq!(grant_page(&bad), None, "{bad}");
        }
        assert_eq!(grant_page(&json!({})), None);
    }
}
