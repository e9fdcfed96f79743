//! The inbox for tests: JSON, newest first, and a way to wait for a mail.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::search::{Place, Search};
use crate::sandbox::resend::{Addresses, Attachment, Found, Mail, ResendStandIn, Summary};

/// Mails in an answer unless another number is asked for, and at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;
/// Longest wait: a connection on which nothing moves for 75 seconds is closed.
const MAX_WAIT_S: u64 = 60;

pub(super) fn router(resend: &ResendStandIn) -> Router {
    Router::new()
        .route("/sandbox/messages", get(list).delete(remove_found))
        .route("/sandbox/messages/{id}", get(show).delete(remove))
        .with_state(resend.clone())
}

/// Which mails; all that is named must fit.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    /// As it is typed into the page's search.
    q: Option<String>,
    to: Option<String>,
    from: Option<String>,
    subject: Option<String>,
    text: Option<String>,
    limit: Option<usize>,
    /// Seconds to wait for so many mails as `at_least` says.
    wait_s: Option<u64>,
    at_least: Option<usize>,
}

impl Asked {
    fn search(&self) -> Search {
        Search::parse(self.q.as_deref().unwrap_or_default())
            .and(Place::To, self.to.as_deref())
            .and(Place::From, self.from.as_deref())
            .and(Place::Subject, self.subject.as_deref())
            .and(Place::Text, self.text.as_deref())
    }

    /// How many mails are answered, and how long those that are not there are waited for.
    fn bounds(&self) -> Result<(usize, Duration), Failure> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        let wait_s = self.wait_s.unwrap_or(0);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Failure::Invalid(format!("limit: a number from 1 to {MAX_LIMIT}")));
        }
        if wait_s > MAX_WAIT_S {
            return Err(Failure::Invalid(format!("wait_s: a number from 0 to {MAX_WAIT_S}")));
        }
        Ok((limit, Duration::from_secs(wait_s)))
    }
}

type Given = Result<Query<Asked>, QueryRejection>;

/// Why there is no other answer.
#[derive(Debug)]
enum Failure {
    Invalid(String),
    Missing,
    Journal(std::io::Error),
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, code, error) = match self {
            Self::Invalid(what) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", what),
            Self::Missing => (
                StatusCode::NOT_FOUND,
                "not_found",
                "There is no such message, or it was deleted.".to_owned(),
            ),
            Self::Journal(error) => {
                tracing::error!(%error, "the sandbox's journal cannot be used");
                let error = "The sandbox's journal cannot be used; its log says why.".to_owned();
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", error)
            }
        };
        (status, Json(json!({ "code": code, "error": error }))).into_response()
    }
}

/// `GET /sandbox/messages?to=&from=&subject=&text=&q=&limit=&wait_s=&at_least=`
async fn list(State(resend): State<ResendStandIn>, asked: Given) -> Result<Json<Value>, Failure> {
    let Query(asked) = asked.map_err(|error| Failure::Invalid(error.body_text()))?;
    let (limit, wait) = asked.bounds()?;
    let search = asked.search();
    let find = |resend: &ResendStandIn| resend.look_for(|mail| search.fits(mail), (0, limit));
    let enough = asked.at_least.unwrap_or(1);
    let come = |resend: &ResendStandIn| Some(find(resend)).filter(|found| found.found >= enough);
    // Whoever waited for nothing is told so as if they had not waited.
    let found = resend.wait_for(wait, come).await.unwrap_or_else(|| find(&resend));
    Ok(Json(listed(&found)))
}

fn listed(found: &Found) -> Value {
    let messages: Vec<Value> = found.mails.iter().map(summary).collect();
    json!({ "messages": messages, "found": found.found, "total": found.all, "unread": found.unread })
}

fn summary(mail: &Summary) -> Value {
    json!({
        "id": mail.id,
        "created_at": Timestamp::from_millisecond(mail.at_ms).unwrap_or(Timestamp::UNIX_EPOCH),
        "from": mail.from,
        "recipients": mail.to,
        "subject": mail.subject,
        "excerpt": mail.excerpt,
        "attachments": mail.files,
        "is_read": mail.is_seen,
        "is_stuck": mail.stuck,
        "url": format!("/inbox/{}", mail.id),
    })
}

/// `GET /sandbox/messages/{id}`
async fn show(State(resend): State<ResendStandIn>, Path(id): Path<String>) -> Result<Json<Value>, Failure> {
    let mail = resend.mail(&id).map_err(Failure::Journal)?.ok_or(Failure::Missing)?;
    Ok(Json(whole(&mail)))
}

fn whole(mail: &Mail) -> Value {
    let email = &mail.email;
    let list = |of: &Option<Addresses>| of.as_ref().map(|list| list.as_slice().to_vec()).unwrap_or_default();
    let files = email.attachments.iter().flatten().enumerate();
    json!({
        "id": mail.id,
        "created_at": mail.at,
        "from": email.from,
        "to": list(&email.to),
        "cc": list(&email.cc),
        "bcc": list(&email.bcc),
        "reply_to": list(&email.reply_to),
        "recipients": email.recipients().collect::<Vec<_>>(),
        "subject": email.subject,
        "text": email.text,
        "html": email.html,
        "headers": email.headers.clone().unwrap_or_default(),
        "attachments": files.map(|(n, file)| attachment(&mail.id, n, file)).collect::<Vec<_>>(),
        "is_stuck": email.is_stuck(),
        "idempotency_key": mail.idempotency_key,
        "url": format!("/inbox/{}", mail.id),
        "source_url": format!("/inbox/{}/message.eml", mail.id),
        "sent_to_resend": email,
    })
}

fn attachment(id: &str, n: usize, file: &Attachment) -> Value {
    json!({
        "filename": file.filename,
        "content_type": file.media_type(),
        "content_id": file.content_id,
        "octets": file.octets().map(|octets| octets.len()),
        "url": format!("/inbox/{id}/attachments/{n}"),
    })
}

/// `DELETE /sandbox/messages`: all, or those that are named.
async fn remove_found(State(resend): State<ResendStandIn>, asked: Given) -> Result<Json<Value>, Failure> {
    let Query(asked) = asked.map_err(|error| Failure::Invalid(error.body_text()))?;
    let search = asked.search();
    let deleted = resend.remove(|mail| search.fits(mail)).map_err(Failure::Journal)?;
    Ok(Json(json!({ "deleted": deleted })))
}

/// `DELETE /sandbox/messages/{id}`
async fn remove(State(resend): State<ResendStandIn>, Path(id): Path<String>) -> Result<StatusCode, Failure> {
    match resend.remove(|mail| mail.id == id).map_err(Failure::Journal)? {
        0 => Err(Failure::Missing),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}
