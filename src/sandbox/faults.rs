//! Faults on demand: what a stand-in does wrong, when, and how often.
//!
//! Faults are a queue. The first one that fits a request and is due befalls it;
//! each befalls as many requests as it says and is gone. From Rust they are
//! pushed with [`Faults::push`]; over HTTP with `POST /_faults` on the stand-in
//! (a JSON object of [`Fault`]), listed with `GET`, cleared with `DELETE`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Json, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::Tasks;
use super::wire::Cut;

/// One fault: which requests, how many of them, and what happens to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Only requests with this method; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only requests whose path contains this; empty: any.
    #[serde(default)]
    pub path: String,
    /// So many fitting requests pass unharmed first.
    #[serde(default)]
    pub skip: u64,
    /// So many are befallen after them.
    #[serde(default = "once")]
    pub times: u64,
    /// What happens.
    #[serde(flatten)]
    pub misbehaviour: Misbehaviour,
}

const fn once() -> u64 {
    1
}

/// What can go wrong. In JSON: `{"kind": "answer", "status": 500}`, `{"kind": "drop_after"}` …
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Misbehaviour {
    /// This answer, and nothing takes effect.
    Answer(Reply),
    /// The request takes effect, and then this is answered.
    AnswerAfter(Reply),
    /// The connection is lost; nothing takes effect.
    DropBefore,
    /// The request takes effect; the connection is lost before the answer.
    DropAfter,
    /// No answer ever; nothing takes effect.
    HangBefore,
    /// The request takes effect; no answer ever.
    HangAfter,
    /// The request takes effect, and is answered, only after a while, even if the client has left.
    Late {
        /// The while, in milliseconds.
        delay_ms: u64,
    },
    /// The request takes effect; half of the answer's body is missing.
    Garble,
    /// Every idempotency key is forgotten; then the request is served as usual.
    ForgetKeys,
}

/// An answer made up beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// Header fields, names in lower case.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Body; sent as JSON if it begins with a brace.
    #[serde(default)]
    pub body: String,
}

impl Reply {
    /// An answer without a body.
    pub fn status(status: u16) -> Self {
        Self { status, headers: BTreeMap::new(), body: String::new() }
    }

    /// The same answer with a body.
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// The same answer with a header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_ascii_lowercase(), value.to_owned());
        self
    }
}

impl From<Reply> for Misbehaviour {
    fn from(reply: Reply) -> Self {
        Self::Answer(reply)
    }
}

impl Fault {
    /// A fault that befalls the next request, whatever it is.
    pub fn new(misbehaviour: impl Into<Misbehaviour>) -> Self {
        Self { method: None, path: String::new(), skip: 0, times: 1, misbehaviour: misbehaviour.into() }
    }

    /// The same, for requests with this method whose path contains `path`.
    pub fn on(mut self, method: &str, path: &str) -> Self {
        self.method = Some(method.to_owned());
        path.clone_into(&mut self.path);
        self
    }

    /// The same, for so many requests.
    pub const fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// The same, until it is cleared.
    pub const fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// The same, after so many fitting requests passed unharmed.
    pub const fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    fn fits(&self, method: &str, path: &str) -> bool {
        self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && path.contains(&self.path)
    }
}

/// The faults that a stand-in has yet to commit.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    queue: Arc<Mutex<Vec<Fault>>>,
    struck: Arc<AtomicU64>,
}

impl Faults {
    /// Adds a fault behind the others.
    pub fn push(&self, fault: Fault) {
        self.lock().push(fault);
    }

    /// Forgets those faults that are not to `stay`.
    pub fn retain(&self, stay: impl Fn(&Fault) -> bool) {
        self.lock().retain(stay);
    }

    /// Forgets all faults.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// The faults still to come.
    pub fn pending(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// How many requests were befallen so far.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::SeqCst)
    }

    /// What befalls this request, if anything.
    pub(super) fn take(&self, method: &str, path: &str) -> Option<Misbehaviour> {
        let mut queue = self.lock();
        let mut due = None;
        for (index, fault) in queue.iter_mut().enumerate() {
            if !fault.fits(method, path) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            fault.times = if fault.times == u64::MAX { u64::MAX } else { fault.times.saturating_sub(1) };
            due = Some((index, fault.misbehaviour.clone(), fault.times == 0));
            break;
        }
        let (index, misbehaviour, spent) = due?;
        if spent {
            queue.remove(index);
        }
        self.struck.fetch_add(1, Ordering::SeqCst);
        Some(misbehaviour)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The routes that steer this queue over HTTP.
    pub(super) fn routes(&self) -> Router {
        Router::new()
            .route(
                "/_faults",
                get(|State(faults): State<Self>| async move { Json(faults.pending()) })
                    .post(|State(faults): State<Self>, Json(fault): Json<Fault>| async move {
                        faults.push(fault);
                        StatusCode::NO_CONTENT
                    })
                    .delete(|State(faults): State<Self>| async move {
                        faults.clear();
                        StatusCode::NO_CONTENT
                    }),
            )
            .with_state(self.clone())
    }
}

/// Serves a request the way the fault says. `ForgetKeys` is the caller's; here it changes nothing.
pub(super) async fn commit(fault: Misbehaviour, request: Request, next: Next, tasks: &Tasks) -> Response {
    let cut = request.extensions().get::<ConnectInfo<Cut>>().map(|ConnectInfo(cut)| cut.clone());
    match fault {
        Misbehaviour::Answer(reply) => reply.into_response(),
        Misbehaviour::AnswerAfter(reply) => {
            next.run(request).await;
            reply.into_response()
        }
        Misbehaviour::DropBefore => lose(cut),
        Misbehaviour::DropAfter => {
            next.run(request).await;
            lose(cut)
        }
        Misbehaviour::HangBefore => {
            tasks.stop.cancelled().await;
            lose(cut)
        }
        Misbehaviour::HangAfter => {
            next.run(request).await;
            tasks.stop.cancelled().await;
            lose(cut)
        }
        Misbehaviour::Late { delay_ms } => {
            // A task of its own: a client that gives up does not stop a server that is at work.
            let late = tasks.spawn(async move {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                next.run(request).await
            });
            late.await.unwrap_or_else(|_| lose(cut))
        }
        Misbehaviour::Garble => garble(next.run(request).await).await,
        Misbehaviour::ForgetKeys => next.run(request).await,
    }
}

/// The connection ends here. The answer is for the server library only and never leaves.
fn lose(cut: Option<Cut>) -> Response {
    if let Some(cut) = cut {
        cut.pull();
    }
    StatusCode::BAD_GATEWAY.into_response()
}

async fn garble(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let mut octets = to_bytes(body, usize::MAX).await.unwrap_or_default();
    octets.truncate(octets.len() / 2);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(octets))
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = self.body.starts_with('{');
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = status;
        let fields = response.headers_mut();
        if json {
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                fields.insert(name, value);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_befalls_only_its_requests_and_only_so_often() {
        let faults = Faults::default();
        faults.push(Fault::new(Misbehaviour::DropAfter).on("POST", "/ledger-entries").after(1).times(2));
        let post = || faults.take("POST", "/balances/c/ledger-entries");
        assert_eq!(faults.take("GET", "/balances/c"), None);
        assert_eq!(post(), None);
        assert_eq!(post(), Some(Misbehaviour::DropAfter));
        assert_eq!(post(), Some(Misbehaviour::DropAfter));
        assert_eq!(post(), None);
        assert_eq!(faults.struck(), 2);
        assert!(faults.pending().is_empty());
    }

    #[test]
    fn faults_can_be_written_as_json() {
        let json = r#"{"method":"POST","path":"/emails","times":3,"kind":"answer","status":429,"headers":{"retry-after":"2"}}"#;
        let wanted = Fault::new(Reply::status(429).header("Retry-After", "2")).on("POST", "/emails").times(3);
        assert_eq!(serde_json::from_str::<Fault>(json).unwrap(), wanted);
        let late: Fault = serde_json::from_str(r#"{"kind":"late","delay_ms":50}"#).unwrap();
        assert_eq!(late, Fault::new(Misbehaviour::Late { delay_ms: 50 }));
    }
}
