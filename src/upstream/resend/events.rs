//! What Resend's webhooks say about mail of ours, read tolerantly
//! (resend.com/docs, "Webhooks: Event Types").
//!
//! The list of events grows, and a delivery that a strict reader refuses is lost
//! in the end: only `type` is required. Every mail of ours carries the tag
//! `postmeter`, the id of its part. Pure; the signature was verified before.

use serde_json::Value;

use crate::domain::ids::PartId;
use crate::upstream::translate::TAG;

/// Most characters of a server's words that are kept.
const MAX_REPLY_CHARS: usize = 500;

/// Why a body is not an event that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedEvent {
    /// Not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// It does not say what it is.
    #[error("the event has no usable type")]
    NoType,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResendEvent {
    /// The event's `type`, for the log.
    pub event_type: String,
    /// The part of ours that it is about.
    pub part_id: Option<PartId>,
    /// Resend's id of the mail.
    pub email_id: Option<String>,
    /// The addresses that it is about, as far as it says so.
    pub to: Vec<String>,
    /// What it means to us.
    pub kind: EventKind,
}

/// The kinds of event that Postmeter tells apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// A recipient's server refused the mail for good.
    HardBounce {
        /// What it said, in one line.
        reply: String,
        /// The same as it came: of each recipient that bounced, if Resend says so much.
        words: Vec<String>,
    },
    /// Whatever else proves that Resend took the mail.
    Accepted,
    /// Anything else, known to us or not: to be answered 2xx and left alone.
    Other,
}

impl ResendEvent {
    /// Reads the raw body of a delivery whose signature was verified.
    pub fn parse(body: &[u8]) -> Result<Self, MalformedEvent> {
        let event: Value = serde_json::from_slice(body).map_err(|_| MalformedEvent::NotJson)?;
        let event_type = text(&event, "/type").ok_or(MalformedEvent::NoType)?;
        let data = event.get("data").unwrap_or(&Value::Null);
        Ok(Self {
            part_id: tag(data).and_then(|id| PartId::parse(&id).ok()),
            email_id: text(data, "/email_id"),
            to: texts(data.get("to")).into_iter().map(|to| bare(&to).to_owned()).collect(),
            kind: kind(&event_type, data),
            event_type,
        })
    }

    /// Which of the recipients of the call bounced, as far as that is certain: those
    /// that the server's words name; else the only one that the event names, or all
    /// that it names if there is a word for each; else the only one that there was:
    /// the address may be one that he forwards to. An event may name a whole call of
    /// which one has bounced, or nobody that we know: then it is nobody.
    pub fn bounced<'a>(&self, recipients: &[&'a str]) -> Vec<&'a str> {
        let EventKind::HardBounce { words, .. } = &self.kind else { return Vec::new() };
        let named: Vec<&str> = recipients
            .iter()
            .copied()
            .filter(|recipient| self.to.iter().any(|to| to.eq_ignore_ascii_case(recipient)))
            .collect();
        let is_named = !named.is_empty();
        let among = if is_named { named } else { recipients.to_vec() };
        let is_said = |recipient: &&str| words.iter().any(|word| names(word, recipient));
        let said: Vec<&str> = among.iter().copied().filter(is_said).collect();
        if !said.is_empty() {
            return said;
        }
        let has_each_a_word = is_named && words.len() == among.len();
        if among.len() == 1 || has_each_a_word { among } else { Vec::new() }
    }
}

fn kind(event_type: &str, data: &Value) -> EventKind {
    match event_type {
        "email.bounced" if text(data, "/bounce/type").as_deref() == Some("Permanent") => hard_bounce(data),
        "email.sent"
        | "email.delivered"
        | "email.delivery_delayed"
        | "email.bounced"
        | "email.complained"
        | "email.opened"
        | "email.clicked" => EventKind::Accepted,
        _ => EventKind::Other,
    }
}

/// Its reply reads `Permanent General: smtp; 550 5.1.1 user unknown`.
fn hard_bounce(data: &Value) -> EventKind {
    let bounce = data.get("bounce").unwrap_or(&Value::Null);
    let kinds = [text(bounce, "/type"), text(bounce, "/subType")];
    let mut words = texts(bounce.get("diagnosticCode"));
    if words.is_empty() {
        words.extend(text(bounce, "/message"));
    }
    let kinds: Vec<String> = kinds.into_iter().flatten().collect();
    let line = format!("{}: {}", kinds.join(" "), words.join(" | "));
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let reply = line.chars().filter(|c| !c.is_control()).take(MAX_REPLY_CHARS).collect();
    EventKind::HardBounce { reply, words }
}

/// Whether a text names this address, and not a longer one with it inside.
fn names(text: &str, address: &str) -> bool {
    let (text, address) = (text.to_ascii_lowercase(), address.to_ascii_lowercase());
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '@');
    text.match_indices(&address).any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let mut after = text.get(at + address.len()..).unwrap_or_default().chars();
        // A full stop ends a sentence, unless the domain goes on behind it.
        let goes_on = match after.next() {
            Some('.') => after.next().is_some_and(is_part),
            next => next.is_some_and(is_part),
        };
        !before.is_some_and(is_part) && !goes_on
    })
}

/// The tags come back as a flat object; as a list they were given.
fn tag(data: &Value) -> Option<String> {
    let tags = data.get("tags")?;
    if let Some(list) = tags.as_array() {
        let ours = list.iter().find(|tag| text(tag, "/name").as_deref() == Some(TAG));
        return ours.and_then(|tag| text(tag, "/value"));
    }
    tags.get(TAG).and_then(Value::as_str).map(str::to_owned)
}

/// The address of `Name <address>`.
fn bare(address: &str) -> &str {
    let inner = address.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or(address, |(inner, _)| inner).trim()
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

/// A list of texts, or a single one.
fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(body: &Value) -> ResendEvent {
        ResendEvent::parse(body.to_string().as_bytes()).unwrap()
    }

    fn bounced(bounce: &Value, to: &Value) -> ResendEvent {
        event(&json!({ "type": "email.bounced", "data": { "to": to, "bounce": bounce } }))
    }

    #[test]
    fn a_bounce_says_which_part_and_what_the_server_said() {
        let event = event(&json!({
            "type": "email.bounced", "created_at": "2026-11-22T23:41:12.126Z",
            "data": {
                "email_id": "56761188-7520-42d8-8898-ff6fc54ce618", "from": "Ann <ann@example.com>",
                "to": ["Bob <Bob@Example.net>"], "subject": "Hi", "tags": { "postmeter": "0190-0", "other": "x" },
                "bounce": { "type": "Permanent", "subType": "NoEmail", "message": "see below",
                    "diagnosticCode": ["smtp; 550 5.1.1\r\n user unknown"], "new": {} },
            },
        }));
        assert_eq!(event.part_id.as_ref().map(PartId::as_str), Some("0190-0"));
        assert_eq!(event.email_id.as_deref(), Some("56761188-7520-42d8-8898-ff6fc54ce618"));
        assert_eq!(event.to, ["Bob@Example.net"]);
        let reply = "Permanent NoEmail: smtp; 550 5.1.1 user unknown".to_owned();
        let words = vec!["smtp; 550 5.1.1\r\n user unknown".to_owned()];
        assert_eq!(event.kind, EventKind::HardBounce { reply, words });
        assert_eq!(event.bounced(&["bob@example.net", "cid@example.net"]), ["bob@example.net"]);
    }

    #[test]
    fn only_a_permanent_bounce_is_hard_and_events_of_tomorrow_do_no_harm() {
        let table = [
            ("email.bounced", json!({ "bounce": { "type": "Transient" } }), EventKind::Accepted),
            ("email.bounced", json!({ "bounce": { "type": "Undetermined" } }), EventKind::Accepted),
            ("email.bounced", json!({}), EventKind::Accepted),
            ("email.sent", json!({}), EventKind::Accepted),
            ("email.delivered", json!(null), EventKind::Accepted),
            ("email.complained", json!([]), EventKind::Accepted),
            ("email.failed", json!({}), EventKind::Other),
            ("email.suppressed", json!({}), EventKind::Other),
            ("email.received", json!({}), EventKind::Other),
            ("email.teleported", json!({}), EventKind::Other),
            ("domain.updated", json!({ "tags": 7, "to": 7, "email_id": 7 }), EventKind::Other),
        ];
        for (event_type, data, kind) in table {
            let event = event(&json!({ "type": event_type, "data": data }));
            assert_eq!((event.kind, event.part_id, event.to.len()), (kind, None, 0), "{event_type}");
        }
        let table: [(&[u8], MalformedEvent); 4] = [
            (b"", MalformedEvent::NotJson),
            (b"\xff", MalformedEvent::NotJson),
            (b"[]", MalformedEvent::NoType),
            (br#"{"type":null}"#, MalformedEvent::NoType),
        ];
        for (body, wanted) in table {
            assert_eq!(ResendEvent::parse(body), Err(wanted), "{body:?}");
        }
    }

    #[test]
    fn who_bounced_is_told_by_the_servers_words_then_by_the_event_and_nobody_is_guessed() {
        let all = ["a@x.example", "aa@x.example", "b@x.example.org"];
        let code = |said: &str| json!({ "type": "Permanent", "diagnosticCode": [said] });
        let codes = |said: &[&str]| json!({ "type": "Permanent", "diagnosticCode": said });
        let message = |said: &str| json!({ "type": "Permanent", "message": said });
        let no = "550 no such user";
        let table = [
            (code("550 no such user"), json!(["a@x.example"]), vec![all[0]]),
            (code("550 no such user"), json!("A@X.example"), vec![all[0]]),
            (code(no), json!(["a@x.example", "aa@x.example"]), vec![]),
            (codes(&[no, no]), json!(["a@x.example", "aa@x.example"]), vec![all[0], all[1]]),
            (codes(&[no, no, no]), json!(all), all.to_vec()),
            (codes(&[no, no]), json!(all), vec![]),
            (codes(&[no, no, no]), json!([]), vec![]),
            (message("no such user"), json!(all), vec![]),
            (message("there is no aa@x.example"), json!(all), vec![all[1]]),
            (message("no such user"), json!(["b@x.example.org", "elsewhere@z.example"]), vec![all[2]]),
            (code("550 <aa@x.example>: no."), json!(["a@x.example", "aa@x.example"]), vec![all[1]]),
            (code("550 no a@x.example."), json!(all), vec![all[0]]),
            (code("550 no b@x.example.org"), json!([]), vec![all[2]]),
            (code("550 no b@x.example"), json!(["elsewhere@z.example"]), vec![]),
            (json!({ "type": "Permanent" }), json!(null), vec![]),
        ];
        for (bounce, to, wanted) in table {
            assert_eq!(bounced(&bounce, &to).bounced(&all), wanted, "{bounce} {to}");
        }
        // Who was alone in the call is meant, whatever the event names.
        for to in [json!(null), json!(["elsewhere@z.example"]), json!(["a@x.example", "elsewhere@z.example"])]
        {
            assert_eq!(bounced(&code(no), &to).bounced(&all[..1]), all[..1], "{to}");
        }
        let soft = json!({ "type": "Transient", "diagnosticCode": [no] });
        assert_eq!(bounced(&soft, &json!(all)).bounced(&all[..1]), Vec::<&str>::new());
    }

    #[test]
    fn tags_may_come_back_as_they_were_given() {
        let data =
            json!({ "tags": [{ "name": "x", "value": "y" }, { "name": "postmeter", "value": "p-1" }] });
        let event = event(&json!({ "type": "email.sent", "data": data }));
        assert_eq!(event.part_id.as_ref().map(PartId::as_str), Some("p-1"));
    }
}
