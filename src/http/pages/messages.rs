//! The log with its search, and the story of one message.

use maud::{Markup, html};

use super::layout::{
    Navigation, Place, Tone, alert, badge, empty, grouped, layout, scrolling, time, warning,
};
use crate::domain::ids::MessageId;
use crate::domain::message::MessageState;
use crate::http::Settings;
use crate::http::messages::{Sought, query_of};
use crate::http::query::with_query;
use crate::store::log::{MessageLog, RecipientLog};
use crate::store::search::{Found, WALK};
use crate::store::timeline::{Moment, Story};

/// Recipients and moments that one page shows; the whole story is at `GET /messages/{id}`.
const MAX_RECIPIENTS: usize = 60;
const MAX_MOMENTS: usize = 120;
/// Characters of what somebody said.
const MAX_WORDS: usize = 400;

/// The log, or what was found in it.
#[derive(Debug)]
pub(in crate::http) struct Log<'a> {
    /// What was typed.
    pub(in crate::http) sought: &'a Sought,
    /// What there is of it.
    pub(in crate::http) found: &'a Found,
    /// Whether it begins with the newest.
    pub(in crate::http) is_first: bool,
    /// What is wrong with what was typed.
    pub(in crate::http) problem: Option<&'a str>,
}

impl Log<'_> {
    pub(in crate::http) fn render(&self, settings: &Settings) -> Markup {
        let is_search = !query_of(self.sought).is_empty();
        let content = html! {
            h1 { "Messages" }
            @if let Some(problem) = self.problem { (alert(problem)) }
            (self.form(is_search))
            @if self.problem.is_none() {
                section #found data-live {
                    @if is_search || !self.is_first { p.soft role="status" { (self.count(is_search)) } }
                    @if self.found.messages.is_empty() {
                        (empty(if is_search { "No message is like that." } else { "There are no messages yet." }))
                    } @else {
                        (table(&self.found.messages, self.sought.recipient.trim()))
                    }
                    (self.pager())
                }
            }
        };
        layout("Messages", Navigation::Customer(settings, Place::Messages), None, &content)
    }

    fn form(&self, is_search: bool) -> Markup {
        let Sought { recipient, subject, state, id } = self.sought;
        html! {
            form.toolbar method="get" action="/account/messages" role="search" aria-label="Messages" {
                div {
                    label for="recipient" { "Recipient" }
                    input #recipient type="text" name="recipient" value=(recipient) maxlength="320"
                        placeholder="address or a part of it" autocomplete="off" spellcheck="false";
                }
                div {
                    label for="subject" { "Subject" }
                    input #subject type="text" name="subject" value=(subject) maxlength="320" autocomplete="off";
                }
                div {
                    label for="id" { "Message id" }
                    input #id type="text" name="id" value=(id) maxlength="128"
                        placeholder="or its beginning" autocomplete="off" spellcheck="false";
                }
                div {
                    label for="state" { "State" }
                    select #state name="state" {
                        option value="" { "Any" }
                        @for each in MessageState::ALL {
                            option value=(each.as_str()) selected[each.as_str() == state.trim()] { (each.as_str()) }
                        }
                    }
                }
                button type="submit" { "Search" }
                @if is_search { a.button.second href="/account/messages" { "Clear" } }
            }
        }
    }

    /// What this page shows, in words.
    fn count(&self, is_search: bool) -> Markup {
        let count = self.found.messages.len();
        let what = if count == 1 { "message" } else { "messages" };
        html! {
            @if is_search { (count) " " (what) " found" } @else { (count) " " (what) }
            @if self.is_first { "." } @else { " on this page of older ones." }
            @if let Some(at) = self.found.stopped_at {
                " The search stopped after " (grouped(i64::from(WALK))) " messages, at those of " (time(at)) ": "
                "it goes on where you tell it to."
            }
        }
    }

    fn pager(&self) -> Markup {
        let path = |before: Option<&MessageId>| {
            let mut fields = query_of(self.sought);
            fields.extend(before.map(|id| ("before", id.to_string())));
            with_query("/account/messages", &fields)
        };
        let is_stopped = self.found.stopped_at.is_some();
        html! {
            @if !self.is_first || self.found.next.is_some() {
                nav.pager aria-label="Pages" {
                    @if !self.is_first { a href=(path(None)) { "Newest" } }
                    @if let Some(next) = &self.found.next {
                        a rel="next" href=(path(Some(next))) { @if is_stopped { "Search older ones" } @else { "Older" } }
                    }
                }
            }
        }
    }
}

fn table(messages: &[MessageLog], sought: &str) -> Markup {
    html! {
        table.stack {
            thead {
                tr { th { "Subject" } th { "To" } th { "State" } th { "Accepted" } th.number { "Credits" } }
            }
            tbody { @for message in messages { (row(message, sought)) } }
        }
    }
}

/// Of its recipients the one that was looked for is named.
fn row(message: &MessageLog, sought: &str) -> Markup {
    let sought = sought.to_lowercase();
    let mut recipients = message.recipients.iter().map(|recipient| recipient.address.as_str());
    let first = recipients.clone().find(|address| address.to_lowercase().contains(&sought));
    let first = first.or(recipients.next());
    let others = message.recipients.len().saturating_sub(1);
    html! {
        tr {
            td data-label="Subject" {
                span { a href={ "/account/messages/" (message.message_id) } { (subject(message)) } }
            }
            td data-label="To" { span { (first.unwrap_or_default()) @if others > 0 { " and " (others) " more" } } }
            td data-label="State" { span { (state(message)) } }
            td data-label="Accepted" { (time(message.accepted_at)) }
            td.number data-label="Credits" { (grouped(message.captured)) }
        }
    }
}

/// What it is about; mail of ours has no subject in the log.
fn subject(message: &MessageLog) -> &str {
    let subject = message.subject.as_deref().filter(|subject| !subject.trim().is_empty());
    subject.unwrap_or(match message.kind.as_str() {
        "bounce" => "Delivery report to you",
        "notice" => "Notice to you",
        _ => "(no subject)",
    })
}

/// Where a message stands, with what came back of it.
fn state(message: &MessageLog) -> Markup {
    let has_news = |kinds: &[&str]| {
        message.recipients.iter().any(|recipient| recipient.news.is_some_and(|news| kinds.contains(&news)))
    };
    let has_failed = message.recipients.iter().any(|recipient| recipient.state == "failed");
    html! {
        @match message.state {
            MessageState::Queued => (badge(Tone::Plain, "queued")),
            MessageState::Held => (badge(Tone::Warn, "held for the operator")),
            MessageState::Failed => (badge(Tone::Bad, "failed")),
            MessageState::Sent if has_news(&["complained"]) => (badge(Tone::Bad, "called spam")),
            MessageState::Sent if has_news(&["bounced", "failed", "suppressed"]) => (badge(Tone::Bad, "bounced")),
            MessageState::Sent if has_failed => (badge(Tone::Warn, "sent to some")),
            MessageState::Sent => (badge(Tone::Good, "sent")),
        }
    }
}

/// One message.
pub(in crate::http) fn message(settings: &Settings, story: &Story) -> Markup {
    let log = &story.log;
    let content = html! {
        p { a href="/account/messages" { "All messages" } }
        div.title { h1 { (subject(log)) } div #state data-live { (state(log)) } }
        (remark(log))
        section {
            dl.settings {
                dt { "From" } dd { (log.from) }
                dt { "Accepted" } dd { (time(log.accepted_at)) }
                dt { "Message id" } dd { code { (log.message_id) } }
                dt { "Size" } dd { (grouped(log.size)) " octets" }
                dt { "Credits" } dd { (credits(log)) }
                @if log.state == MessageState::Queued { dt { "Tried until" } dd { (time(log.expires_at)) } }
                @if let Some(asked) = &story.asked {
                    dt { "Reports asked for" }
                    dd {
                        @if let Some(ret) = &asked.ret { "RET=" (ret) " " }
                        @if let Some(envid) = &asked.envid { "ENVID=" (envid) " " }
                        @for of in asked.recipients.iter().take(MAX_RECIPIENTS) {
                            @if let Some(notify) = &of.notify { span { (of.address) ": NOTIFY=" (notify) " " } }
                        }
                    }
                }
            }
        }
        section #recipients data-live { h2 { "Recipients" } (recipients(log)) }
        section #story data-live { h2 { "What happened" } (timeline(story)) }
    };
    layout(subject(log), Navigation::Customer(settings, Place::Messages), None, &content)
}

fn remark(log: &MessageLog) -> Markup {
    html! {
        @match log.state {
            MessageState::Held => (warning(
                "It is not known whether this message was taken, so it is not sent again by itself: the operator \
                 decides. It costs nothing meanwhile.",
            )),
            MessageState::Queued => p.soft {
                "It is on its way and tried by itself. " a href={ "/account/messages/" (log.message_id) } { "Look again" } "."
            },
            MessageState::Sent | MessageState::Failed => {},
        }
    }
}

fn credits(log: &MessageLog) -> Markup {
    let credited: i64 =
        log.refunds.iter().filter(|refund| refund.state == "credited").map(|refund| refund.credits).sum();
    let held = log.price.saturating_sub(log.captured).saturating_sub(log.released);
    html! {
        (grouped(log.captured)) " debited"
        @if held > 0 { ", " (grouped(held)) " held" }
        @if log.released > 0 { ", " (grouped(log.released)) " released, since they were not needed" }
        @if credited > 0 { ", " (grouped(credited)) " given back" }
    }
}

fn recipients(log: &MessageLog) -> Markup {
    let table = html! {
        table.stack {
            thead { tr { th { "Address" } th { "State" } th { "What was said" } } }
            tbody {
                @for recipient in log.recipients.iter().take(MAX_RECIPIENTS) {
                    tr {
                        td data-label="Address" { span { (recipient.address) } }
                        td data-label="State" { span { (recipient_state(recipient)) } }
                        td data-label="What was said" { (said(recipient)) }
                    }
                }
            }
        }
    };
    html! {
        (scrolling("Recipients", &table))
        (more(log.recipients.len(), MAX_RECIPIENTS, "recipients", &log.message_id))
    }
}

fn said(recipient: &RecipientLog) -> Markup {
    let RecipientLog { status, reply, bounce, bounced_at, maybe_taken, .. } = recipient;
    html! {
        @if reply.is_some() || bounce.is_some() || *maybe_taken {
            span {
                @if let Some(reply) = reply { @if let Some(status) = status { code { (status) } " " } (short(reply)) " " }
                @if let Some(at) = bounced_at { "Came back at " (time(*at)) @if bounce.is_some() { ": " } @else { ". " } }
                @if let Some(bounce) = bounce { (short(bounce)) " " }
                @if *maybe_taken { "May have it: an attempt ended without an answer." }
            }
        }
    }
}

fn recipient_state(recipient: &RecipientLog) -> Markup {
    let (tone, text) = match (recipient.news, recipient.state.as_str()) {
        (Some("complained"), _) => (Tone::Bad, "called it spam"),
        (Some("bounced" | "failed"), _) => (Tone::Bad, "bounced"),
        (Some("suppressed"), _) => (Tone::Bad, "suppressed upstream"),
        (_, "failed") if recipient.bounced_at.is_some() => (Tone::Bad, "bounced"),
        (_, "failed") => (Tone::Bad, "failed"),
        (Some("delivered"), _) => (Tone::Good, "delivered"),
        (Some("delivery_delayed"), _) => (Tone::Warn, "delayed"),
        (_, "sent") => (Tone::Good, "sent"),
        _ => (Tone::Plain, "queued"),
    };
    badge(tone, text)
}

fn timeline(story: &Story) -> Markup {
    let has_parts = story.log.parts.len() > 1;
    html! {
        ol.timeline {
            @for moment in story.timeline.iter().take(MAX_MOMENTS) {
                li.bad[tone(moment) == Tone::Bad] .fine[tone(moment) == Tone::Good] {
                    p { (what(moment)) @if let (true, Some(part)) = (has_parts, moment.part_no) { " " small { "(part " (part) ")" } } }
                    @if let Some(text) = words(moment) { p.said { (short(text)) } }
                    p.soft { (time(moment.at)) }
                }
            }
        }
        (more(story.timeline.len(), MAX_MOMENTS, "moments", &story.log.message_id))
    }
}

/// What was said, where it is not told already.
fn words(moment: &Moment) -> Option<&str> {
    moment.text.as_deref().filter(|text| !text.is_empty())
}

/// How a moment looks.
fn tone(moment: &Moment) -> Tone {
    match (moment.what, moment.outcome.as_deref()) {
        ("attempt", Some("sent")) | ("event", Some("delivered")) => Tone::Good,
        ("attempt", Some("failed"))
        | ("event", Some("bounced" | "failed" | "suppressed" | "complained"))
        | ("suppressed", _) => Tone::Bad,
        _ => Tone::Plain,
    }
}

/// A moment in a sentence.
fn what(moment: &Moment) -> Markup {
    let outcome = moment.outcome.as_deref().unwrap_or_default();
    let to = || html! { @if let Some(to) = &moment.recipient { b { (to) } } @else { "the recipients" } };
    let number = || grouped(moment.credits.unwrap_or_default());
    html! {
        @match moment.what {
            "accepted" => { b { "Accepted" } @if moment.credits.is_some_and(|held| held > 0) { ", credits held: " (number()) } },
            "note" => { "Changed on the way" },
            "attempt" => (attempt(moment, outcome)),
            "event" => { b { (event(outcome)) } @if moment.recipient.is_some() { ": " (to()) } },
            "suppressed" => { (to()) " was put on your " a href="/account/suppressions" { "suppression list" } " (" (outcome) ")" },
            "report" => {
                "A report was mailed to " (to()) " (" (outcome) ")"
                @if let Some(id) = &moment.message_id { ": " a href={ "/account/messages/" (id) } { "that mail" } }
            },
            "captured" => { b { "Debited" } ", credits: " (number()) },
            "released" => { "Credits released: " (number()) },
            "refund" => { "Refund of credits: " (number()) ", " (outcome) @if moment.recipient.is_some() { ", for " (to()) } },
            "entry" => {
                "Debit at the payment service " (outcome) @if let Some(id) = &moment.entry_id { ": " code { (id) } }
            },
            "decision" => { "The operator's decision: " b { (outcome) } },
            other => { (other) " " (outcome) },
        }
    }
}

fn attempt(moment: &Moment, outcome: &str) -> Markup {
    let road = match moment.road.as_deref() {
        Some("resend") => "Resend",
        Some("smtp") => "SMTP",
        _ => "the upstream",
    };
    html! {
        @match outcome {
            "sent" => { b { "Sent" } " by " (road) },
            "failed" => { b { "Refused" } " by " (road) },
            "deferred" => { "Put off by " (road) },
            "unknown" => { "No answer from " (road) ": it may have been taken" },
            "held" => { b { "Held" } " for the operator: it may have been taken by " (road) },
            other => { (road) ": " (other) },
        }
        @if let Some(number) = moment.attempt { ", attempt " (number) }
        @if let Some(id) = &moment.upstream_id { " " small { code { (id) } } }
    }
}

/// What an upstream told, in words.
fn event(kind: &str) -> &str {
    match kind {
        "sent" => "Taken for delivery",
        "delivery_delayed" => "Delayed by the recipient's server",
        "soft_bounced" => "Something came back",
        "delivered" => "Delivered",
        "failed" => "Given up",
        "suppressed" => "Left out: on the upstream's own list",
        "bounced" => "Bounced",
        "complained" => "Called spam",
        other => other,
    }
}

fn short(text: &str) -> String {
    let mut kept: String = text.chars().take(MAX_WORDS).collect();
    if kept.len() < text.len() {
        kept.push('…');
    }
    kept
}

fn more(all: usize, shown: usize, what: &str, message_id: &MessageId) -> Markup {
    let rest = all.saturating_sub(shown);
    html! {
        @if rest > 0 {
            p.soft { "And " (rest) " more " (what) ": all are in " code { "GET /messages/" (message_id) } "." }
        }
    }
}
