//! What a customer sees first: credits and how long they last, what was used, what was sent
//! last; and how to connect. Whatever has to be asked elsewhere is waited for a moment at most.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::auth::Visitor;
use super::body::QueryString;
use super::error::PageError;
use super::usage::Day;
use super::{Shared, pages, send};
use crate::domain::forecast::{Forecast, Pace};
use crate::domain::ids::MessageId;
use crate::domain::sender::SenderPattern;

/// Messages on the overview.
const NEWEST: u32 = 8;
/// How long the page waits for Dodo to say when credits end.
const PATIENCE: Duration = Duration::from_millis(250);
/// The days whose pace a forecast goes by, today among them.
const PACE_DAYS: usize = 7;

/// What happened just now.
#[derive(Debug, Deserialize)]
pub(super) struct Arrival {
    sent: Option<String>,
}

/// `GET /account`
pub(super) async fn overview(
    visitor: Visitor,
    State(site): State<Shared>,
    QueryString(query): QueryString<Arrival>,
) -> Result<Response, PageError> {
    let customer_id = &visitor.who.customer_id;
    let account = &visitor.standing.account;
    let now = site.clock.now();
    if account.balance.is_none() {
        site.billing.balance_changed(customer_id);
    }
    let (messages, customer, days, expiries) = tokio::join!(
        site.store.messages(Some(customer_id), None, NEWEST),
        site.store.customer(customer_id),
        site.usage.of(&site.store, customer_id, now),
        site.billing.expiries(customer_id, PATIENCE),
    );
    let (messages, days) = (messages?, days?);
    let since = customer?.map(|customer| customer.created_at).unwrap_or(now);
    // Anyone can write a link; only what is in the log is said to be accepted.
    let sent = query.sent.as_deref().and_then(|id| MessageId::parse(id).ok());
    let sent = sent.filter(|id| messages.iter().any(|message| message.message_id == *id));
    let page = pages::Overview {
        standing: &visitor.standing,
        messages: &messages,
        sent: sent.as_ref(),
        days: days.as_deref(),
        forecast: days.as_deref().map(|days| Forecast::of(account.available(), pace(days, since, now))),
        expiries: expiries.as_deref(),
        now,
    };
    Ok(pages::response(StatusCode::OK, &page.render(&site.settings)))
}

/// What was used in the last days, and in how long: no longer than the customer is known, or rows are kept.
fn pace(days: &[Day], since: Timestamp, now: Timestamp) -> Pace {
    let last = days.get(days.len().saturating_sub(PACE_DAYS)..).unwrap_or_default();
    let used = last.iter().fold(0, |sum: i64, day| sum.saturating_add(day.used.credits));
    let begin = last.first().map_or(now, |day| day.begins.max(since));
    Pace { used, over: now.duration_since(begin).max(SignedDuration::ZERO) }
}

/// `GET /account/connect`
pub(super) async fn connect(visitor: Visitor, State(site): State<Shared>) -> Result<Response, PageError> {
    let standing = &visitor.standing;
    let mut credentials = site.store.credentials(Some(&standing.customer_id)).await?;
    credentials.retain(|credential| credential.revoked_at.is_none());
    // The one that is signed in, or else the newest.
    let own = credentials.iter().find(|credential| Some(&credential.username) == standing.username.as_ref());
    let username = own.or(credentials.last()).map(|credential| &credential.username);
    let page = pages::connect(&site.settings, username, an_address(&standing.senders).as_deref());
    Ok(pages::response(StatusCode::OK, &page))
}

/// An address that the customer may send from, for examples.
fn an_address(senders: &[SenderPattern]) -> Option<String> {
    let listed = send::default_sender(senders).map(|named| named.mailbox.to_string());
    listed.or_else(|| {
        senders.iter().find_map(|sender| match sender {
            SenderPattern::Domain(domain) => Some(format!("you@{domain}")),
            SenderPattern::Address(_) | SenderPattern::Below(_) | SenderPattern::Any => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::usage::Used;

    #[test]
    fn the_pace_is_that_of_the_days_on_which_there_was_a_customer() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let day = |begins: &str, credits| Day { begins: at(begins), used: Used { messages: 1, credits } };
        let days = [
            day("2026-11-01T00:00:00Z", 1_000),
            day("2026-11-02T00:00:00Z", 1),
            day("2026-11-03T00:00:00Z", 2),
            day("2026-11-04T00:00:00Z", 3),
            day("2026-11-05T00:00:00Z", 4),
            day("2026-11-06T00:00:00Z", 5),
            day("2026-11-07T00:00:00Z", 6),
            day("2026-11-08T00:00:00Z", 7),
        ];
        let now = at("2026-11-08T12:00:00Z");
        let hours = |since: &str, days: &[Day]| {
            let pace = pace(days, at(since), now);
            (pace.used, pace.over.as_hours())
        };
        assert_eq!(hours("2020-01-01T00:00:00Z", &days), (28, 6 * 24 + 12));
        assert_eq!(hours("2026-11-07T12:00:00Z", &days), (28, 24));
        assert_eq!(hours("2020-01-01T00:00:00Z", &days[6..]), (13, 36));
        assert_eq!(hours("2020-01-01T00:00:00Z", &[]), (0, 0));
        assert_eq!(hours("2027-01-01T00:00:00Z", &days), (28, 0));
    }
}
