//! The way to the upstreams and back. Resend is the sandbox's stand-in, asked
//! through its own routes and understood by the client's own code; the SMTP server
//! is a list of who got what.

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use jiff::Timestamp;
use tower::util::ServiceExt;

use super::dodo::{answer, status};
use super::sender::Said;
use super::steps::Upstream;
use crate::domain::answer::Answer;
use crate::domain::ids::MessageId;
use crate::domain::message::Road;
use crate::sandbox::RESEND_API_KEY;
use crate::sandbox::resend::ResendStandIn;
use crate::store::queue::LeasedPart;
use crate::upstream::resend::request::json_of;
use crate::upstream::resend::verdict;
use crate::upstream::{Outcome, Outgoing, RecipientAnswer};

/// Both upstreams.
pub(super) struct Upstreams {
    resend: ResendStandIn,
    routes: Router,
    /// Keys whose mail Resend refused for good: the same mail is refused again.
    refused: BTreeSet<String>,
    /// Copies that a recipient of a message got.
    copies: BTreeMap<(MessageId, String), u32>,
}

impl Upstreams {
    pub(super) fn new((resend, routes): (ResendStandIn, Router)) -> Self {
        resend.behave(|behaviour| behaviour.per_second = 0);
        Self { resend, routes, refused: BTreeSet::new(), copies: BTreeMap::new() }
    }

    /// How many copies somebody got.
    pub(super) fn copies(&self, message_id: &MessageId, address: &str) -> u32 {
        self.copies.get(&(message_id.clone(), address.to_owned())).copied().unwrap_or(0)
    }

    /// A call reaches its upstream: what it answers, and who got each part.
    pub(super) async fn take(
        &mut self,
        parts: &[LeasedPart],
        how: Upstream,
        now: Timestamp,
    ) -> (Said, Vec<Vec<String>>) {
        let (said, taken) = match parts {
            [part] if part.road == Road::Smtp => {
                let (outcome, taken) = by_smtp(part, how);
                (Said::Alone(outcome), vec![taken])
            }
            parts => self.by_resend(parts, how, now).await,
        };
        for (part, taken) in parts.iter().zip(&taken) {
            for address in taken {
                *self.copies.entry((part.message_id.clone(), address.clone())).or_default() += 1;
            }
        }
        (said, taken)
    }

    async fn by_resend(
        &mut self,
        parts: &[LeasedPart],
        how: Upstream,
        now: Timestamp,
    ) -> (Said, Vec<Vec<String>>) {
        let key = parts[0].idempotency_key();
        // A mail that was taken once under a key is not refused under it.
        if how == Upstream::Refuses && self.resend.sent_with_key(&key) == 0 {
            self.refused.insert(key.clone());
        }
        let sent_before = self.resend.sent_by_tag("postmeter");
        let answer = match how {
            Upstream::Defers => status(429),
            Upstream::Fails => status(500),
            _ if self.refused.contains(&key) => status(422),
            _ => answer(self.routes.clone().oneshot(request(parts, key)).await.unwrap()).await,
        };
        let answer = if how == Upstream::Breaks { status(500) } else { answer };
        let sent = self.resend.sent_by_tag("postmeter");
        let got = |part: &LeasedPart| {
            let tag = part.part_id();
            let is_sent = sent.get(tag.as_str()) != sent_before.get(tag.as_str());
            if is_sent { addresses(part) } else { Vec::new() }
        };
        let said = match parts {
            [part] => Said::Alone(verdict::of(&answer, part.recipients.len(), now)),
            parts => Said::Together(verdict::of_together(&answer, parts.len(), now)),
        };
        (said, parts.iter().map(got).collect())
    }
}

/// One mail, or an array of them.
fn request(parts: &[LeasedPart], key: String) -> Request<Body> {
    let mails: Vec<_> = parts.iter().map(|part| json_of(&outgoing(part)).unwrap()).collect();
    let (path, json) = match &mails[..] {
        [mail] => ("/emails", mail.to_vec()),
        mails => ("/emails/batch", [&b"["[..], &mails.join(&b','), b"]"].concat()),
    };
    Request::post(path)
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {RESEND_API_KEY}"))
        .header("user-agent", "postmeter")
        .header("idempotency-key", key)
        .body(Body::from(json))
        .unwrap()
}

fn by_smtp(part: &LeasedPart, how: Upstream) -> (Outcome, Vec<String>) {
    let each = |nth: u32| match how {
        Upstream::Takes | Upstream::Breaks => 0,
        Upstream::Refuses => 1,
        Upstream::Defers | Upstream::Fails => 2,
        Upstream::Mixed(bits) => u32::from(bits) / 3u32.pow(nth % 3) % 3,
    };
    let answers: Vec<RecipientAnswer> = (0..)
        .zip(&part.recipients)
        .map(|(nth, _)| match each(nth) {
            0 => RecipientAnswer::Accepted,
            1 => RecipientAnswer::Refused(Answer::new("5.1.1", "no such user")),
            _ => RecipientAnswer::Deferred(Answer::new("4.2.2", "full")),
        })
        .collect();
    let taken = addresses(part).into_iter().zip(&answers);
    let taken = taken.filter(|(_, answer)| answer.is_accepted()).map(|(to, _)| to).collect();
    let outcome = match how {
        Upstream::Breaks => lost(),
        Upstream::Fails => {
            Outcome::Transient { answer: Answer::new("4.3.0", "later"), retry_after: None, counts: true }
        }
        _ => Outcome::Answered { upstream_id: Some("smtp-1".to_owned()), answers, host: None },
    };
    (outcome, taken)
}

/// The outcome of a call without an answer.
pub(super) fn lost() -> Outcome {
    Outcome::Unknown { reason: "no answer".to_owned(), retry_after: None, left_out: Vec::new() }
}

/// The recipients that a part is still for.
pub(super) fn addresses(part: &LeasedPart) -> Vec<String> {
    part.recipients.iter().map(ToString::to_string).collect()
}

fn outgoing(part: &LeasedPart) -> Outgoing {
    Outgoing {
        part_id: part.part_id(),
        idempotency_key: part.idempotency_key(),
        reverse_path: part.reverse_path.clone(),
        recipients: part.recipients.clone(),
        repeats: None,
        bytes: part.bytes.clone(),
        dsn: part.dsn.clone(),
        tenure: crate::upstream::tenure::Tenure::for_good(),
    }
}
