//! Bodies of requests: bounded in size and time, and understood or refused in
//! our own words.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Form, FromRequest, FromRequestParts, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::Shared;
use super::error::{HttpError, PageError};
use super::session::is_same_site;
use crate::memory::Share;

/// Octets of a body on most routes.
const SMALL_BYTES: usize = 64 << 10;
/// Octets of a form: the send form carries a letter.
const FORM_BYTES: usize = 512 << 10;
/// How long a small body may take to arrive.
const SMALL_WITHIN: Duration = Duration::from_secs(30);

/// The media type of forms.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";
/// The media type of everything else.
pub(super) const JSON: &str = "application/json";

/// Whether the body is declared to be of this media type, whatever its parameters.
pub(super) fn is_type(headers: &HeaderMap, wanted: &str) -> bool {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = declared.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(wanted)
}

/// Reads a body of at most `limit_bytes` that arrives `within` that time. Of a
/// larger one as much again is read and thrown away: a client that is still
/// sending when its connection closes never sees why.
pub(super) async fn read(body: Body, limit_bytes: usize, within: Duration) -> Result<Bytes, HttpError> {
    read_if(body, limit_bytes, within, |_| true).await
}

/// The same for the body of a message, which counts in memory as it arrives: as what
/// arrives, what is read out of it, and the message that is made of that.
pub(super) async fn read_message(
    body: Body,
    limit_bytes: usize,
    within: Duration,
    share: &mut Share,
) -> Result<Bytes, HttpError> {
    read_if(body, limit_bytes, within, |bytes| share.resize_to_most(bytes.saturating_mul(3))).await
}

/// `may_keep` is asked with the number of octets before they are kept.
async fn read_if(
    mut body: Body,
    limit_bytes: usize,
    within: Duration,
    mut may_keep: impl FnMut(usize) -> bool,
) -> Result<Bytes, HttpError> {
    let arrives = async {
        let mut bytes = Vec::new();
        let mut seen = 0_usize;
        let mut is_kept = true;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|_| HttpError::BodyIncomplete)?;
            let Ok(data) = frame.into_data() else { continue };
            seen = seen.saturating_add(data.len());
            is_kept = is_kept && seen <= limit_bytes && may_keep(seen);
            if is_kept {
                bytes.extend_from_slice(&data);
            } else if seen > limit_bytes.saturating_mul(2) {
                break;
            } else {
                bytes = Vec::new();
            }
        }
        match is_kept {
            _ if seen > limit_bytes => Err(HttpError::BodyTooLarge { limit_bytes }),
            true => Ok(bytes.into()),
            false => Err(HttpError::NoRoom),
        }
    };
    tokio::time::timeout(within, arrives).await.unwrap_or(Err(HttpError::BodyIncomplete))
}

/// Parses JSON: 400 for what is no JSON, 422 for what says the wrong things.
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HttpError> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        Category::Data => HttpError::Invalid(format!("The body cannot be used: {error}.")),
        Category::Io | Category::Syntax | Category::Eof => HttpError::NotJson(error.to_string()),
    })
}

/// A small JSON body.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Shared> for JsonBody<T> {
    type Rejection = HttpError;

    async fn from_request(request: Request, _site: &Shared) -> Result<Self, HttpError> {
        if !is_type(request.headers(), JSON) {
            return Err(HttpError::WrongMediaType { wanted: JSON });
        }
        let bytes = read(request.into_body(), SMALL_BYTES, SMALL_WITHIN).await?;
        parse_json(&bytes).map(Self)
    }
}

/// A small JSON body that may be left out.
#[derive(Debug)]
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Shared> for OptionalJson<T> {
    type Rejection = HttpError;

    async fn from_request(request: Request, _site: &Shared) -> Result<Self, HttpError> {
        let is_json = is_type(request.headers(), JSON);
        let bytes = read(request.into_body(), SMALL_BYTES, SMALL_WITHIN).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            return Err(HttpError::WrongMediaType { wanted: JSON });
        }
        parse_json(&bytes).map(Self)
    }
}

/// A form that one of our own pages sent.
#[derive(Debug)]
pub(super) struct FormBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Shared> for FormBody<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, site: &Shared) -> Result<Self, PageError> {
        let headers = request.headers();
        if !is_same_site(headers, &site.settings.base_url) {
            return Err(HttpError::CrossSite.into());
        }
        if !is_type(headers, FORM) {
            return Err(HttpError::WrongMediaType { wanted: FORM }.into());
        }
        let bytes = read(request.into_body(), FORM_BYTES, SMALL_WITHIN).await?;
        let mut again = Request::post("/").body(Body::from(bytes)).unwrap_or_default();
        again.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
        let Form(form) = Form::from_request(again, &()).await.map_err(|error| {
            HttpError::Invalid(format!("The form cannot be used: {}.", error.body_text()))
        })?;
        Ok(Self(form))
    }
}

/// A query string.
#[derive(Debug)]
pub(super) struct QueryString<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let Query(query) = Query::from_request_parts(parts, state).await.map_err(|error| {
            HttpError::Invalid(format!("The query cannot be used: {}.", error.body_text()))
        })?;
        Ok(Self(query))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn p7_a_body_is_taken_whole_or_not_at_all() {
        let table = [(0, Ok(0)), (10, Ok(10)), (11, Err(())), (20, Err(())), (10_000, Err(()))];
        for (octets, want) in table {
            let got = read(Body::from(vec![b'x'; octets]), 10, SOON).await;
            let too_large = HttpError::BodyTooLarge { limit_bytes: 10 };
            assert_eq!(got.map(|bytes| bytes.len()), want.map_err(|()| too_large), "{octets}");
        }
    }
}
