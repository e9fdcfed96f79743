//! Dodo's API over HTTP: the gate in front (key, rate limit, faults) and the
//! routes that read or open something. The one that moves credits is in
//! [`super::entries`].

use std::sync::atomic::Ordering;

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::books::{Books, Event};
use super::entries::{self, check_metadata};
use super::refusal::Refusal;
use super::shop::{self, Buyer, Customer, Item, Session};
use super::{Behaviour, DodoStandIn, catalog, fresh, ledger, lock, portal, wire};
use crate::sandbox::faults::{self, Misbehaviour};
use crate::sandbox::rate::Verdict;
use crate::sandbox::{DODO_API_KEY, DODO_READ_ONLY_API_KEY, ENTITLEMENT_ID};

/// Everything that the stand-in serves.
pub(super) fn router(dodo: &DodoStandIn) -> Router {
    let balances = "/credit-entitlements/{entitlement}/balances";
    let api = Router::new()
        .route("/checkouts", post(open_checkout))
        .route("/checkouts/{id}", get(checkout_status))
        .route("/products", get(catalog::products).post(catalog::make_product))
        .route("/products/{id}", get(catalog::product))
        .route("/customers", get(customers).post(join))
        .route("/customers/{id}", get(customer))
        .route("/customers/{id}/credit-entitlements", get(customer_entitlements))
        .route("/customers/{id}/customer-portal/session", post(portal::open))
        .route("/payments", get(payments))
        .route("/payments/{id}", get(payment))
        .route("/subscriptions", get(subscriptions))
        .route("/subscriptions/{id}", get(subscription))
        .route("/webhooks", get(catalog::endpoints).post(catalog::make_endpoint))
        .route("/webhooks/{id}", get(catalog::endpoint))
        .route("/webhooks/{id}/secret", get(catalog::endpoint_secret))
        .route("/credit-entitlements", get(catalog::entitlements).post(catalog::make_entitlement))
        .route("/credit-entitlements/{entitlement}", get(catalog::entitlement))
        .route(balances, get(list_balances))
        .route(&format!("{balances}/{{customer}}"), get(balance))
        .route(&format!("{balances}/{{customer}}/grants"), get(grants))
        .route(&format!("{balances}/{{customer}}/ledger"), get(ledger_list))
        .route(&format!("{balances}/{{customer}}/ledger-entries"), post(entries::post))
        .fallback(async || Refusal::not_found("Route"))
        .layer(from_fn_with_state(dodo.clone(), misbehave))
        .layer(from_fn_with_state(dodo.clone(), gate))
        .with_state(dodo.clone());
    let controls = Router::new()
        .route("/_behaviour", get(show_behaviour).put(set_behaviour))
        .route("/_payments/{id}/refund", post(refund))
        .route("/_payments/{id}/dispute", post(dispute))
        .with_state(dodo.clone());
    api.merge(controls).merge(dodo.faults().routes()).merge(dodo.checkout_page())
}

async fn show_behaviour(State(dodo): State<DodoStandIn>) -> Json<Behaviour> {
    Json(dodo.behaviour())
}

async fn set_behaviour(State(dodo): State<DodoStandIn>, Json(behaviour): Json<Behaviour>) -> StatusCode {
    dodo.behave(|current| *current = behaviour);
    StatusCode::NO_CONTENT
}

async fn refund(State(dodo): State<DodoStandIn>, Path(payment_id): Path<String>) -> StatusCode {
    if dodo.refund(&payment_id) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

async fn dispute(State(dodo): State<DodoStandIn>, Path(payment_id): Path<String>) -> StatusCode {
    if dodo.dispute(&payment_id) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

/// Counts the request, checks its key and marks the answer with what is left of the rate limit.
async fn gate(State(dodo): State<DodoStandIn>, request: Request, next: Next) -> Response {
    dodo.0.calls.fetch_add(1, Ordering::SeqCst);
    let verdict = dodo.admit();
    let mut response = if verdict.allowed {
        match refused_key(request.headers(), request.method()) {
            None => next.run(request).await,
            Some(refused) => refused,
        }
    } else {
        // Documented without a message.
        (StatusCode::TOO_MANY_REQUESTS, Json(json!({ "code": "TOO_MANY_REQUESTS" }))).into_response()
    };
    let fields = [
        ("x-ratelimit-limit", i64::from(verdict.limit)),
        ("x-ratelimit-remaining", i64::from(verdict.remaining)),
        ("x-ratelimit-reset", verdict.reset_s),
    ];
    for (name, value) in fields {
        response.headers_mut().entry(HeaderName::from_static(name)).or_insert(HeaderValue::from(value));
    }
    response
}

/// The answer to a key that may not do this; `None` if it may.
fn refused_key(fields: &HeaderMap, method: &Method) -> Option<Response> {
    let key = fields.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = key.and_then(|value| value.strip_prefix("Bearer "));
    match key {
        Some(DODO_API_KEY) => None,
        Some(DODO_READ_ONLY_API_KEY) if method == Method::GET => None,
        // Not a 403, and not a word about why.
        Some(DODO_READ_ONLY_API_KEY) => Some(StatusCode::UNAUTHORIZED.into_response()),
        _ => Some(Refusal::unauthorized().into_response()),
    }
}

async fn misbehave(State(dodo): State<DodoStandIn>, request: Request, next: Next) -> Response {
    match dodo.faults().take(request.method().as_str(), request.uri().path()) {
        None => next.run(request).await,
        Some(Misbehaviour::ForgetKeys) => match dodo.forget_keys() {
            Ok(()) => next.run(request).await,
            Err(error) => Refusal::internal(&error).into_response(),
        },
        Some(fault) => faults::commit(fault, request, next, &dodo.0.tasks).await,
    }
}

impl DodoStandIn {
    /// Counts a request; the verdict of the window that has least left.
    fn admit(&self) -> Verdict {
        let now_ms = self.now_ms();
        let behaviour = self.behaviour();
        let mut windows = lock(&self.0.windows);
        let [second, minute] = &mut *windows;
        let in_second = second.take(now_ms, behaviour.per_second);
        if !in_second.allowed {
            return in_second;
        }
        minute.take(now_ms, behaviour.per_minute)
    }
}

/// `page_size` and `page_number`, which counts from 0.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    page_size: Option<usize>,
    page_number: Option<usize>,
}

impl Page {
    /// That page of `items`, and no count of them all.
    pub(super) fn of<T>(&self, items: impl Iterator<Item = T>) -> Result<Vec<T>, Refusal> {
        let size = self.page_size.unwrap_or(10);
        if !(1..=100).contains(&size) {
            return Err(Refusal::unprocessable(
                "INVALID_QUERY_PARAMS",
                "page_size must be between 1 and 100",
            ));
        }
        let skipped = self.page_number.unwrap_or(0).saturating_mul(size);
        Ok(items.skip(skipped).take(size).collect())
    }
}

pub(super) fn items(items: Vec<Value>) -> Json<Value> {
    Json(json!({ "items": items }))
}

pub(super) type Answer = Result<Json<Value>, Refusal>;

/// Whether the ledger is that of this entitlement; one that was made has an empty one.
fn has_ledger(dodo: &DodoStandIn, id: &str) -> Result<bool, Refusal> {
    let is_known = dodo.kept().books.knows_entitlement(id);
    is_known.then_some(id == ENTITLEMENT_ID).ok_or_else(|| Refusal::not_found("Credit entitlement"))
}

/// The same, for what only a customer with credits has.
fn needs_ledger(dodo: &DodoStandIn, id: &str) -> Result<(), Refusal> {
    if has_ledger(dodo, id)? { Ok(()) } else { Err(Refusal::not_found("Credit balance")) }
}

#[derive(Debug, Deserialize)]
struct OneCustomer {
    customer_id: Option<String>,
}

async fn list_balances(
    State(dodo): State<DodoStandIn>,
    Path(entitlement): Path<String>,
    Query(page): Query<Page>,
    Query(only): Query<OneCustomer>,
) -> Answer {
    if !has_ledger(&dodo, &entitlement)? {
        return Ok(items(Vec::new()));
    }
    let amounts = dodo.behaviour().amounts;
    let ids: Vec<String> = match only.customer_id {
        Some(id) => {
            let kept = dodo.kept();
            page.of(kept.books.account(&id).map(|account| account.customer_id.clone()).into_iter())?
        }
        None => page.of(dodo.kept().books.accounts().iter().map(|account| account.customer_id.clone()))?,
    };
    let now_ms = dodo.now_ms();
    let mut kept = dodo.kept();
    for id in &ids {
        kept.lapse(id, now_ms).map_err(|error| Refusal::internal(&error))?;
    }
    let accounts = ids.iter().filter_map(|id| kept.books.account(id));
    Ok(items(accounts.map(|account| wire::balance(account, amounts)).collect()))
}

async fn balance(
    State(dodo): State<DodoStandIn>,
    Path((entitlement, customer_id)): Path<(String, String)>,
) -> Answer {
    needs_ledger(&dodo, &entitlement)?;
    let now_ms = dodo.now_ms();
    let amounts = dodo.behaviour().amounts;
    let mut kept = dodo.kept();
    kept.lapse(&customer_id, now_ms).map_err(|error| Refusal::internal(&error))?;
    let account = kept.books.account(&customer_id).ok_or_else(|| Refusal::not_found("Credit balance"))?;
    Ok(Json(wire::balance(account, amounts)))
}

#[derive(Debug, Deserialize)]
struct GrantFilter {
    status: Option<GrantStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GrantStatus {
    Active,
    Expired,
    Depleted,
}

impl GrantStatus {
    fn of(grant: &ledger::Grant, now_ms: i64) -> Self {
        match grant.expires_ms {
            Some(expires) if expires <= now_ms => Self::Expired,
            _ if grant.remaining == 0 => Self::Depleted,
            _ => Self::Active,
        }
    }
}

async fn grants(
    State(dodo): State<DodoStandIn>,
    Path((entitlement, customer_id)): Path<(String, String)>,
    Query(page): Query<Page>,
    Query(filter): Query<GrantFilter>,
) -> Answer {
    needs_ledger(&dodo, &entitlement)?;
    let now_ms = dodo.now_ms();
    let amounts = dodo.behaviour().amounts;
    let mut kept = dodo.kept();
    kept.lapse(&customer_id, now_ms).map_err(|error| Refusal::internal(&error))?;
    let account = kept.books.account(&customer_id).ok_or_else(|| Refusal::not_found("Credit balance"))?;
    let wanted =
        |grant: &&ledger::Grant| filter.status.is_none_or(|status| status == GrantStatus::of(grant, now_ms));
    let found = account.grants.iter().filter(wanted);
    Ok(items(page.of(found.map(|grant| wire::grant(&customer_id, grant, amounts, now_ms)))?))
}

#[derive(Debug, Deserialize)]
struct LedgerFilter {
    transaction_type: Option<ledger::Transaction>,
    start_date: Option<String>,
    end_date: Option<String>,
}

async fn ledger_list(
    State(dodo): State<DodoStandIn>,
    Path((entitlement, customer_id)): Path<(String, String)>,
    Query(page): Query<Page>,
    Query(filter): Query<LedgerFilter>,
) -> Answer {
    needs_ledger(&dodo, &entitlement)?;
    let from_ms = moment(filter.start_date.as_deref())?.unwrap_or(i64::MIN);
    let to_ms = moment(filter.end_date.as_deref())?.unwrap_or(i64::MAX);
    let with_reason = dodo.behaviour().reason_in_ledger;
    let kept = dodo.kept();
    let account = kept.books.account(&customer_id).ok_or_else(|| Refusal::not_found("Credit balance"))?;
    // Newest first, so the first pages suffice for whoever looks for something recent.
    let found = account.lines.iter().rev().filter(|line| {
        filter.transaction_type.is_none_or(|wanted| wanted == line.transaction)
            && (from_ms..=to_ms).contains(&line.at_ms)
    });
    Ok(items(page.of(found.map(|line| wire::ledger_entry(&customer_id, line, with_reason)))?))
}

fn moment(text: Option<&str>) -> Result<Option<i64>, Refusal> {
    let parsed = text.map(str::parse::<jiff::Timestamp>).transpose();
    parsed
        .map(|at| at.map(jiff::Timestamp::as_millisecond))
        .map_err(|_| Refusal::unprocessable("INVALID_QUERY_PARAMS", "dates must be RFC 3339 date-times"))
}

#[derive(Debug, Deserialize)]
struct NewCustomer {
    email: String,
    name: String,
    phone_number: Option<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

async fn join(State(dodo): State<DodoStandIn>, Json(new): Json<NewCustomer>) -> Answer {
    check_metadata(Some(&new.metadata))?;
    if !new.email.contains('@') {
        return Err(Refusal::unprocessable("INVALID_REQUEST_BODY", "email is not an email address"));
    }
    let customer = Customer {
        customer_id: fresh("cus"),
        email: new.email,
        name: new.name,
        phone_number: new.phone_number,
        metadata: new.metadata,
        created_ms: dodo.now_ms(),
    };
    let answer = wire::customer(&customer);
    dodo.kept().commit(vec![Event::Joined(customer)]).map_err(|error| Refusal::internal(&error))?;
    Ok(Json(answer))
}

#[derive(Debug, Deserialize)]
struct CustomerFilter {
    email: Option<String>,
    name: Option<String>,
}

async fn customers(
    State(dodo): State<DodoStandIn>,
    Query(page): Query<Page>,
    Query(filter): Query<CustomerFilter>,
) -> Answer {
    let kept = dodo.kept();
    let found = kept.books.customers().iter().filter(|customer| {
        filter.email.as_ref().is_none_or(|email| customer.email.eq_ignore_ascii_case(email))
            && filter.name.as_ref().is_none_or(|name| customer.name.contains(name))
    });
    Ok(items(page.of(found.map(wire::customer))?))
}

async fn customer(State(dodo): State<DodoStandIn>, Path(id): Path<String>) -> Answer {
    let kept = dodo.kept();
    let found = kept.books.customer(&id).ok_or_else(|| Refusal::not_found("Customer"))?;
    Ok(Json(wire::customer(found)))
}

async fn customer_entitlements(State(dodo): State<DodoStandIn>, Path(id): Path<String>) -> Answer {
    let now_ms = dodo.now_ms();
    let mut kept = dodo.kept();
    kept.lapse(&id, now_ms).map_err(|error| Refusal::internal(&error))?;
    kept.books.customer(&id).ok_or_else(|| Refusal::not_found("Customer"))?;
    Ok(items(kept.books.account(&id).map(wire::customer_entitlement).into_iter().collect()))
}

fn payment_json(books: &Books, payment: &shop::Payment) -> Option<Value> {
    books.customer(&payment.customer_id).map(|payer| wire::payment(payment, payer))
}

async fn payments(
    State(dodo): State<DodoStandIn>,
    Query(page): Query<Page>,
    Query(only): Query<OneCustomer>,
) -> Answer {
    let kept = dodo.kept();
    let found = kept.books.payments().iter().rev();
    let found = found.filter(|payment| only.customer_id.as_ref().is_none_or(|id| *id == payment.customer_id));
    Ok(items(page.of(found.filter_map(|payment| payment_json(&kept.books, payment)))?))
}

async fn payment(State(dodo): State<DodoStandIn>, Path(id): Path<String>) -> Answer {
    let kept = dodo.kept();
    let found = kept.books.payment(&id).and_then(|payment| payment_json(&kept.books, payment));
    found.map(Json).ok_or_else(|| Refusal::not_found("Payment"))
}

fn subscription_json(books: &Books, subscription: &shop::Subscription) -> Option<Value> {
    let balance = books.account(&subscription.customer_id).map_or(0, |account| account.balance);
    books.customer(&subscription.customer_id).map(|payer| wire::subscription(subscription, payer, balance))
}

async fn subscriptions(
    State(dodo): State<DodoStandIn>,
    Query(page): Query<Page>,
    Query(only): Query<OneCustomer>,
) -> Answer {
    let kept = dodo.kept();
    let found = kept.books.subscriptions().iter().rev();
    let found = found.filter(|one| only.customer_id.as_ref().is_none_or(|id| *id == one.customer_id));
    let mut found = page.of(found.filter_map(|one| subscription_json(&kept.books, one)))?;
    // Documented: the items of the list lack what the object itself has.
    for fields in found.iter_mut().filter_map(Value::as_object_mut) {
        for absent in ["credit_entitlement_cart", "brand_id", "addons", "meters"] {
            fields.remove(absent);
        }
    }
    Ok(items(found))
}

async fn subscription(State(dodo): State<DodoStandIn>, Path(id): Path<String>) -> Answer {
    let kept = dodo.kept();
    let found = kept.books.subscription(&id).and_then(|one| subscription_json(&kept.books, one));
    found.map(Json).ok_or_else(|| Refusal::not_found("Subscription"))
}

#[derive(Debug, Deserialize)]
struct NewSession {
    product_cart: Vec<CartLine>,
    customer: Option<Buyer>,
    return_url: Option<String>,
    cancel_url: Option<String>,
    metadata: Option<Map<String, Value>>,
    feature_flags: Option<Flags>,
}

#[derive(Debug, Deserialize)]
struct CartLine {
    product_id: String,
    quantity: u32,
    credit_entitlements: Option<Vec<CreditOverride>>,
}

#[derive(Debug, Deserialize)]
struct CreditOverride {
    credit_entitlement_id: String,
    credits_amount: String,
}

#[derive(Debug, Default, Deserialize)]
struct Flags {
    #[serde(default)]
    always_create_new_customer: bool,
}

impl CartLine {
    fn into_item(self, books: &Books) -> Result<Item, Refusal> {
        let invalid = |message: String| Refusal::unprocessable("INVALID_REQUEST_BODY", message);
        let ware = books.catalog().ware(&self.product_id)?;
        let quantity = u64::from(self.quantity);
        let mut credits = ware.credits.saturating_mul(quantity);
        for given in self.credit_entitlements.unwrap_or_default() {
            if given.credit_entitlement_id != ENTITLEMENT_ID {
                return Err(invalid("The credit entitlement is not attached to the product".to_owned()));
            }
            let whole =
                ledger::whole_credits(&given.credits_amount).map_err(|why| invalid(why.to_owned()))?;
            credits = whole.saturating_mul(quantity);
        }
        Ok(Item::new(self.product_id, quantity, credits, ware))
    }
}

async fn open_checkout(State(dodo): State<DodoStandIn>, Json(new): Json<NewSession>) -> Answer {
    check_metadata(new.metadata.as_ref())?;
    if new.product_cart.iter().all(|line| line.quantity == 0) {
        // Spelt so in the documentation.
        return Err(Refusal::unprocessable("PRODUCT_CART_EMTPY", "The product cart is empty"));
    }
    let mut kept = dodo.kept();
    let lines = new.product_cart.into_iter().map(|line| line.into_item(&kept.books));
    let cart = lines.collect::<Result<Vec<_>, _>>()?;
    if let Some(Buyer::Known { customer_id }) = &new.customer
        && kept.books.customer(customer_id).is_none()
    {
        return Err(Refusal::unprocessable("INVALID_REQUEST_BODY", "Customer not found"));
    }
    let session = Session {
        session_id: fresh("cks"),
        cart,
        buyer: new.customer,
        always_new_customer: new.feature_flags.unwrap_or_default().always_create_new_customer,
        return_url: new.return_url,
        cancel_url: new.cancel_url,
        metadata: new.metadata.unwrap_or_default(),
        created_ms: dodo.now_ms(),
        payment_id: None,
    };
    let session_id = session.session_id.clone();
    kept.commit(vec![Event::Opened(session)]).map_err(|error| Refusal::internal(&error))?;
    let base = lock(&dodo.0.checkout_base).clone();
    Ok(Json(json!({
        "session_id": session_id,
        "checkout_url": format!("{base}/sandbox/checkout/{session_id}"),
        "client_secret": null,
        "payment_id": null,
        "publishable_key": null,
    })))
}

async fn checkout_status(State(dodo): State<DodoStandIn>, Path(id): Path<String>) -> Answer {
    let kept = dodo.kept();
    let session = kept.books.session(&id).ok_or_else(|| Refusal::not_found("Checkout session"))?;
    let payment = session.payment_id.as_ref().and_then(|id| kept.books.payment(id));
    let payer = payment.and_then(|payment| kept.books.customer(&payment.customer_id));
    Ok(Json(wire::session_status(session, payer)))
}
