//! What Resend's webhooks say about mail of ours, read tolerantly
//! (resend.com/docs, "Webhooks: Event Types").
//!
//! The list of events grows, and a delivery that a strict reader refuses is lost
//! in the end: only `type` is required. Every mail of ours carries the id of its part:
//! by the API as the tag `postmeter`, by Resend's SMTP service, which knows no tags, in a
//! header field. Pure; the signature was verified before.

use jiff::Timestamp;
use serde_json::Value;

use crate::domain::answer::enhanced_status;
use crate::domain::event::{Blame, EventKind};
use crate::domain::ids::PartId;
use crate::domain::message::Road;
use crate::upstream::smtp::PART_FIELD;
use crate::upstream::translate::TAG;

/// Most characters of a server's words that are kept.
const MAX_REPLY_CHARS: usize = 500;
/// What is wrong with a mail or a mailbox that day, and not with the address. Resend calls these
/// transient, since another mail may fare better; this one is not tried again.
const OF_THE_MAIL: [&str; 4] = ["MailboxFull", "MessageTooLarge", "ContentRejected", "AttachmentRejected"];

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
    /// When it happened, if it says so.
    pub created_at: Option<Timestamp>,
    /// The part of ours that it is about, and the road on which mail carries the mark that says so.
    pub part: Option<(PartId, Road)>,
    /// By SMTP: under which of the part's keys that mail left.
    pub key_no: Option<i64>,
    /// Resend's id of the mail.
    pub email_id: Option<String>,
    /// The addresses that it is about, as far as it says so.
    pub to: Vec<String>,
    /// What it means to us.
    pub meaning: Meaning,
}

/// What an event means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Something became of the mail.
    News(News),
    /// It proves that Resend took the mail, and nothing else that is kept.
    Proof,
    /// Anything else, known to us or not: to be answered 2xx and left alone.
    Other,
}

/// What became of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// What.
    pub kind: EventKind,
    /// What was said about it, in one line: `Permanent General: smtp; 550 5.1.1 user unknown`.
    pub reply: Option<String>,
    /// Enhanced status code (RFC 3463), as said or as the kind of it suggests: `5.1.1`.
    pub status: String,
    /// What a failure is laid to.
    pub blame: Blame,
    /// The words as they came: of each recipient that it is about, if Resend says so much.
    words: Vec<String>,
    /// Whether they are a server's, one for each recipient.
    are_of_each: bool,
}

impl ResendEvent {
    /// Reads the raw body of a delivery whose signature was verified.
    pub fn parse(body: &[u8]) -> Result<Self, MalformedEvent> {
        let event: Value = serde_json::from_slice(body).map_err(|_| MalformedEvent::NotJson)?;
        let event_type = text(&event, "/type").ok_or(MalformedEvent::NoType)?;
        let data = event.get("data").unwrap_or(&Value::Null);
        let created_at = text(&event, "/created_at").and_then(|at| at.parse().ok());
        Ok(Self {
            part: part(data),
            key_no: part_field(data).map(|(_, key_no)| key_no),
            email_id: text(data, "/email_id"),
            to: texts(data.get("to")).into_iter().map(|to| bare(&to).to_owned()).collect(),
            meaning: meaning(&event_type, data),
            created_at,
            event_type,
        })
    }

    /// Which of the recipients of the call it is about, as far as that is certain: those
    /// that the server's words name; else the only one that the event names, or all
    /// that it names if there is a word for each, or they are not the whole call and the
    /// server's words are not told; else the only one that there was: the address may be one that he forwards to. An event may
    /// name a whole call of which one has bounced, or nobody that we know: then it is nobody. What is sent
    /// is the whole call, which is nobody either; what has failed is everybody's.
    pub fn about<'a>(&self, recipients: &[&'a str]) -> Vec<&'a str> {
        let words = match &self.meaning {
            Meaning::News(News { kind: EventKind::Sent, .. }) | Meaning::Proof | Meaning::Other => {
                return Vec::new();
            }
            Meaning::News(News { kind: EventKind::Failed, .. }) => return recipients.to_vec(),
            Meaning::News(News { words, .. }) => words,
        };
        let named: Vec<&str> = recipients.iter().copied().filter(|recipient| self.names(recipient)).collect();
        let is_named = !named.is_empty();
        let is_choice = is_named && named.len() < recipients.len() && !self.meaning.has_words_of_each();
        let among = if is_named { named } else { recipients.to_vec() };
        let is_said = |recipient: &&str| words.iter().any(|word| names(word, recipient));
        let said: Vec<&str> = among.iter().copied().filter(is_said).collect();
        if !said.is_empty() {
            return said;
        }
        let has_each_a_word = is_named && words.len() == among.len();
        if among.len() == 1 || is_choice || has_each_a_word { among } else { Vec::new() }
    }

    /// Whether this address is among those that it is about.
    pub fn names(&self, address: &str) -> bool {
        self.to.iter().any(|to| to.eq_ignore_ascii_case(address))
    }
}

impl Meaning {
    fn has_words_of_each(&self) -> bool {
        matches!(self, Self::News(News { are_of_each: true, .. }))
    }
}

fn meaning(event_type: &str, data: &Value) -> Meaning {
    let (kind, details) = match event_type {
        "email.sent" => (EventKind::Sent, "/sent"),
        "email.delivered" => (EventKind::Delivered, "/delivered"),
        "email.delivery_delayed" => (EventKind::DeliveryDelayed, "/delivery_delayed"),
        "email.bounced" if has_failed(data) => (EventKind::Bounced, "/bounce"),
        "email.bounced" => (EventKind::SoftBounced, "/bounce"),
        "email.complained" => (EventKind::Complained, "/complained"),
        "email.failed" => (EventKind::Failed, "/failed"),
        "email.suppressed" => (EventKind::Suppressed, "/suppressed"),
        "email.opened" | "email.clicked" => return Meaning::Proof,
        _ => return Meaning::Other,
    };
    Meaning::News(news(kind, data.pointer(details).unwrap_or(&Value::Null)))
}

/// Whether a bounce is a failure. Of others it is not known: an answer that somebody is out of
/// the office is one of them.
fn has_failed(data: &Value) -> bool {
    text(data, "/bounce/type").as_deref() == Some("Permanent")
        || text(data, "/bounce/subType").is_some_and(|kind| OF_THE_MAIL.contains(&kind.as_str()))
}

fn news(kind: EventKind, details: &Value) -> News {
    let kinds = ["/type", "/subType", "/reason"].map(|name| text(details, name));
    let sub_type = kinds.get(1).cloned().flatten().unwrap_or_default();
    let mut words = texts(details.get("diagnosticCode"));
    let are_of_each = !words.is_empty();
    if words.is_empty() {
        words.extend(text(details, "/message").filter(|message| !message.is_empty()));
    }
    let kinds: Vec<String> = kinds.into_iter().flatten().collect();
    let line = match (kinds.is_empty(), words.is_empty()) {
        (_, true) => kinds.join(" "),
        (true, false) => words.join(" | "),
        (false, false) => format!("{}: {}", kinds.join(" "), words.join(" | ")),
    };
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let reply: String = line.chars().filter(|c| !c.is_control()).take(MAX_REPLY_CHARS).collect();
    let said = words.iter().find_map(|word| enhanced_status(word, 5)).map(str::to_owned);
    News {
        kind,
        status: said.clone().unwrap_or_else(|| status_of(kind, &sub_type).to_owned()),
        blame: blame(kind, &sub_type, said.as_deref()),
        reply: Some(reply).filter(|reply| !reply.is_empty()),
        words,
        are_of_each,
    }
}

fn blame(kind: EventKind, sub_type: &str, said: Option<&str>) -> Blame {
    match kind {
        EventKind::Suppressed => Blame::Address,
        EventKind::Failed => Blame::Unclear,
        EventKind::Bounced if OF_THE_MAIL.contains(&sub_type) => Blame::Mail,
        _ if said.is_none_or(is_of_the_address) => Blame::Address,
        _ => Blame::Unclear,
    }
}

/// Whether a code is about who was written to: there is no such mailbox, or it is closed. All
/// others are about the message, the sender, the server or the day (RFC 3463 §3).
fn is_of_the_address(code: &str) -> bool {
    code.starts_with("5.1.") && code != "5.1.7" && code != "5.1.8"
        || matches!(code, "5.0.0" | "5.2.0" | "5.2.1")
}

/// What a failure is called where nobody said its code.
fn status_of(kind: EventKind, sub_type: &str) -> &'static str {
    match (kind, sub_type) {
        (EventKind::Failed, _) => "5.3.0",
        (EventKind::Suppressed, _) | (_, "NoEmail") => "5.1.1",
        (_, "MailboxFull") => "5.2.2",
        (_, "MessageTooLarge") => "5.3.4",
        (_, "ContentRejected" | "AttachmentRejected") => "5.6.0",
        _ => "5.0.0",
    }
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

/// What is not by the API has no tag; what is has no such field.
fn part(data: &Value) -> Option<(PartId, Road)> {
    let marked = |text: Option<String>, road| Some((PartId::parse(&text?).ok()?, road));
    let by_field = || marked(part_field(data).map(|(part_id, _)| part_id), Road::Smtp);
    marked(tag(data), Road::Resend).or_else(by_field)
}

/// The one field with the key of a part's call: the part's id and the number of the key. Two
/// of them would be nobody's: we write one.
fn part_field(data: &Value) -> Option<(String, i64)> {
    let is_ours = |header: &&Value| {
        text(header, "/name").is_some_and(|name| name.trim().eq_ignore_ascii_case(PART_FIELD))
    };
    let mut ours = data.get("headers")?.as_array()?.iter().filter(is_ours);
    let (only, None) = (ours.next()?, ours.next()) else { return None };
    let value = text(only, "/value")?;
    let (part_id, key_no) = value.trim().rsplit_once('-')?;
    Some((part_id.to_owned(), key_no.parse().ok()?))
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
        assert_eq!(event.part, Some((PartId::parse("0190-0").unwrap(), Road::Resend)));
        assert_eq!(event.email_id.as_deref(), Some("56761188-7520-42d8-8898-ff6fc54ce618"));
        assert_eq!(event.to, ["Bob@Example.net"]);
        assert_eq!(event.created_at, Some("2026-11-22T23:41:12.126Z".parse().unwrap()));
        let Meaning::News(news) = &event.meaning else { panic!("no news: {event:?}") };
        assert_eq!((news.kind, news.status.as_str()), (EventKind::Bounced, "5.1.1"));
        assert_eq!(news.reply.as_deref(), Some("Permanent NoEmail: smtp; 550 5.1.1 user unknown"));
        assert_eq!(news.blame, Blame::Address);
        assert_eq!(event.about(&["bob@example.net", "cid@example.net"]), ["bob@example.net"]);
    }

    #[test]
    fn each_event_means_one_thing_and_events_of_tomorrow_do_no_harm() {
        let kind_of = |event: &ResendEvent| match &event.meaning {
            Meaning::News(news) => Some(news.kind),
            Meaning::Proof | Meaning::Other => None,
        };
        let bounce = |kind: &str| json!({ "bounce": { "type": kind } });
        let table = [
            ("email.bounced", bounce("Permanent"), Some(EventKind::Bounced)),
            ("email.bounced", bounce("Transient"), Some(EventKind::SoftBounced)),
            ("email.bounced", bounce("Undetermined"), Some(EventKind::SoftBounced)),
            (
                "email.bounced",
                json!({ "bounce": { "type": "Transient", "subType": "General" } }),
                Some(EventKind::SoftBounced),
            ),
            ("email.bounced", json!({}), Some(EventKind::SoftBounced)),
            ("email.sent", json!({}), Some(EventKind::Sent)),
            ("email.delivered", json!(null), Some(EventKind::Delivered)),
            ("email.delivery_delayed", json!(null), Some(EventKind::DeliveryDelayed)),
            ("email.complained", json!([]), Some(EventKind::Complained)),
            ("email.failed", json!({}), Some(EventKind::Failed)),
            ("email.suppressed", json!({}), Some(EventKind::Suppressed)),
            ("email.received", json!({}), None),
            ("email.teleported", json!({}), None),
            ("domain.updated", json!({ "tags": 7, "to": 7, "email_id": 7 }), None),
        ];
        for (event_type, data, kind) in table {
            let event = event(&json!({ "type": event_type, "created_at": 7, "data": data }));
            assert_eq!((kind_of(&event), event.created_at), (kind, None), "{event_type}");
            assert_eq!((&event.part, event.to.len()), (&None, 0), "{event_type}");
        }
        assert_eq!(event(&json!({ "type": "email.opened" })).meaning, Meaning::Proof);
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
            (message("no such user"), json!(["a@x.example", "aa@x.example"]), vec![all[0], all[1]]),
            (json!({ "type": "Permanent" }), json!(["a@x.example", "aa@x.example"]), vec![all[0], all[1]]),
            (code("550 <aa@x.example>: no."), json!(["a@x.example", "aa@x.example"]), vec![all[1]]),
            (code("550 no a@x.example."), json!(all), vec![all[0]]),
            (code("550 no b@x.example.org"), json!([]), vec![all[2]]),
            (code("550 no b@x.example"), json!(["elsewhere@z.example"]), vec![]),
            (json!({ "type": "Permanent" }), json!(null), vec![]),
        ];
        for (bounce, to, wanted) in table {
            assert_eq!(bounced(&bounce, &to).about(&all), wanted, "{bounce} {to}");
        }
        // Who was alone in the call is meant, whatever the event names.
        for to in [json!(null), json!(["elsewhere@z.example"]), json!(["a@x.example", "elsewhere@z.example"])]
        {
            assert_eq!(bounced(&code(no), &to).about(&all[..1]), all[..1], "{to}");
        }
    }

    #[test]
    fn other_news_is_attributed_alike_and_a_call_that_failed_is_everybodys() {
        let all = ["a@x.example", "b@x.example"];
        let about = |event_type: &str, to: &Value, among: &[&'static str]| {
            event(&json!({ "type": event_type, "data": { "to": to } })).about(among).len()
        };
        for event_type in
            ["email.delivered", "email.delivery_delayed", "email.complained", "email.suppressed"]
        {
            assert_eq!(about(event_type, &json!(["b@x.example"]), &all), 1, "{event_type}");
            assert_eq!(about(event_type, &json!(all), &all), 0, "{event_type}");
            assert_eq!(about(event_type, &json!(null), &all[..1]), 1, "{event_type}");
        }
        assert_eq!(about("email.sent", &json!(all), &all[..1]), 0);
        assert_eq!(about("email.opened", &json!(all), &all[..1]), 0);
        assert_eq!(about("email.failed", &json!(["a@x.example"]), &all), 2);
    }

    #[test]
    fn a_failure_says_its_code_and_whether_the_address_is_to_blame() {
        let table = [
            (
                "bounced",
                "bounce",
                json!({ "type": "Permanent", "diagnosticCode": ["smtp; 550-5.7.26 no"] }),
                ("5.7.26", Blame::Unclear),
            ),
            (
                "bounced",
                "bounce",
                json!({ "type": "Permanent", "diagnosticCode": ["smtp; 550 5.2.2. 10.0.5.1.2"] }),
                ("5.2.2", Blame::Unclear),
            ),
            (
                "bounced",
                "bounce",
                json!({ "type": "Permanent", "subType": "NoEmail" }),
                ("5.1.1", Blame::Address),
            ),
            (
                "bounced",
                "bounce",
                json!({ "type": "Permanent", "subType": "General" }),
                ("5.0.0", Blame::Address),
            ),
            (
                "bounced",
                "bounce",
                json!({ "type": "Permanent", "diagnosticCode": ["smtp; 550 5.1.1 user unknown"] }),
                ("5.1.1", Blame::Address),
            ),
            (
                "bounced",
                "bounce",
                json!({ "type": "Permanent", "diagnosticCode": ["smtp; 550 5.4.4 no route"] }),
                ("5.4.4", Blame::Unclear),
            ),
            (
                "bounced",
                "bounce",
                json!({ "type": "Permanent", "subType": "ContentRejected" }),
                ("5.6.0", Blame::Mail),
            ),
            (
                "bounced",
                "bounce",
                json!({ "type": "Permanent", "subType": "MailboxFull", "message": "4.2.2" }),
                ("5.2.2", Blame::Mail),
            ),
            ("failed", "failed", json!({ "reason": "reached_daily_quota" }), ("5.3.0", Blame::Unclear)),
            (
                "suppressed",
                "suppressed",
                json!({ "type": "Suppressed", "reason": "previous_bounce" }),
                ("5.1.1", Blame::Address),
            ),
        ];
        for (name, details, said, wanted) in table {
            let event = event(&json!({ "type": format!("email.{name}"), "data": { details: said } }));
            let Meaning::News(news) = event.meaning else { panic!("no news: {said}") };
            assert_eq!((news.status.as_str(), news.blame), wanted, "{said}");
        }
        let failed = event(
            &json!({ "type": "email.failed", "data": { "failed": { "reason": "reached_daily_quota" } } }),
        );
        let Meaning::News(news) = failed.meaning else { panic!("no news") };
        assert_eq!(news.reply.as_deref(), Some("reached_daily_quota"));
    }

    #[test]
    fn what_a_mailbox_will_not_have_has_failed_whatever_the_bounce_is_called() {
        let table = [
            ("MailboxFull", "smtp; 452 4.2.2 mailbox full", "5.2.2"),
            ("MailboxFull", "smtp; 552 5.1.1 full", "5.1.1"),
            ("MessageTooLarge", "", "5.3.4"),
            ("ContentRejected", "smtp; 554 5.7.1 spam", "5.7.1"),
            ("AttachmentRejected", "", "5.6.0"),
        ];
        for (sub_type, said, status) in table {
            for kind in ["Transient", "Temporary", "Undetermined", "Permanent"] {
                let bounce = json!({ "type": kind, "subType": sub_type, "diagnosticCode": [said] });
                let Meaning::News(news) = bounced(&bounce, &json!(null)).meaning else { panic!("no news") };
                let found = (news.kind, news.status.as_str(), news.blame);
                assert_eq!(found, (EventKind::Bounced, status, Blame::Mail), "{bounce}");
            }
        }
    }

    #[test]
    fn tags_may_come_back_as_they_were_given() {
        let data =
            json!({ "tags": [{ "name": "x", "value": "y" }, { "name": "postmeter", "value": "p-1" }] });
        let event = event(&json!({ "type": "email.sent", "data": data }));
        assert_eq!(event.part, Some((PartId::parse("p-1").unwrap(), Road::Resend)));
    }

    #[test]
    fn mail_by_smtp_is_known_by_one_field_of_ours_and_mail_by_the_api_by_its_tag() {
        let field = |name: &str, value: &str| json!({ "name": name, "value": value });
        let ours = field("X-Postmeter-Part", "p-1-7");
        let part = |id: &str, road| Some((PartId::parse(id).unwrap(), road));
        let table = [
            (json!({ "headers": [field("X-A", "b"), ours] }), part("p-1", Road::Smtp)),
            (
                json!({ "headers": [field("x-postmeter-part", " p-1-7 ")], "tags": {} }),
                part("p-1", Road::Smtp),
            ),
            (json!({ "headers": [ours], "tags": { "postmeter": "p-2" } }), part("p-2", Road::Resend)),
            (json!({ "headers": [ours, field("X-POSTMETER-PART", "p-2-7")] }), None),
            (json!({ "headers": [field("X-Postmeter-Part", "not an id-7")] }), None),
            (json!({ "headers": [field("X-Postmeter-Part", "p-x")] }), None),
            (json!({ "headers": [field("X-Postmeter-Part-Of", "p-1-7"), 7, {}] }), None),
            (json!({ "headers": { "X-Postmeter-Part": "p-1-7" } }), None),
        ];
        for (data, wanted) in table {
            let event = event(&json!({ "type": "email.sent", "data": data }));
            let is_by_smtp = event.part.as_ref().is_some_and(|(_, road)| *road == Road::Smtp);
            assert_eq!(event.key_no.filter(|_| is_by_smtp), is_by_smtp.then_some(7), "{data}");
            assert_eq!(event.part, wanted, "{data}");
        }
    }
}
