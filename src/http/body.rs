//! Bodies of requests: bounded in size and time, and understood or refused in
//! our own words.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, FromRequest, FromRequestParts, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use memchr::{memchr, memchr2};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::time::{Instant, timeout_at};

use super::error::{HttpError, PageError};
use super::session::is_same_site;
use super::{Shared, Site};
use crate::allowance::Claim;
use crate::census::Census;
use crate::config::REQUEST_IN_MEMORY;
use crate::floor::Floor;

/// Octets of a body on most routes, where anybody may send one.
const SMALL_BYTES: usize = 16 << 10;
/// Octets of the form that carries a letter, for customers alone.
const LETTER_BYTES: usize = 512 << 10;
/// Octets of a signed body that are taken in any case.
const SIGNED_SMALL_BYTES: usize = 16 << 10;
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

/// How large a body may be, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Octets.
    pub(super) limit_bytes: usize,
    /// From the first octet to the last.
    pub(super) within: Duration,
    /// How slow it may be meanwhile.
    pub(super) floor: Option<Floor>,
}

impl Bounds {
    /// A body that anybody may send.
    const SMALL: Self = Self::short(SMALL_BYTES);

    /// A body that is there soon.
    const fn short(limit_bytes: usize) -> Self {
        Self { limit_bytes, within: SMALL_WITHIN, floor: None }
    }
}

/// Reads a body. Of one that is too large as much again is read and thrown away: a
/// client that is still sending when its connection closes never sees why.
async fn read(body: Body, bounds: Bounds) -> Result<Bytes, HttpError> {
    read_if(body, bounds, |_| true).await
}

/// Reads a signed body, which is believed only when it is there as a whole. What is more
/// than small takes room that all such have together.
pub(super) async fn read_signed(
    body: Body,
    limit_bytes: usize,
    room: &Arc<Census<()>>,
) -> Result<Bytes, HttpError> {
    let mut large = room.none(());
    read_if(body, Bounds::short(limit_bytes), |bytes| {
        let more = bytes.saturating_sub(SIGNED_SMALL_BYTES).saturating_sub(large.number());
        large.add(more)
    })
    .await
}

/// Reads the body of a message, which takes room in memory as it arrives: for all that
/// is made of it, too.
pub(super) async fn read_message(body: Body, bounds: Bounds, claim: &mut Claim) -> Result<Bytes, HttpError> {
    read_if(body, bounds, |bytes| {
        let claimed = claim.resize_to_most(bytes.saturating_mul(REQUEST_IN_MEMORY));
        let Err(reason) = claimed else { return true };
        tracing::warn!(customer_id = %claim.customer_id(), %reason, "a message is refused for now");
        // What is still read of it is not kept.
        let _ = claim.resize(0);
        false
    })
    .await
}

/// Reads what a client who is refused is still sending, and keeps nothing of it.
pub(super) async fn discard(body: Body, bounds: Bounds) {
    let _ = read_if(body, bounds, |_| false).await;
}

/// `may_keep` is asked with the number of octets before they are kept, until it says no.
async fn read_if(
    mut body: Body,
    Bounds { limit_bytes, within, floor }: Bounds,
    mut may_keep: impl FnMut(usize) -> bool,
) -> Result<Bytes, HttpError> {
    let begun = Instant::now();
    let arrives = async {
        let mut bytes = Vec::new();
        let mut seen = 0_usize;
        let mut is_kept = true;
        loop {
            let next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            let lasts = floor.and_then(|floor| floor.lasts(seen)).unwrap_or(within).min(within);
            let Some(frame) = timeout_at(begun + lasts, next).await.map_err(|_| HttpError::BodyIncomplete)?
            else {
                break;
            };
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
    // Also where there is always more to read.
    timeout_at(begun + within, arrives).await.unwrap_or(Err(HttpError::BodyIncomplete))
}

/// Parses JSON: 400 for what is no JSON, 422 for what says the wrong things.
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HttpError> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        Category::Data => HttpError::Invalid(format!("The body cannot be used: {error}.")),
        Category::Io | Category::Syntax | Category::Eof => HttpError::NotJson(error.to_string()),
    })
}

/// How many values JSON holds at most: what stands between quotes is none, every comma
/// and bracket outside may begin one. Each takes far more memory than it has octets.
pub(super) fn values(json: &[u8]) -> usize {
    let mut values = 0_usize;
    let mut rest = json;
    while let Some((outside, string)) = memchr(b'"', rest).and_then(|at| rest.split_at_checked(at)) {
        values = values.saturating_add(beginnings(outside));
        rest = behind(string.get(1..).unwrap_or_default());
    }
    values.saturating_add(beginnings(rest))
}

fn beginnings(outside: &[u8]) -> usize {
    outside.iter().filter(|octet| b",[{".contains(octet)).count()
}

/// What follows a string whose first quote was taken off.
fn behind(mut string: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', string) {
        let is_end = string.get(at) == Some(&b'"');
        string = string.get(at + if is_end { 1 } else { 2 }..).unwrap_or_default();
        if is_end {
            return string;
        }
    }
    &[]
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
        let bytes = read(request.into_body(), Bounds::SMALL).await?;
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
        let bytes = read(request.into_body(), Bounds::SMALL).await?;
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
        let body = form_body(request, site)?;
        Ok(Self(parse_form(read(body, Bounds::SMALL).await?).await?))
    }
}

/// The form in which a customer sends a message, which counts as one.
pub(super) async fn read_letter<T: DeserializeOwned>(
    request: Request,
    site: &Site,
    claim: &mut Claim,
) -> Result<T, HttpError> {
    let body = form_body(request, site)?;
    parse_form(read_message(body, Bounds::short(LETTER_BYTES), claim).await?).await
}

/// The body of a form that a page of ours sends.
fn form_body(request: Request, site: &Site) -> Result<Body, HttpError> {
    let headers = request.headers();
    if !is_same_site(headers, &site.settings.base_url) {
        return Err(HttpError::CrossSite);
    }
    if !is_type(headers, FORM) {
        return Err(HttpError::WrongMediaType { wanted: FORM });
    }
    Ok(request.into_body())
}

async fn parse_form<T: DeserializeOwned>(bytes: Bytes) -> Result<T, HttpError> {
    let mut again = Request::post("/").body(Body::from(bytes)).unwrap_or_default();
    again.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
    let form = Form::from_request(again, &()).await;
    let unusable =
        |error: FormRejection| HttpError::Invalid(format!("The form cannot be used: {}.", error.body_text()));
    form.map(|Form(form)| form).map_err(unusable)
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
    use std::convert::Infallible;
    use std::task::{Context, Poll, ready};

    use hyper::body::Frame;
    use tokio::time::{Interval, interval};

    use super::*;

    /// A body of frames, one a second.
    struct Drips {
        frames: std::vec::IntoIter<usize>,
        ticks: Interval,
    }

    impl HttpBody for Drips {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            ready!(self.ticks.poll_tick(cx));
            let octets = self.frames.next();
            Poll::Ready(octets.map(|octets| Ok(Frame::data(vec![b'x'; octets].into()))))
        }
    }

    #[test]
    fn p7_values_are_counted_outside_strings_alone() {
        let table = [
            ("", 0),
            ("{}", 1),
            (r#"{"a":"b,c[{","d":[1,2]}"#, 4),
            (r#"{"a\",":"\\","b":1}"#, 2),
            (r#"["never closed, [ \""#, 1),
            (r#"["x\"#, 1),
            (r#"{"":[{"":0},{"":0},{"":0}]}"#, 7),
        ];
        for (json, want) in table {
            assert_eq!(values(json.as_bytes()), want, "{json}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn p7_a_body_arrives_at_its_floor_or_not_at_all() {
        let floor = |bytes_per_s| Some(Floor { bytes_per_s, grace: Duration::from_secs(10) });
        // Its frames, one a second; its floor; and whether it is taken.
        let table = [
            (vec![100; 100], floor(100), true),
            (vec![80; 30], floor(100), true),
            (vec![80; 100], floor(100), false),
            (vec![1; 9], floor(100), true),
            (vec![1; 100], floor(100), false),
            ([vec![10_000], vec![1; 100]].concat(), floor(100), true),
            ([vec![5_000], vec![1; 100]].concat(), floor(100), false),
            (vec![1; 100], floor(0), true),
            (vec![1; 100], None, true),
            (vec![100; 130], floor(100), false),
            (vec![100; 130], None, false),
        ];
        for (frames, floor, is_taken) in table {
            let shown = (frames.len(), frames.first().copied(), floor);
            let octets = frames.iter().sum();
            let drips = Drips { frames: frames.into_iter(), ticks: interval(Duration::from_secs(1)) };
            let bounds = Bounds { limit_bytes: 100_000, within: Duration::from_secs(120), floor };
            let got = read(Body::new(drips), bounds).await.map(|bytes| bytes.len());
            let want = if is_taken { Ok(octets) } else { Err(HttpError::BodyIncomplete) };
            assert_eq!(got, want, "{shown:?}");
        }
    }

    #[tokio::test]
    async fn p7_a_body_is_taken_whole_or_not_at_all() {
        let table = [(0, Ok(0)), (10, Ok(10)), (11, Err(())), (20, Err(())), (10_000, Err(()))];
        for (octets, want) in table {
            let got = read(Body::from(vec![b'x'; octets]), Bounds::short(10)).await;
            let too_large = HttpError::BodyTooLarge { limit_bytes: 10 };
            assert_eq!(got.map(|bytes| bytes.len()), want.map_err(|()| too_large), "{octets}");
        }
    }
}
