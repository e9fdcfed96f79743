//! Pages for a customer who signed in.

use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Navigation, Place, Refresh, alert, grouped, layout, time};
use crate::domain::account::Account;
use crate::domain::credits::Credits;
use crate::domain::ids::MessageId;
use crate::domain::message::MessageState;
use crate::http::Settings;
use crate::http::error::in_debt;
use crate::store::log::MessageLog;
use crate::store::standing::Standing;

/// Seconds after which the overview looks again: credits and log are live.
const LOOK_AGAIN_S: u32 = 15;
/// The same just after a message was taken in: it is about to leave.
const LOOK_AGAIN_SOON_S: u32 = 4;

/// Credits and log.
#[derive(Debug)]
pub(in crate::http) struct Overview<'a> {
    /// Whose.
    pub(in crate::http) standing: &'a Standing,
    /// This page of the log.
    pub(in crate::http) messages: &'a [MessageLog],
    /// Where the next page begins.
    pub(in crate::http) older: Option<&'a MessageId>,
    /// Whether this is the newest page.
    pub(in crate::http) is_first: bool,
    /// A message that was taken in just now.
    pub(in crate::http) sent: Option<&'a MessageId>,
}

impl Overview<'_> {
    pub(in crate::http) fn render(&self, settings: &Settings) -> Markup {
        let content = html! {
            h1 { "Account " (self.standing.customer_id) }
            @if let Some(reason) = &self.standing.suspended_reason {
                (alert(&format!("This account is suspended: {reason}. Ask the operator to resume it.")))
            }
            @if let Some(id) = self.sent { p.good role="status" { "Accepted as " code { (id) } "." } }
            @if self.standing.account.shortfall() > Credits::ZERO {
                (alert(&in_debt(self.standing.account.shortfall())))
            }
            (credits(&self.standing.account))
            form method="post" action="/account/top-up" { button type="submit" { "Buy a top-up" } }
            h2 { "Messages" }
            (log(self.messages))
            p {
                @if !self.is_first { a href="/account" { "Newest" } " " }
                @if let Some(id) = self.older { a href={ "/account?before=" (id) } { "Older" } }
            }
        };
        let seconds = if self.sent.is_some() { LOOK_AGAIN_SOON_S } else { LOOK_AGAIN_S };
        let refresh = self.is_first.then_some(Refresh { seconds, url: "/account" });
        layout("Account", Navigation::Customer(settings, Place::Overview), refresh, &content)
    }
}

fn credits(account: &Account) -> Markup {
    let number = |count: Option<i64>| count.map_or("unknown".to_owned(), grouped);
    html! {
        dl.figures {
            div { dt { "Available" } dd { (number(account.available())) } }
            div { dt { "Balance" } dd { (number(account.balance)) } }
            div { dt { "Held" } dd { (grouped(account.held.to_i64())) } }
            div { dt { "Owed" } dd { (grouped(account.owed.to_i64())) } }
        }
        p.soft {
            "Available is the balance less what is held for messages on their way and owed for messages sent. "
            @match account.balance_read_at {
                Some(at) => { "The balance is as of " (time(at)) "." }
                None => "The balance was not read yet."
            }
        }
    }
}

fn log(messages: &[MessageLog]) -> Markup {
    html! {
        @if messages.is_empty() { p { "Nothing yet." } } @else {
            div.wide {
                table {
                    thead {
                        tr {
                            th { "Accepted" } th { "From" } th { "To" } th { "Subject" } th { "State" }
                            th.number { "Attempts" } th.number { "Credits" }
                        }
                    }
                    tbody { @for message in messages { (row(message)) } }
                }
            }
        }
    }
}

fn row(message: &MessageLog) -> Markup {
    let first = message.recipients.first().map(|recipient| recipient.address.as_str());
    let others = message.recipients.len().saturating_sub(1);
    let attempts = message.parts.iter().map(|part| part.attempts).fold(0, u32::saturating_add);
    let (class, state) = match message.state {
        MessageState::Queued => ("queued", "queued"),
        MessageState::Held => ("failed", "held for the operator"),
        MessageState::Sent => ("sent", "sent"),
        MessageState::Failed => ("failed", "failed"),
    };
    let refusals = message.recipients.iter().filter_map(|recipient| {
        recipient.reply.as_ref().map(|reply| format!("{}: {reply}", recipient.address))
    });
    let bounces = message.recipients.iter().filter_map(|recipient| {
        recipient.bounce.as_ref().map(|bounce| format!("{} bounced: {bounce}", recipient.address))
    });
    let refunded = message.refunds.iter().filter(|refund| refund.state == "credited").map(|r| r.credits);
    let given_back = refunded.sum::<i64>();
    let refusals = refusals.chain(bounces);
    let errors = message.parts.iter().filter_map(|part| part.last_error.clone());
    let said: Vec<String> = if message.state == MessageState::Sent {
        refusals.collect()
    } else {
        refusals.chain(errors).collect()
    };
    html! {
        tr {
            td { (time(message.accepted_at)) }
            td { (message.from) }
            td { (first.unwrap_or_default()) @if others > 0 { " and " (others) " more" } }
            td { (message.subject.as_deref().unwrap_or("(no subject)")) }
            td {
                span class=(class) { (state) }
                @for text in said { br; small { (text) } }
            }
            td.number { (attempts) }
            td.number {
                (grouped(message.captured))
                @if given_back > 0 { br; small { (grouped(given_back)) " given back" } }
            }
        }
    }
}

/// What is typed into the send form.
#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::http) struct Letter {
    /// The sender; empty: the first on the list.
    #[serde(default)]
    pub(in crate::http) from: String,
    /// Recipients, with commas between them.
    pub(in crate::http) to: String,
    /// The subject.
    pub(in crate::http) subject: String,
    /// The text.
    pub(in crate::http) text: String,
}

/// The send form. `problem` is why the letter was not taken.
pub(in crate::http) fn send(settings: &Settings, letter: &Letter, problem: Option<&str>) -> Markup {
    let content = html! {
        h1 { "Send a message" }
        @if let Some(problem) = problem { (alert(problem)) }
        section {
            form method="post" action="/account/send" {
                label for="from" { "From" }
                input #from type="text" name="from" value=(letter.from) autocomplete="email";
                label for="to" { "To" }
                input #to type="text" name="to" value=(letter.to) placeholder="addresses, with commas between them" required;
                label for="subject" { "Subject" }
                input #subject type="text" name="subject" value=(letter.subject) required;
                label for="text" { "Text" }
                // The parser drops a line break right after the tag; this one is for it.
                textarea #text name="text" required { "\n" (letter.text) }
                button type="submit" { "Send" }
            }
        }
    };
    layout("Send a message", Navigation::Customer(settings, Place::Send), None, &content)
}
