//! Bodies that no type of ours is read into or written from: those of requests that are
//! read field by field, so that errors can name the field, and a few small answers. Tests
//! hold them against the readers and the answers.

#![allow(dead_code, reason = "these describe, and are never made")]

use std::collections::BTreeMap;

use jiff::Timestamp;
use utoipa::ToSchema;

/// A message to send, with `html` or `text` or both. `null` is as good as absent.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMessage {
    /// `ann@example.com` or `Ann <ann@example.com>`, a sender of the account; left out: its first sender.
    from: Option<String>,
    /// Recipients.
    to: Addresses,
    /// Recipients too.
    cc: Option<Addresses>,
    /// Recipients whom nobody else sees.
    bcc: Option<Addresses>,
    /// Where answers go.
    reply_to: Option<Addresses>,
    /// One line.
    subject: String,
    /// The message as HTML.
    html: Option<String>,
    /// The message as text.
    text: Option<String>,
    /// Fields of the header; not those that the relay writes itself.
    headers: Option<BTreeMap<String, String>>,
    /// Files, at most 100.
    attachments: Option<Vec<NewFile>>,
}

/// One address, or a list of them.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum Addresses {
    One(String),
    Several(Vec<String>),
}

/// A file of a message.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewFile {
    /// Its name, without a path.
    filename: String,
    /// It in Base64.
    #[schema(content_encoding = "base64")]
    content: String,
    /// Such as `application/pdf`; left out: by the name.
    content_type: Option<String>,
    /// By which HTML shows it, as `cid:` and this.
    content_id: Option<String>,
}

/// An email as Resend's SDKs write it, with `html` or `text` or both. What is not offered here
/// (`scheduled_at`, `topic_id`, `template`, a file by `path`) is refused.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewEmail {
    /// `ann@example.com` or `Ann <ann@example.com>`, a sender of the account.
    from: String,
    /// Recipients.
    to: Addresses,
    /// Recipients too.
    cc: Option<Addresses>,
    /// Recipients whom nobody else sees.
    bcc: Option<Addresses>,
    /// Where answers go.
    reply_to: Option<Addresses>,
    /// One line.
    subject: String,
    /// The message as HTML.
    html: Option<String>,
    /// The message as text.
    text: Option<String>,
    /// Fields of the header; not those that the relay writes itself.
    headers: Option<BTreeMap<String, String>>,
    /// Files; not in a batch.
    attachments: Option<Vec<NewFile>>,
    /// Looked at, and not kept: the message's log says so.
    tags: Option<Vec<NewTag>>,
}

/// A tag of an email: ASCII letters, digits, underscores and dashes.
#[derive(ToSchema)]
pub(crate) struct NewTag {
    name: String,
    value: String,
}

/// Who wants to subscribe.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSubscriber {
    /// The address; a customer who has it already gets the credits, and nothing is shown to whoever typed it.
    email: String,
    /// Their name, of at most 100 characters.
    name: Option<String>,
}

/// Where to pay.
#[derive(ToSchema)]
pub(crate) struct CheckoutAnswer {
    /// Dodo's page, good for a day.
    checkout_url: String,
}

/// What became of a webhook.
#[derive(ToSchema)]
pub(crate) struct WebhookAnswer {
    /// `accepted`, `duplicate` or `ignored`.
    result: String,
}

/// The process answers.
#[derive(ToSchema)]
pub(crate) struct Health {
    /// `ok`
    status: String,
}

/// Whether mail is taken in and leaves.
#[derive(ToSchema)]
pub(crate) struct Readiness {
    /// Whether it is.
    ready: bool,
    /// What is wrong, also where it is ready all the same.
    problems: Vec<Problem>,
}

/// Something that is wrong.
#[derive(ToSchema)]
pub(crate) struct Problem {
    /// `stopping`, `store`, `upstream`, `dodo`, `dodo_refuses`, `held`, `doubtful` or `drift`.
    what: String,
    /// The same in words.
    problem: String,
    /// Which upstream is closed.
    upstream: Option<String>,
    /// Since when.
    since: Option<Timestamp>,
    /// When it is tried again.
    try_again_at: Option<Timestamp>,
    /// The kind of reason.
    reason: Option<String>,
    /// The calls that Dodo refuses.
    calls: Option<Vec<String>>,
    /// So many parts are held.
    parts: Option<i64>,
    /// So many entries are in doubt.
    entries: Option<i64>,
    /// So many credits do not add up.
    credits: Option<i64>,
}
