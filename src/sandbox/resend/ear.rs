//! Who listens to what arrives: each call as it came in, before anything is made of it.

use std::fmt;
use std::sync::OnceLock;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::routes::MAX_BODY_OCTETS;
use super::{Refusal, ResendStandIn};

type Listener = dyn Fn(&Parts, &[u8]) + Send + Sync;

/// Nobody, or one.
#[derive(Default)]
pub(super) struct Ear(OnceLock<Box<Listener>>);

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ear").field(&self.0.get().is_some()).finish()
    }
}

impl ResendStandIn {
    /// Has every call to the API heard that arrives whole, from now on; there is one listener at
    /// most, the first.
    pub fn listen(&self, listener: impl Fn(&Parts, &[u8]) + Send + Sync + 'static) {
        self.0.ear.0.get_or_init(|| Box::new(listener));
    }
}

pub(super) async fn hear(State(resend): State<ResendStandIn>, request: Request, next: Next) -> Response {
    let Some(listener) = resend.0.ear.0.get() else { return next.run(request).await };
    let (head, body) = request.into_parts();
    let Ok(octets) = to_bytes(body, MAX_BODY_OCTETS).await else {
        return Refusal::validation("The request is not whole.").into_response();
    };
    listener(&head, &octets);
    next.run(Request::from_parts(head, Body::from(octets))).await
}
