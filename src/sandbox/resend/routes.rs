//! Resend's API over HTTP: the gate in front (User-Agent, key, rate limit, keys in
//! progress, faults) and the routes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ear::hear;
use super::events::Asked;
use super::refusal::accepted;
use super::{Addresses, Behaviour, Call, Email, Endpoint, Key, Mail, Refusal, ResendStandIn, domains, lock};
use crate::sandbox::faults::{self, Misbehaviour};
use crate::sandbox::{RESEND_API_KEY, RESEND_SENDING_API_KEY};

/// What stands before the API takes no more than this, in octets.
pub(super) const MAX_BODY_OCTETS: usize = 64 << 20;
/// Most emails of a batch.
const MAX_BATCH: usize = 100;

/// Everything that the stand-in serves.
pub(super) fn router(resend: &ResendStandIn) -> Router {
    let api = Router::new()
        .route("/emails", post(send))
        .route("/emails/batch", post(send_batch))
        .route("/emails/{id}", get(retrieve))
        .route("/domains", get(domains::list).post(domains::create))
        .route("/domains/{id}", get(domains::retrieve).delete(domains::remove))
        .route("/domains/{id}/verify", post(domains::verify))
        .fallback(async || Refusal::not_found("Route"))
        .layer(DefaultBodyLimit::max(MAX_BODY_OCTETS))
        .layer(from_fn_with_state(resend.clone(), misbehave))
        .layer(from_fn_with_state(resend.clone(), one_at_a_time))
        .layer(from_fn_with_state(resend.clone(), gate))
        .layer(from_fn_with_state(resend.clone(), hear))
        .with_state(resend.clone());
    let controls = Router::new()
        .route("/_behaviour", get(show_behaviour).put(set_behaviour))
        .route("/_events", post(tell))
        .with_state(resend.clone());
    api.merge(controls).merge(resend.faults().routes())
}

async fn show_behaviour(State(resend): State<ResendStandIn>) -> Json<Behaviour> {
    Json(resend.behaviour())
}

async fn set_behaviour(State(resend): State<ResendStandIn>, Json(behaviour): Json<Behaviour>) -> StatusCode {
    resend.behave(|current| *current = behaviour);
    StatusCode::NO_CONTENT
}

/// Has something told of a mail, as often as it is asked for.
async fn tell(State(resend): State<ResendStandIn>, Json(asked): Json<Asked>) -> StatusCode {
    let Ok(Some(mail)) = resend.mail(&asked.email_id) else { return StatusCode::NOT_FOUND };
    let to: Vec<&str> = asked.to.iter().map(String::as_str).collect();
    resend.tell(&mail, &to, &asked.news);
    StatusCode::ACCEPTED
}

/// Who asks, with which key, and how often.
async fn gate(State(resend): State<ResendStandIn>, request: Request, next: Next) -> Response {
    if !request.headers().contains_key(header::USER_AGENT) {
        // Said by what stands before the API, which never sees the request.
        return (StatusCode::FORBIDDEN, "error code: 1010").into_response();
    }
    resend.0.calls.fetch_add(1, Ordering::SeqCst);
    let behaviour = resend.behaviour();
    let verdict = lock(&resend.0.window).take(resend.0.clock.now().as_millisecond(), behaviour.per_second);
    let mut response = if verdict.allowed {
        let sends =
            request.uri().path().starts_with("/emails") && request.method() == axum::http::Method::POST;
        match check_key(request.headers(), sends, &behaviour) {
            Ok(()) => next.run(request).await,
            Err(refusal) => refusal.into_response(),
        }
    } else {
        Refusal::rate_limited(verdict.reset_s).into_response()
    };
    let (today, this_month) = resend.used_quota();
    let mut fields = vec![
        ("ratelimit-limit", verdict.limit.to_string()),
        ("ratelimit-remaining", verdict.remaining.to_string()),
        ("ratelimit-reset", verdict.reset_s.to_string()),
        ("ratelimit-policy", format!("{};w=1", verdict.limit)),
        ("x-resend-monthly-quota", this_month.to_string()),
    ];
    if behaviour.daily_quota.is_some() {
        fields.push(("x-resend-daily-quota", today.to_string()));
    }
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().entry(HeaderName::from_static(name)).or_insert(value);
        }
    }
    response
}

fn check_key(fields: &HeaderMap, sends: bool, behaviour: &Behaviour) -> Result<(), Refusal> {
    let given = fields.get(header::AUTHORIZATION).ok_or_else(Refusal::missing_key)?;
    match given.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")) {
        Some(RESEND_API_KEY) => Ok(()),
        Some(RESEND_SENDING_API_KEY) if sends => Ok(()),
        Some(RESEND_SENDING_API_KEY) => Err(Refusal::restricted_key()),
        _ => Err(Refusal::bad_key(behaviour.bad_key_status)),
    }
}

/// Marks a key as being worked on; the mark goes with the request that carries it.
struct InProgress {
    resend: ResendStandIn,
    key: Key,
}

impl InProgress {
    fn begin(resend: &ResendStandIn, key: Key) -> Option<Self> {
        let begun = lock(&resend.0.in_progress).insert(key.clone());
        begun.then(|| Self { resend: resend.clone(), key })
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        lock(&self.resend.0.in_progress).remove(&self.key);
    }
}

async fn one_at_a_time(State(resend): State<ResendStandIn>, mut request: Request, next: Next) -> Response {
    let endpoint = if request.uri().path() == "/emails/batch" { Endpoint::Batch } else { Endpoint::Emails };
    match idempotency_key(request.headers()) {
        Err(refusal) => return refusal.into_response(),
        Ok(None) => {}
        Ok(Some(key)) => match InProgress::begin(&resend, (endpoint, key)) {
            Some(mark) => {
                request.extensions_mut().insert(Arc::new(mark));
            }
            None => return Refusal::concurrent().into_response(),
        },
    }
    next.run(request).await
}

fn idempotency_key(fields: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(key) = fields.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=256).contains(&key.chars().count()) => Ok(Some(key.to_owned())),
        _ => Err(Refusal::invalid_idempotency_key()),
    }
}

async fn misbehave(State(resend): State<ResendStandIn>, request: Request, next: Next) -> Response {
    match resend.faults().take(request.method().as_str(), request.uri().path()) {
        None => next.run(request).await,
        Some(Misbehaviour::ForgetKeys) => match resend.forget_keys() {
            Ok(()) => next.run(request).await,
            Err(error) => Refusal::application_error(error.to_string()).into_response(),
        },
        Some(fault) => faults::commit(fault, request, next, &resend.0.tasks).await,
    }
}

/// The parsed body, and what identifies the call.
fn read<T: DeserializeOwned>(
    endpoint: Endpoint,
    fields: &HeaderMap,
    body: &Bytes,
) -> Result<(Call, T), Refusal> {
    let parsed = serde_json::from_slice(body).map_err(|error| Refusal::validation(error.to_string()))?;
    let digest = STANDARD.encode(Sha256::digest(body));
    Ok((Call { endpoint, key: idempotency_key(fields)?, digest }, parsed))
}

async fn send(
    State(resend): State<ResendStandIn>,
    fields: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let (call, email): (Call, Email) = read(Endpoint::Emails, &fields, &body)?;
    let ids = resend.accept(call, vec![email])?;
    Ok(accepted(ids.first().map_or("", String::as_str)))
}

async fn send_batch(
    State(resend): State<ResendStandIn>,
    fields: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let (call, emails): (Call, Vec<Email>) = read(Endpoint::Batch, &fields, &body)?;
    if !(1..=MAX_BATCH).contains(&emails.len()) {
        return Err(Refusal::validation("A batch must have between 1 and 100 emails."));
    }
    if emails.iter().any(|email| email.attachments.as_ref().is_some_and(|files| !files.is_empty())) {
        return Err(Refusal::validation("The `attachments` field is not supported in a batch."));
    }
    let ids = resend.accept(call, emails)?;
    let data: Vec<Value> = ids.into_iter().map(|id| json!({ "id": id })).collect();
    Ok(Json(json!({ "data": data })).into_response())
}

async fn retrieve(State(resend): State<ResendStandIn>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let found = resend.mail(&id).map_err(|error| Refusal::application_error(error.to_string()))?;
    let mail = found.ok_or_else(|| Refusal::not_found("Email"))?;
    Ok(Json(retrieved(&mail)).into_response())
}

fn retrieved(mail: &Mail) -> Value {
    let email = &mail.email;
    let list = |of: &Option<Addresses>| of.as_ref().map(|list| list.as_slice().to_vec()).unwrap_or_default();
    let domain =
        email.from.as_deref().and_then(|from| from.rsplit_once('@')).map_or("", |(_, domain)| domain);
    json!({
        "object": "email",
        "id": mail.id,
        "message_id": format!("<{}@email.{}>", mail.id, domain.trim_end_matches('>')),
        // Not RFC 3339.
        "created_at": mail.at.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string(),
        "from": email.from,
        "to": list(&email.to),
        "cc": list(&email.cc),
        "bcc": list(&email.bcc),
        "reply_to": list(&email.reply_to),
        "subject": email.subject,
        "html": email.html,
        "text": email.text,
        "tags": email.tags.as_deref().unwrap_or_default(),
        "scheduled_at": null,
        "last_event": if email.is_stuck() { "queued" } else { "delivered" },
    })
}
