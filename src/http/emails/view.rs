//! `GET /emails/{id}`: a message of the log as Resend shows an email.
//!
//! Who it is to, by which field, is read from its header while that is kept, since the log
//! knows recipients only; without it they all stand in `to`. Texts are not kept beyond the
//! sending, and never shown.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Found;
use super::error::EmailError;
use crate::domain::event::EventKind;
use crate::domain::ids::MessageId;
use crate::http::Shared;
use crate::http::auth::Caller;
use crate::http::error::HttpError;
use crate::mime::address_list::{NamedMailbox, readable_addresses};
use crate::mime::header::Header;
use crate::store::accept::Kind;
use crate::store::log::{MessageLog, RecipientLog};

/// As Resend writes moments: its own form, and no RFC 3339.
const MOMENT: &str = "%Y-%m-%d %H:%M:%S%.6f+00";

/// An email as it is shown. `message_id` is left out: what Resend writes into the mail in
/// its place is not known here.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct EmailView {
    object: &'static str,
    id: MessageId,
    from: String,
    to: Vec<String>,
    cc: Option<Vec<String>>,
    bcc: Option<Vec<String>>,
    reply_to: Option<Vec<String>>,
    subject: String,
    html: Option<&'static str>,
    text: Option<&'static str>,
    created_at: String,
    last_event: LastEvent,
    scheduled_at: Option<&'static str>,
}

/// What happened to an email last, in Resend's words. It is one word for all recipients: that
/// of the one whom its sender should look after first, so the order is that of the trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum LastEvent {
    Delivered,
    Sent,
    Queued,
    DeliveryDelayed,
    Failed,
    Suppressed,
    Bounced,
    Complained,
}

/// `GET /emails/{id}`
pub(super) async fn show(
    State(site): State<Shared>,
    Found(caller): Found<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<EmailView>, EmailError> {
    let no_id = || HttpError::Invalid("The `id` must be a valid UUID.".to_owned());
    let id = id.map_err(|_| no_id())?.0;
    Uuid::try_parse(&id).map_err(|_| no_id())?;
    let not_found = || HttpError::NotFound("email");
    let id = MessageId::parse(&id).map_err(|_| not_found())?;
    let log = site.store.message(&id).await?.filter(|log| log.kind == Kind::Submission.as_str());
    let log = log.ok_or_else(not_found)?;
    // Whether somebody else has such an email is none of the caller's business.
    caller.may_see(&log.customer_id).map_err(|_| not_found())?;
    let header = site.store.header(&id).await?.unwrap_or_default();
    Ok(Json(EmailView::of(log, &header)))
}

impl EmailView {
    fn of(log: MessageLog, header: &[u8]) -> Self {
        let last_event = log.recipients.iter().map(LastEvent::of).max().unwrap_or(LastEvent::Queued);
        let all = || log.recipients.iter().map(|recipient| recipient.address.clone());
        // What cannot be read says nothing.
        let header = Header::parse(header).ok();
        let field = |name: &str| -> Vec<NamedMailbox> {
            let values = header.iter().flat_map(|header| header.all(name));
            values.flat_map(|field| readable_addresses(field.value()).list).collect()
        };
        let (to, cc) = (field("To"), field("Cc"));
        let is_shown = |address: &String| {
            to.iter().chain(&cc).any(|shown| shown.mailbox.to_string().eq_ignore_ascii_case(address))
        };
        let (to, bcc) = if to.is_empty() {
            (all().collect(), None)
        } else {
            (written(&to), some(all().filter(|address| !is_shown(address)).collect()))
        };
        Self {
            object: "email",
            from: written(&field("From")).into_iter().next().unwrap_or(log.from),
            to,
            cc: some(written(&cc)),
            bcc,
            reply_to: some(written(&field("Reply-To"))),
            subject: log.subject.unwrap_or_default(),
            html: None,
            text: None,
            created_at: log.accepted_at.strftime(MOMENT).to_string(),
            last_event,
            scheduled_at: None,
            id: log.message_id,
        }
    }
}

fn written(list: &[NamedMailbox]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn some(list: Vec<String>) -> Option<Vec<String>> {
    (!list.is_empty()).then_some(list)
}

impl LastEvent {
    fn of(recipient: &RecipientLog) -> Self {
        match recipient.news.and_then(EventKind::parse) {
            Some(kind) => Self::told(kind),
            None if recipient.bounced_at.is_some() => Self::Bounced,
            None => match recipient.state.as_str() {
                "sent" => Self::Sent,
                "failed" => Self::Failed,
                _ => Self::Queued,
            },
        }
    }

    fn told(kind: EventKind) -> Self {
        match kind {
            EventKind::Sent => Self::Sent,
            EventKind::DeliveryDelayed => Self::DeliveryDelayed,
            EventKind::Delivered => Self::Delivered,
            EventKind::Failed => Self::Failed,
            EventKind::Suppressed => Self::Suppressed,
            // Resend has one word for both.
            EventKind::SoftBounced | EventKind::Bounced => Self::Bounced,
            EventKind::Complained => Self::Complained,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::CustomerId;
    use crate::domain::message::MessageState;

    fn recipient(address: &str, state: &str, news: Option<EventKind>) -> RecipientLog {
        RecipientLog {
            address: address.to_owned(),
            part_no: 0,
            state: state.to_owned(),
            status: None,
            reply: None,
            maybe_taken: false,
            bounced_at: None,
            bounce: None,
            news: news.map(EventKind::as_str),
        }
    }

    fn log(recipients: Vec<RecipientLog>) -> MessageLog {
        MessageLog {
            message_id: MessageId::parse("0190163d-8694-739b-aea5-966c26f8ad91").unwrap(),
            customer_id: CustomerId::parse("cus_ann").unwrap(),
            kind: "submission".to_owned(),
            state: MessageState::Queued,
            from: "ann@x.example".to_owned(),
            subject: Some("Hi".to_owned()),
            size: 1,
            price: 1,
            captured: 0,
            released: 0,
            accepted_at: "2026-04-03T22:13:42.674981Z".parse().unwrap(),
            expires_at: "2026-04-06T22:13:42Z".parse().unwrap(),
            notes: Vec::new(),
            recipients,
            parts: Vec::new(),
            refunds: Vec::new(),
        }
    }

    #[test]
    fn the_last_event_is_that_of_the_recipient_in_most_trouble() {
        use EventKind as K;
        type Row<'a> = (&'a [(&'a str, Option<K>)], &'a str);
        let of = |(state, news): (&str, Option<K>)| recipient("b@y.example", state, news);
        let table: [Row<'_>; 13] = [
            (&[("queued", None)], "queued"),
            (&[("sent", None)], "sent"),
            (&[("failed", None)], "failed"),
            (&[("sent", Some(K::Sent))], "sent"),
            (&[("sent", Some(K::DeliveryDelayed))], "delivery_delayed"),
            (&[("sent", Some(K::Delivered))], "delivered"),
            (&[("sent", Some(K::SoftBounced))], "bounced"),
            (&[("sent", Some(K::Bounced))], "bounced"),
            (&[("sent", Some(K::Suppressed))], "suppressed"),
            (&[("sent", Some(K::Failed))], "failed"),
            (&[("sent", Some(K::Delivered)), ("sent", None)], "sent"),
            (&[("sent", Some(K::Delivered)), ("queued", None), ("failed", None)], "failed"),
            (&[("sent", Some(K::Bounced)), ("sent", Some(K::Complained)), ("queued", None)], "complained"),
        ];
        for (recipients, want) in table {
            let log = log(recipients.iter().copied().map(of).collect());
            let shown = serde_json::to_value(EmailView::of(log, b"")).unwrap();
            assert_eq!(shown["last_event"], want, "{recipients:?}");
        }
        let mut bounced = recipient("b@y.example", "sent", None);
        bounced.bounced_at = Some(jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(LastEvent::of(&bounced), LastEvent::Bounced);
    }

    #[test]
    fn p5_recipients_stand_in_the_fields_that_they_were_written_in() {
        let everybody = ["b@y.example", "c@y.example", "h@y.example"];
        let log = || log(everybody.map(|address| recipient(address, "queued", None)).to_vec());
        let header = b"From: \"Ann\" <ann@x.example>\r\nTo: \"Bob\" <B@y.example>\r\nCc: c@y.example\r\n\
            Reply-To: r@x.example, s@x.example\r\n";
        let shown = serde_json::to_value(EmailView::of(log(), header)).unwrap();
        let want = serde_json::json!({
            "object": "email", "id": "0190163d-8694-739b-aea5-966c26f8ad91", "from": "\"Ann\" <ann@x.example>",
            "to": ["\"Bob\" <B@y.example>"], "cc": ["c@y.example"], "bcc": ["h@y.example"],
            "reply_to": ["r@x.example", "s@x.example"], "subject": "Hi", "html": null, "text": null,
            "created_at": "2026-04-03 22:13:42.674981+00", "last_event": "queued", "scheduled_at": null
        });
        assert_eq!(shown, want);
        let bare = serde_json::to_value(EmailView::of(log(), b"")).unwrap();
        assert_eq!(bare["to"], serde_json::json!(everybody));
        assert_eq!((&bare["from"], &bare["bcc"]), (&"ann@x.example".into(), &serde_json::Value::Null));
    }
}
