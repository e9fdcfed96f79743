//! The way to Dodo and back. The books are those of the sandbox's stand-in, asked
//! through its own routes, and the answers are read by the client's own code: only
//! the network between them is the model's.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use tower::util::ServiceExt;

use super::steps::{Manner, Manners, NAMES, Who};
use crate::domain::ids::CustomerId;
use crate::outbound::{CallFailure, HttpAnswer, RateInfo};
use crate::sandbox::dodo::{Amounts, ApiEntries, DodoStandIn, Line, RepeatedKey, Transaction};
use crate::sandbox::{DODO_API_KEY, ENTITLEMENT_ID};
use crate::store::entry::Entry;

/// Dodo.
pub(super) struct Dodo {
    stand_in: DodoStandIn,
    routes: Router,
}

/// A grant.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) id: String,
    pub(super) remaining: u64,
    /// When it lapses; `MAX`: never.
    pub(super) until: Timestamp,
}

impl Holding {
    fn read(grant: &Value) -> Self {
        let remaining = &grant["remaining_amount"];
        let until = grant["expires_at"].as_str().map(|at| at.parse().unwrap());
        Self {
            id: grant["id"].as_str().unwrap().to_owned(),
            remaining: remaining
                .as_str()
                .map_or_else(|| remaining.as_u64(), |text| text.parse().ok())
                .unwrap(),
            until: until.unwrap_or(Timestamp::MAX),
        }
    }
}

/// What a call that took effect saw.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// What Dodo answers.
    pub(super) answer: Result<HttpAnswer, CallFailure>,
    /// How many lines each customer's ledger had after it.
    pub(super) lines: [usize; NAMES.len()],
}

impl Dodo {
    pub(super) fn new((stand_in, routes): (DodoStandIn, Router), manners: Manners) -> Self {
        stand_in.behave(|behaviour| {
            behaviour.per_second = 0;
            behaviour.per_minute = 0;
            if manners.repeats_first_answer {
                behaviour.repeated_key = RepeatedKey::FirstAnswer;
            }
            behaviour.balance_before_key = manners.balance_before_key;
            if manners.amounts_are_texts {
                behaviour.amounts = Amounts::String;
            }
            behaviour.reason_in_ledger = !manners.hides_reasons;
            if manners.adjusts_by_hand {
                behaviour.api_entries = ApiEntries::ManualAdjustment;
            }
        });
        Self { stand_in, routes }
    }

    /// The account itself, for what happens there without us.
    pub(super) fn books(&self) -> &DodoStandIn {
        &self.stand_in
    }

    /// What a customer really has.
    pub(super) fn balance(&self, who: Who) -> i64 {
        i64::try_from(self.stand_in.balance(NAMES[who]).unwrap_or(0)).unwrap()
    }

    /// Everything that moved a customer's credits, the oldest first.
    pub(super) fn lines(&self, who: Who) -> Vec<Line> {
        self.stand_in.ledger(NAMES[who])
    }

    /// An entry reaches Dodo.
    pub(super) async fn post(&self, entry: &Entry, manner: Manner) -> Seen {
        let uri = format!("{}/{}/ledger-entries", balances(), entry.customer_id);
        let body = json!({
            "entry_type": entry.kind.as_str(),
            "amount": entry.amount.to_string(),
            "idempotency_key": entry.entry_id.as_str(),
            "expires_at": entry.expires_at.map(|at| at.to_string()),
            "reason": entry.reason,
        });
        let request = Request::post(uri).header("content-type", "application/json");
        self.take(
            request.header("authorization", bearer()).body(Body::from(body.to_string())).unwrap(),
            manner,
        )
        .await
    }

    /// A balance is read: a customer's, or a page of them.
    pub(super) async fn read(&self, only: Option<&CustomerId>, manner: Manner) -> Seen {
        let query = only.map_or("page_size=100&page_number=0".to_owned(), |id| format!("customer_id={id}"));
        let request = Request::get(format!("{}?{query}", balances()));
        self.take(request.header("authorization", bearer()).body(Body::empty()).unwrap(), manner).await
    }

    /// A page of a customer's ledger is read.
    pub(super) async fn ledger(&self, who: Who, from: Timestamp, page: u32, manner: Manner) -> Seen {
        let query = format!("page_size=100&page_number={page}&start_date={from}");
        let request = Request::get(format!("{}/{}/ledger?{query}", balances(), NAMES[who]));
        self.take(request.header("authorization", bearer()).body(Body::empty()).unwrap(), manner).await
    }

    /// A page of a customer's grants is read.
    pub(super) async fn grants(&self, who: Who, page: u32, manner: Manner) -> Seen {
        let uri = format!("{}/{}/grants?page_size=100&page_number={page}", balances(), NAMES[who]);
        let request = Request::get(uri).header("authorization", bearer());
        self.take(request.body(Body::empty()).unwrap(), manner).await
    }

    /// All of a customer's grants, as they really are.
    pub(super) async fn holdings(&self, who: Who) -> Vec<Holding> {
        let mut holdings = Vec::new();
        for page in 0.. {
            let body = self.grants(who, page, Manner::Well).await.answer.unwrap().body;
            let page: Value = serde_json::from_slice(&body).unwrap();
            let grants = page["items"].as_array().unwrap();
            holdings.extend(grants.iter().map(Holding::read));
            if grants.len() < 100 {
                break;
            }
        }
        holdings
    }

    async fn take(&self, request: Request<Body>, manner: Manner) -> Seen {
        let is_done = matches!(manner, Manner::Well | Manner::Breaks | Manner::Garbles);
        let done = if is_done {
            Some(answer(self.routes.clone().oneshot(request).await.unwrap()).await)
        } else {
            None
        };
        let answer = match (manner, done) {
            (Manner::Unreachable, _) => Err(CallFailure::NotSent("connection refused".to_owned())),
            (Manner::Garbles, Some(answer)) => Ok(HttpAnswer { body: b"<html>".to_vec(), ..answer }),
            (Manner::Limits, _) => Ok(status(429)),
            (Manner::BadKey, _) => Ok(status(401)),
            (Manner::Forbids, _) => Ok(status(403)),
            (Manner::Well, Some(answer)) => Ok(answer),
            _ => Ok(status(500)),
        };
        Seen { answer, lines: [0, 1, 2].map(|who| self.lines(who).len()) }
    }
}

/// What lines added, what of them expired.
pub(super) fn added_and_expired(lines: &[Line]) -> (i64, i64) {
    let sum = |wanted: fn(&Line) -> bool| {
        let amounts = lines.iter().filter(|line| wanted(line)).map(|line| line.amount);
        i64::try_from(amounts.sum::<u64>()).unwrap()
    };
    (sum(|line| line.is_credit), sum(|line| line.transaction == Transaction::CreditExpired))
}

/// An answer of any of the stand-ins as a client sees it.
pub(super) async fn answer(response: Response) -> HttpAnswer {
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec();
    HttpAnswer { status, rate: RateInfo::default(), body }
}

pub(super) fn status(status: u16) -> HttpAnswer {
    HttpAnswer { status, rate: RateInfo::default(), body: Vec::new() }
}

fn balances() -> String {
    format!("/credit-entitlements/{ENTITLEMENT_ID}/balances")
}

fn bearer() -> String {
    format!("Bearer {DODO_API_KEY}")
}
