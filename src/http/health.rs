//! How we are: for supervisors, load balancers and Prometheus.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use serde_json::{Value, json};

use super::{Shared, Site};
use crate::domain::closure::Closure;
use crate::telemetry::{METRICS_CONTENT_TYPE, Metrics};

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /readyz`: 200 when mail is taken in and leaves, 503 when it does not;
/// `problems` says what is wrong either way, and never what a service told us: anyone
/// may ask. While Dodo does not answer, customers with known credit go on sending, so
/// that alone is told and does not take the node out of service (P8).
pub(super) async fn readyz(State(site): State<Shared>) -> Response {
    let mut problems = reasons_not_to(&site).await;
    let is_ready = problems.is_empty();
    if !site.metrics.is_dodo_up() {
        problems.push(json!({
            "what": "dodo",
            "problem": "the last call to Dodo failed or was not answered; debits wait",
        }));
    }
    let refused = site.metrics.dodo_refuses();
    if !refused.is_empty() {
        problems.push(json!({
            "what": "dodo_refuses",
            "calls": refused,
            "problem": "Dodo refuses these calls: the API key, its rights or the credit entitlement are wrong. \
                        The log says more",
        }));
    }
    if site.metrics.parts_held() > 0 {
        problems.push(json!({
            "what": "held",
            "parts": site.metrics.parts_held(),
            "problem": "the outcome of these parts cannot be known; they are not sent again, and their credits stay on hold; `postmeter queue list --state held` shows them",
        }));
    }
    if site.metrics.entries_doubtful() > 0 {
        problems.push(json!({
            "what": "doubtful",
            "entries": site.metrics.entries_doubtful(),
            "problem": "whether Dodo applied these entries cannot be told yet; they are not posted again, and their credits stay owed. `postmeter entry list` shows them",
        }));
    }
    if site.metrics.ledger_drift() != 0 {
        problems.push(json!({
            "what": "drift",
            "credits": site.metrics.ledger_drift(),
            "problem": "sums in the books disagree by so many credits; `postmeter audit` says where",
        }));
    }
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": is_ready, "problems": problems }))).into_response()
}

/// Why mail is not taken in, or does not leave, or why this server is not the one to send it to.
async fn reasons_not_to(site: &Site) -> Vec<Value> {
    let mut problems = Vec::new();
    if site.draining.is_cancelled() {
        problems.push(json!({
            "what": "stopping",
            "problem": "the server was told to stop; it serves whoever still comes, for `drain_s` seconds",
        }));
    }
    let gates = match site.store.ping().await {
        Ok(()) => site.store.gates().await,
        Err(error) => Err(error),
    };
    match gates {
        Ok(gates) => {
            for gate in gates {
                problems.push(json!({
                    "what": "upstream",
                    "upstream": gate.road.as_str(),
                    "since": gate.since,
                    "try_again_at": gate.try_again_at,
                    "reason": Closure::of(&gate.reason).as_str(),
                    "problem": "the upstream takes no mail from us; messages wait. The log and `postmeter queue list` say more",
                }));
            }
        }
        Err(error) => {
            error.tell("not ready");
            problems.push(json!({ "what": "store", "problem": "the database cannot be written" }));
        }
    }
    problems
}

/// `GET /metrics` alone, for the address that metrics may be bound to.
pub fn metrics_router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", routing::get(metrics_page)).with_state(metrics)
}

async fn metrics_page(State(metrics): State<Metrics>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], metrics.encode()).into_response()
}
