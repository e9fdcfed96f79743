//! `POST …/ledger-entries`: the one call that moves credits, and its manners.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::books::Event;
use super::ledger::{Grant, Line, Posting, Source, Transaction, whole_credits};
use super::refusal::Refusal;
use super::{ApiEntries, DodoStandIn, Kept, RepeatedKey, fresh, wire};
use crate::sandbox::ENTITLEMENT_ID;

/// The body. Unknown fields are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    entry_type: EntryType,
    amount: String,
    idempotency_key: Option<String>,
    expires_at: Option<String>,
    reason: Option<String>,
    metadata: Option<Map<String, Value>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EntryType {
    Credit,
    Debit,
}

/// The handler; a body that does not fit is answered 422 with serde's own words.
pub(super) async fn post(
    State(dodo): State<DodoStandIn>,
    Path((entitlement_id, customer_id)): Path<(String, String)>,
    Json(entry): Json<Entry>,
) -> Result<Response, Refusal> {
    if !dodo.kept().books.knows_entitlement(&entitlement_id) {
        return Err(Refusal::not_found("Credit entitlement"));
    }
    // Nobody has credits of one that was made.
    if entitlement_id != ENTITLEMENT_ID {
        return Err(Refusal::not_found("Credit balance"));
    }
    let (answer, posted) = dodo.post_entry(&customer_id, entry)?;
    if let Some(posting) = posted {
        dodo.tell_of_entry(&posting);
    }
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

impl DodoStandIn {
    /// The answer, and what was posted unless the key had been used.
    fn post_entry(&self, customer_id: &str, entry: Entry) -> Result<(Value, Option<Posting>), Refusal> {
        let amount = whole_credits(&entry.amount).map_err(Refusal::bad_request)?;
        let expires_ms = entry.expires_at.as_deref().map(expiry).transpose()?;
        check_metadata(entry.metadata.as_ref())?;
        let now_ms = self.now_ms();
        let behaviour = self.behaviour();
        let mut kept = self.kept();
        if kept.books.customer(customer_id).is_none() {
            return Err(Refusal::not_found("Customer"));
        }
        kept.lapse(customer_id, now_ms).map_err(|error| Refusal::internal(&error))?;

        let used = |kept: &mut Kept| {
            let key = entry.idempotency_key.as_deref()?;
            kept.books.used(customer_id, key, now_ms).map(|line| wire::created_entry(customer_id, line))
        };
        let again = |first: Value| match behaviour.repeated_key {
            RepeatedKey::Conflict => Err(Refusal::conflict()),
            RepeatedKey::FirstAnswer => Ok((first, None)),
        };
        if !behaviour.balance_before_key
            && let Some(first) = used(&mut kept)
        {
            return again(first);
        }
        let before = kept.books.account(customer_id).map_or(0, |account| account.balance);
        if entry.entry_type == EntryType::Debit && before < amount {
            return Err(Refusal::bad_request("Insufficient credit balance"));
        }
        if let Some(first) = used(&mut kept) {
            return again(first);
        }

        let drawn = kept.books.account(customer_id).and_then(|account| account.first_grant());
        let drawn = drawn.map(|grant| grant.id.clone());
        let mut posting = posting(customer_id, entry, amount, expires_ms, now_ms);
        posting.line.before = before;
        posting.line.after =
            if posting.line.is_credit { before.saturating_add(amount) } else { before - amount };
        posting.line.grant_id = posting.grant.as_ref().map(|grant| grant.id.clone()).or(drawn);
        if behaviour.api_entries == ApiEntries::ManualAdjustment {
            posting.line.transaction = Transaction::ManualAdjustment;
        }
        let answer = wire::created_entry(customer_id, &posting.line);
        kept.commit(vec![Event::Posted(posting.clone())]).map_err(|error| Refusal::internal(&error))?;
        Ok((answer, Some(posting)))
    }
}

/// The posting of an entry, but for the balances.
fn posting(customer_id: &str, entry: Entry, amount: u64, expires_ms: Option<i64>, now_ms: i64) -> Posting {
    let is_credit = entry.entry_type == EntryType::Credit;
    let grant = is_credit.then(|| Grant {
        id: fresh("cdg"),
        source: Source::Api,
        source_id: None,
        initial: amount,
        remaining: amount,
        expires_ms,
        created_ms: now_ms,
        updated_ms: now_ms,
        metadata: Map::new(),
    });
    let line = Line {
        id: fresh("cdl"),
        at_ms: now_ms,
        transaction: if is_credit { Transaction::CreditAdded } else { Transaction::CreditDeducted },
        is_credit,
        amount,
        before: 0,
        after: 0,
        description: entry.reason,
        grant_id: None,
        reference: None,
        metadata: Map::new(),
    };
    Posting { customer_id: customer_id.to_owned(), line, grant, key: entry.idempotency_key }
}

fn expiry(text: &str) -> Result<i64, Refusal> {
    text.parse::<Timestamp>().map(Timestamp::as_millisecond).map_err(|_| {
        Refusal::unprocessable("INVALID_REQUEST_BODY", "expires_at must be an RFC 3339 date-time")
    })
}

/// At most 50 pairs of flat values, keys of at most 40 and strings of at most 500 characters.
pub(super) fn check_metadata(metadata: Option<&Map<String, Value>>) -> Result<(), Refusal> {
    let Some(metadata) = metadata else { return Ok(()) };
    if metadata.len() > 50 {
        return Err(Refusal::unprocessable("MAXIMUM_KEYS_REACHED", "metadata can have at most 50 keys"));
    }
    for (key, value) in metadata {
        let fits = match value {
            Value::String(text) => text.chars().count() <= 500,
            Value::Number(_) | Value::Bool(_) => true,
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        };
        if !fits || key.chars().count() > 40 {
            let message = format!("metadata key `{key}` or its value is too long or of the wrong type");
            return Err(Refusal::unprocessable("INVALID_REQUEST_BODY", message));
        }
    }
    Ok(())
}
