//! News for a customer's open page, as server-sent events (WHATWG HTML, "Server-sent events"):
//! credits and where the newest messages stand, told when they change.
//!
//! `change` carries them as JSON, `end` says that nobody is signed in any more, a comment in
//! between that the line is there. Whoever listens looks every two seconds: at their standing,
//! which is gathered with all such questions, and at the newest messages, a look that all
//! listeners of a customer share. They are few: whoever finds no place is told so, and the
//! page looks by itself now and then. A stop ends all of them at once, and the browsers come
//! back. What this must not know: what the page does with it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde_json::json;
use tokio::time::Instant;

use super::Shared;
use super::auth::Visitor;
use super::error::HttpError;
use super::listener::Stopping;
use crate::census::{Census, Counted};
use crate::domain::ids::CustomerId;
use crate::store::standing::Standing;
use crate::store::usage::Standpoint;
use crate::store::{Store, StoreError};

/// How often somebody who listens looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How old a look may be that somebody else made.
const SHARED_FOR: Duration = Duration::from_millis(1_500);
/// The wait after a look that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// After so long without news the line is shown to be there: less than proxies wait.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Messages that are looked at, those that the overview shows among them.
const NEWEST: u32 = 25;
/// Listeners of one customer, and of all.
const MOST_OF_ONE: usize = 10;
const MOST: usize = 500;
/// Seconds after which somebody who found no place may try again.
const NO_PLACE_RETRY_S: u64 = 30;
/// What a browser is told first: when to come back after the line was lost.
const WELCOME: &str = "retry: 3000\n\n";
const STILL_THERE: &str = ": \n\n";
const OVER: &str = "event: end\ndata: {}\n\n";

/// Who listens, and what they share.
#[derive(Debug)]
pub(super) struct Lives {
    of_one: Arc<Census<CustomerId>>,
    all: Arc<Census<()>>,
    looks: Mutex<BTreeMap<CustomerId, Weak<Look>>>,
}

impl Lives {
    pub(super) fn new() -> Self {
        Self { of_one: Census::new(MOST_OF_ONE), all: Census::new(MOST), looks: Mutex::default() }
    }

    fn seat(&self, customer_id: &CustomerId) -> Option<(Counted<CustomerId>, Counted<()>)> {
        Some((self.of_one.count(customer_id.clone())?, self.all.count(())?))
    }

    fn look(&self, customer_id: &CustomerId) -> Arc<Look> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = looks.get(customer_id).and_then(Weak::upgrade) {
            return look;
        }
        looks.retain(|_, look| look.strong_count() > 0);
        let look = Arc::<Look>::default();
        looks.insert(customer_id.clone(), Arc::downgrade(&look));
        look
    }
}

/// What was seen, and when.
type Seen = (Instant, Arc<Vec<Standpoint>>);

/// The newest look at a customer's messages.
#[derive(Debug, Default)]
struct Look(tokio::sync::Mutex<Option<Seen>>);

impl Look {
    async fn at(&self, store: &Store, customer_id: &CustomerId) -> Result<Arc<Vec<Standpoint>>, StoreError> {
        let mut last = self.0.lock().await;
        if let Some((at, seen)) = &*last
            && at.elapsed() < SHARED_FOR
        {
            return Ok(Arc::clone(seen));
        }
        let seen = Arc::new(store.standpoints(customer_id, NEWEST).await?);
        *last = Some((Instant::now(), Arc::clone(&seen)));
        Ok(seen)
    }
}

/// `GET /account/live`
pub(super) async fn live(visitor: Visitor, State(site): State<Shared>, request: Request) -> Response {
    let customer_id = visitor.who.customer_id;
    let Some(seat) = site.lives.seat(&customer_id) else {
        return HttpError::TooFast { retry_after_s: NO_PLACE_RETRY_S }.into_response();
    };
    let cookies = request.headers().get_all(header::COOKIE).iter();
    let listener = Listener {
        look: site.lives.look(&customer_id),
        headers: cookies.map(|cookie| (header::COOKIE, cookie.clone())).collect(),
        stopping: request.extensions().get().cloned().unwrap_or_default(),
        site,
        customer_id,
        told: None,
        told_at: Instant::now(),
        is_over: false,
        _seat: seat,
    };
    // Proxies that gather answers would keep news to themselves.
    const UNGATHERED: HeaderName = HeaderName::from_static("x-accel-buffering");
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (UNGATHERED, "no")];
    (headers, Body::new(Feed(Some(Box::pin(listener.next()))))).into_response()
}

/// Somebody who listens.
struct Listener {
    site: Shared,
    customer_id: CustomerId,
    /// What says who is signed in.
    headers: HeaderMap,
    look: Arc<Look>,
    stopping: Stopping,
    /// What was told last; `None`: nothing yet.
    told: Option<String>,
    told_at: Instant,
    is_over: bool,
    _seat: (Counted<CustomerId>, Counted<()>),
}

impl Listener {
    /// What is said next, and who hears what comes after it; `None`: nothing more.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        if self.is_over {
            return None;
        }
        let stop = self.stopping.0.clone();
        let text = stop.run_until_cancelled(self.hear()).await?;
        self.told_at = Instant::now();
        Some((Bytes::from(text), self))
    }

    async fn hear(&mut self) -> String {
        let mut wait = LOOK_EVERY;
        loop {
            let is_first = self.told.is_none();
            if !is_first {
                tokio::time::sleep(wait).await;
            }
            wait = LOOK_EVERY;
            match self.see().await {
                Ok(None) => {
                    self.is_over = true;
                    return OVER.to_owned();
                }
                Ok(Some(seen)) if self.told.as_ref() != Some(&seen) => {
                    let welcome = if is_first { WELCOME } else { "" };
                    let mut text = String::from(welcome);
                    let _ = write!(text, "event: change\ndata: {seen}\n\n");
                    self.told = Some(seen);
                    return text;
                }
                Ok(Some(_)) => {}
                // It was logged. Whoever hears nothing at first is told that the line is there.
                Err(_) if is_first => {
                    self.told = Some(String::new());
                    return WELCOME.to_owned();
                }
                Err(_) => wait = LOOK_AGAIN,
            }
            if self.told_at.elapsed() >= HEARTBEAT {
                return STILL_THERE.to_owned();
            }
        }
    }

    /// How things stand; `None`: nobody is signed in any more.
    async fn see(&self) -> Result<Option<String>, HttpError> {
        let Some(visitor) = Visitor::find(&self.headers, &self.site).await? else { return Ok(None) };
        if visitor.who.customer_id != self.customer_id {
            return Ok(None);
        }
        let messages = self.look.at(&self.site.store, &self.customer_id).await?;
        Ok(Some(news(&visitor.standing, &messages)))
    }
}

/// What is told, in one line.
fn news(standing: &Standing, messages: &[Standpoint]) -> String {
    let account = &standing.account;
    let messages = messages.iter();
    let messages: Vec<_> = messages
        .map(|message| json!({ "id": message.message_id, "state": message.state, "steps": message.steps }))
        .collect();
    let news = json!({
        "available": account.available(),
        "balance": account.balance,
        "held": account.held.to_i64(),
        "owed": account.owed.to_i64(),
        "suspended": standing.suspended_reason.is_some(),
        "messages": messages,
    });
    news.to_string()
}

type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Listener)>> + Send>>;

/// What a listener hears, as a body that ends when nobody may hear more.
struct Feed(Option<Next>);

impl HttpBody for Feed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(next) = &mut self.0 else { return Poll::Ready(None) };
        let said = ready!(next.as_mut().poll(cx));
        let (text, rest) = said.map(|(text, listener)| (text, listener.next())).unzip();
        self.0 = rest.map(|rest| -> Next { Box::pin(rest) });
        Poll::Ready(text.map(|text| Ok(Frame::data(text))))
    }
}
