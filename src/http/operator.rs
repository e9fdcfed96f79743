//! The operator's view: what the installation does, its customers and its queue, in a
//! browser, behind the admin token.
//!
//! Everything is decided by the same functions that the commands and the routes for
//! programs call. What changes something is a form of our own page; what is risky is told
//! first, and done when it is confirmed. Without a token there is no such view.

mod session;

use axum::Router;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::auth::is_operator;
use super::body::{FormBody, QueryString};
use super::error::{HttpError, PageError};
use super::listener::{Peer, Unknown};
use super::pages::operator as pages;
use super::pages::response;
use super::sign_in::set_cookie;
use super::{Shared, Site};
use crate::domain::credential::Secret;
use crate::domain::decision::{Choice, NotNow};
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::refusal::Refusal;
use crate::store::operator::{DecisionError, Order, QueueFilter, Via, Waiting};

pub(super) use session::Sessions;

/// Rows of a list.
const ROWS: u32 = 50;
/// Messages on the page of a customer.
const MESSAGES: u32 = 15;
/// Refusals that are shown.
const REFUSALS: usize = 15;
/// Refunds and disputes that are shown.
const ALERTS: u32 = 15;
/// Longest reason of a suspension and longest search, in characters.
const MAX_REASON: usize = 200;
const MAX_SEARCH: usize = 100;

type Page = Result<Response, PageError>;

/// The routes, all under `/operator`.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/operator", get(overview))
        .route("/operator/sign-in", get(to_start).post(sign_in))
        .route("/operator/sign-out", post(sign_out))
        .route("/operator/customers", get(customers))
        .route("/operator/customers/{customer_id}", get(customer))
        .route("/operator/customers/{customer_id}/suspend", get(to_customer).post(suspend))
        .route("/operator/customers/{customer_id}/resume", get(to_customer).post(resume))
        .route("/operator/queue", get(queue))
        .route("/operator/queue/{message_id}", get(message))
        .route("/operator/queue/{message_id}/retry", get(to_message).post(retry))
        .route("/operator/queue/{message_id}/cancel", get(to_message).post(cancel))
}

/// There is an operator here, whoever asks.
struct Desk(Sessions);

impl FromRequestParts<Shared> for Desk {
    type Rejection = PageError;

    async fn from_request_parts(_parts: &mut Parts, site: &Shared) -> Result<Self, PageError> {
        site.operators.clone().map(Self).ok_or(PageError(HttpError::NoRoute))
    }
}

/// The operator, who signed in.
struct AtDesk;

enum NotAtDesk {
    NoDesk(PageError),
    SignedOut,
}

impl IntoResponse for NotAtDesk {
    fn into_response(self) -> Response {
        match self {
            Self::NoDesk(error) => error.into_response(),
            Self::SignedOut => Redirect::to("/operator").into_response(),
        }
    }
}

impl FromRequestParts<Shared> for AtDesk {
    type Rejection = NotAtDesk;

    async fn from_request_parts(parts: &mut Parts, site: &Shared) -> Result<Self, NotAtDesk> {
        let Desk(sessions) = Desk::from_request_parts(parts, site).await.map_err(NotAtDesk::NoDesk)?;
        if !sessions.is_signed_in(&parts.headers, site.clock.now()) {
            return Err(NotAtDesk::SignedOut);
        }
        Unknown::is_known(&parts.extensions, None, &site.seats);
        Ok(Self)
    }
}

/// `GET /operator`: the form, or how things stand.
async fn overview(Desk(sessions): Desk, State(site): State<Shared>, headers: HeaderMap) -> Page {
    if !sessions.is_signed_in(&headers, site.clock.now()) {
        return Ok(response(StatusCode::OK, &pages::sign_in(site.settings.is_sandbox, None)));
    }
    let store = &site.store;
    let debts = store.debts().await?;
    let now = site.clock.now();
    let oldest = debts.oldest_capture_at.map(|at| now.as_millisecond().saturating_sub(at).max(0));
    let overview = pages::Overview {
        now,
        can_write: store.ping().await.is_ok(),
        totals: store.totals().await?,
        gates: store.gates().await?,
        waiting_for: store.waiting_for().await?,
        crew: store.crew().await?,
        uncovered: debts.uncovered,
        settlement_lag_s: oldest.unwrap_or(0) / 1_000,
        is_dodo_up: site.metrics.is_dodo_up(),
        dodo_refuses: site.metrics.dodo_refuses(),
        ledger_drift: site.metrics.ledger_drift(),
        entries_doubtful: site.metrics.entries_doubtful(),
        refused: site.submission.refused_lately(REFUSALS),
        alerts: store.alerts(None, ALERTS).await?,
    };
    Ok(response(StatusCode::OK, &overview.render()))
}

/// A page that answers a form, loaded again.
async fn to_start() -> Redirect {
    Redirect::to("/operator")
}

async fn to_customer(Path(customer_id): Path<String>) -> Response {
    let id = CustomerId::parse(&customer_id);
    let path = id.map_or_else(|_| "/operator/customers".to_owned(), |id| format!("/operator/customers/{id}"));
    Redirect::to(&path).into_response()
}

async fn to_message(Path(message_id): Path<String>) -> Response {
    let id = MessageId::parse(&message_id);
    let path = id.map_or_else(|_| "/operator/queue".to_owned(), |id| format!("/operator/queue/{id}"));
    Redirect::to(&path).into_response()
}

/// What the sign-in form sends.
#[derive(Deserialize)]
struct SignIn {
    token: String,
}

/// `POST /operator/sign-in`: failures count like those of every other sign-in.
async fn sign_in(
    Desk(sessions): Desk,
    State(site): State<Shared>,
    Peer(peer): Peer,
    FormBody(form): FormBody<SignIn>,
) -> Page {
    let token = Secret::presented(form.token.trim());
    let name = ("token", *token.hash().as_bytes());
    let check = async { if is_operator(&site, &token) { Ok(()) } else { Err(Refusal::BadCredential) } };
    match site.submission.guarded(peer.ip(), name, check, |()| None).await {
        Ok(()) => {
            tracing::info!(%peer, "the operator signed in on the page");
            Ok((set_cookie(&sessions.begin(site.clock.now())), Redirect::to("/operator")).into_response())
        }
        Err(Refusal::BadCredential) => {
            let page = pages::sign_in(site.settings.is_sandbox, Some("That is not the operator's token."));
            Ok(HttpError::Refused(Refusal::BadCredential).as_page(&page))
        }
        Err(refusal @ Refusal::TooManyFailures { .. }) => {
            let error = HttpError::Refused(refusal);
            Ok(error.as_page(&pages::sign_in(site.settings.is_sandbox, Some(&error.text()))))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// `POST /operator/sign-out`
async fn sign_out(Desk(sessions): Desk, FormBody(()): FormBody<()>) -> Response {
    (set_cookie(&sessions.end()), Redirect::to("/operator")).into_response()
}

/// Which customers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Customers {
    q: String,
    after: Option<String>,
}

/// `GET /operator/customers?q=&after=`
async fn customers(
    _: AtDesk,
    State(site): State<Shared>,
    QueryString(asked): QueryString<Customers>,
) -> Page {
    let after = asked.after.as_deref().filter(|id| !id.is_empty()).map(CustomerId::parse).transpose();
    let after = after.map_err(|_| HttpError::NotFound("page"))?;
    let q: String = asked.q.trim().chars().take(MAX_SEARCH).collect();
    let search = Some(q.as_str()).filter(|q| !q.is_empty());
    let page = site.store.customer_page(search, after.as_ref(), ROWS).await?;
    Ok(response(StatusCode::OK, &pages::customers(&page, &q, after.is_none())))
}

/// What happened just now.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Done {
    done: Option<Decided>,
}

/// The decision that was made on the page before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decided {
    Retry,
    Cancel,
}

/// `GET /operator/customers/{customer_id}`
async fn customer(_: AtDesk, State(site): State<Shared>, Path(customer_id): Path<String>) -> Page {
    customer_page(&site, &customer_id, None).await
}

/// `problem`: why a suspension was not done, and what was typed.
async fn customer_page(site: &Site, customer_id: &str, problem: Option<(&str, &str)>) -> Page {
    let customer_id = CustomerId::parse(customer_id).map_err(|_| HttpError::NotFound("customer"))?;
    let customer = site.store.customer(&customer_id).await?.ok_or(HttpError::NotFound("customer"))?;
    let credentials = site.store.credentials(Some(&customer_id)).await?;
    let senders = site.store.senders(&customer_id).await?;
    let messages = site.store.messages(Some(&customer_id), None, MESSAGES).await?;
    let alerts = site.store.alerts(Some(&customer_id), ALERTS).await?;
    let page = pages::CustomerView {
        customer: &customer,
        credentials: &credentials,
        senders: &senders,
        messages: &messages,
        alerts: &alerts,
        problem,
    };
    let status = if problem.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok(response(status, &page.render()))
}

/// What the form for a suspension sends.
#[derive(Debug, Deserialize)]
struct Suspend {
    reason: String,
}

/// `POST /operator/customers/{customer_id}/suspend`
async fn suspend(
    _: AtDesk,
    State(site): State<Shared>,
    Path(id): Path<String>,
    FormBody(form): FormBody<Suspend>,
) -> Page {
    let reason = form.reason.trim();
    let count = reason.chars().count();
    if !(1..=MAX_REASON).contains(&count) || reason.chars().any(char::is_control) {
        let text = format!("A reason is needed, in one line of at most {MAX_REASON} characters.");
        return customer_page(&site, &id, Some((&text, &form.reason))).await;
    }
    let customer_id = CustomerId::parse(&id).map_err(|_| HttpError::NotFound("customer"))?;
    site.store.suspend(&customer_id, reason).await?;
    tracing::warn!(%customer_id, ?reason, "the operator suspended a customer on the page");
    Ok(Redirect::to(&format!("/operator/customers/{customer_id}")).into_response())
}

/// `POST /operator/customers/{customer_id}/resume`
async fn resume(
    _: AtDesk,
    State(site): State<Shared>,
    Path(id): Path<String>,
    FormBody(()): FormBody<()>,
) -> Page {
    let customer_id = CustomerId::parse(&id).map_err(|_| HttpError::NotFound("customer"))?;
    site.store.resume(&customer_id, site.clock.now()).await?;
    tracing::warn!(%customer_id, "the operator resumed a customer on the page");
    Ok(Redirect::to(&format!("/operator/customers/{customer_id}")).into_response())
}

/// Which messages; without a state those that are held, which wait for nobody else.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Listing {
    state: Option<Waiting>,
    customer_id: String,
}

/// `GET /operator/queue?state=&customer_id=`
async fn queue(_: AtDesk, State(site): State<Shared>, QueryString(listing): QueryString<Listing>) -> Page {
    let state = listing.state.unwrap_or(Waiting::Held);
    let named = Some(listing.customer_id.trim()).filter(|id| !id.is_empty());
    let customer_id = match named.map(CustomerId::parse).transpose() {
        Ok(customer_id) => customer_id,
        Err(error) => {
            let problem = format!("Customer: {error}.");
            let page = pages::queue(state, &listing.customer_id, &[], Some(&problem));
            return Ok(response(StatusCode::UNPROCESSABLE_ENTITY, &page));
        }
    };
    let filter = QueueFilter { state: Some(state), customer_id, limit: ROWS };
    let messages = site.store.queue(&filter).await?;
    Ok(response(StatusCode::OK, &pages::queue(state, &listing.customer_id, &messages, None)))
}

/// `GET /operator/queue/{message_id}`
async fn message(
    _: AtDesk,
    State(site): State<Shared>,
    Path(message_id): Path<String>,
    QueryString(done): QueryString<Done>,
) -> Page {
    let id = MessageId::parse(&message_id).map_err(|_| HttpError::NotFound("message"))?;
    let message = site.store.queue_message(&id).await?.ok_or(HttpError::NotFound("message"))?;
    // Anyone can write a link; only what was decided is said to be done.
    let said = done.done.map(|done| if done == Decided::Retry { Choice::Retry } else { Choice::Cancel });
    let said = said.filter(|choice| message.decisions.last().is_some_and(|last| last.choice == *choice));
    Ok(response(StatusCode::OK, &pages::message(&message, said)))
}

/// Whether the risk was told and taken.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Confirmation {
    confirm: bool,
}

/// `POST /operator/queue/{message_id}/retry`
async fn retry(
    _: AtDesk,
    State(site): State<Shared>,
    Path(id): Path<String>,
    FormBody(form): FormBody<Confirmation>,
) -> Page {
    decide(&site, &id, Choice::Retry, form.confirm).await
}

/// `POST /operator/queue/{message_id}/cancel`
async fn cancel(
    _: AtDesk,
    State(site): State<Shared>,
    Path(id): Path<String>,
    FormBody(form): FormBody<Confirmation>,
) -> Page {
    decide(&site, &id, Choice::Cancel, form.confirm).await
}

/// Carries a decision out. Who has not said that the risk is known is told it and asked.
async fn decide(site: &Site, message_id: &str, choice: Choice, is_confirmed: bool) -> Page {
    let id = MessageId::parse(message_id).map_err(|_| HttpError::NotFound("message"))?;
    let (now, lifetime) = (site.clock.now(), site.settings.lifetime);
    let order = Order { choice, is_confirmed, via: Via::Http, now, lifetime };
    match site.store.decide(&id, &order).await {
        Ok(_) => {
            let path = format!("/operator/queue/{id}?done={}", choice.as_str());
            Ok(Redirect::to(&path).into_response())
        }
        Err(DecisionError::NotNow(_, NotNow::Unconfirmed)) => {
            let message = site.store.queue_message(&id).await?.ok_or(HttpError::NotFound("message"))?;
            Ok(response(StatusCode::CONFLICT, &pages::confirm(&message, choice)))
        }
        Err(error) => Err(error.into()),
    }
}
