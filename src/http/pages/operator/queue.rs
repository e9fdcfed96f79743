//! The queue as the operator sees it, and what is asked before a decision is carried out.

use maud::{Markup, html};

use super::super::layout::{Tone, alert, badge, empty, grouped, scrolling, time};
use super::{Place, page, recipients, short, state, subject};
use crate::domain::decision::Choice;
use crate::domain::message::MessageState;
use crate::store::operator::{QueueMessage, Waiting};

/// Characters of a text in the list; its message's page tells all of it.
const SHORT: usize = 120;

/// Messages of the queue that are in this state, the oldest first.
pub(in crate::http) fn queue(
    listed: Waiting,
    customer_id: &str,
    messages: &[QueueMessage],
    problem: Option<&str>,
) -> Markup {
    let content = html! {
        h1 { "Queue" }
        @if let Some(problem) = problem { (alert(problem)) }
        form.toolbar method="get" action="/operator/queue" {
            div {
                label for="state" { "State" }
                select #state name="state" {
                    @for each in Waiting::ALL {
                        option value=(each.as_str()) selected[each == listed] { (what_waits(each)) }
                    }
                }
            }
            div {
                label for="customer_id" { "Customer's id" }
                input #customer_id type="text" name="customer_id" value=(customer_id) maxlength="100" autocomplete="off";
            }
            button type="submit" { "Show" }
        }
        @if listed == Waiting::Held {
            p.soft {
                "Whether these messages reached their recipients cannot be known. They are not sent again, and their "
                "credits stay held, until you decide."
            }
        }
        @if messages.is_empty() { (empty("Nothing in the queue is like that.")) } @else {
            section { (scrolling("Messages", &queue_table(messages))) }
            @if messages.len() >= 50 { p.soft { "The oldest fifty are shown." } }
        }
    };
    page("Queue", Place::Queue, &content)
}

const fn what_waits(state: Waiting) -> &'static str {
    match state {
        Waiting::Held => "Held: you decide",
        Waiting::Sending => "An attempt is under way",
        Waiting::Queued => "Waiting for the next attempt",
    }
}

fn queue_table(messages: &[QueueMessage]) -> Markup {
    html! {
        table.stack {
            thead {
                tr {
                    th { "Accepted" } th { "Customer" } th { "To" } th { "Subject" } th { "Last error" } th.number { "Tries" }
                    th { span.unseen { "Decide" } }
                }
            }
            tbody {
                @for message in messages {
                    @let log = &message.log;
                    tr {
                        td data-label="Accepted" { a href={ "/operator/queue/" (log.message_id) } { (time(log.accepted_at)) } }
                        td data-label="Customer" { a href={ "/operator/customers/" (log.customer_id) } { (log.customer_id) } }
                        td data-label="To" { (recipients(log)) }
                        td data-label="Subject" { (subject(log)) }
                        td data-label="Last error" { (short(message.last_error.as_deref().unwrap_or("–"), SHORT)) }
                        td.number data-label="Tries" { (message.attempts) }
                        td data-label="Decide" { (decide(message, true)) }
                    }
                }
            }
        }
    }
}

/// The two buttons, in a list or by themselves. What is risky is asked about before it is done.
fn decide(message: &QueueMessage, is_listed: bool) -> Markup {
    let id = &message.log.message_id;
    let retry = if message.log.state == MessageState::Held { "Release" } else { "Send now" };
    let (first, second) = if is_listed { ("quiet", "quiet danger") } else { ("second", "danger") };
    html! {
        div.actions {
            form method="post" action={ "/operator/queue/" (id) "/retry" } {
                button class=(first) type="submit" { (retry) span.unseen { " " (id) } }
            }
            form method="post" action={ "/operator/queue/" (id) "/cancel" } {
                button class=(second) type="submit" { "Cancel" span.unseen { " " (id) } }
            }
        }
    }
}

/// Asks whether the risk of a decision is taken, which is not done yet.
pub(in crate::http) fn confirm(message: &QueueMessage, choice: Choice) -> Markup {
    let log = &message.log;
    let (heading, button, class) = match choice {
        Choice::Retry => ("Send it again?", "Yes, send it again", "button"),
        Choice::Cancel => ("Give it up?", "Yes, give it up", "danger"),
    };
    let content = html! {
        h1 { (heading) }
        p.warn role="alert" { strong { "Mind: " } (choice.risk()) "." }
        section { (summary(message)) }
        div.actions {
            form method="post" action={ "/operator/queue/" (log.message_id) "/" (choice.as_str()) } {
                input type="hidden" name="confirm" value="true";
                button class=(class) type="submit" { (button) }
            }
            a.button.second href={ "/operator/queue/" (log.message_id) } { "No, leave it" }
        }
    };
    page(heading, Place::Queue, &content)
}

fn summary(message: &QueueMessage) -> Markup {
    let log = &message.log;
    html! {
        dl.settings {
            dt { "Message" } dd { code { (log.message_id) } }
            dt { "Customer" } dd { a href={ "/operator/customers/" (log.customer_id) } { (log.customer_id) } }
            dt { "From" } dd { (log.from) }
            dt { "Subject" } dd { (subject(log)) }
            dt { "Accepted" } dd { (time(log.accepted_at)) }
            dt { "Tried until" } dd { (time(log.expires_at)) }
            dt { "Credits" } dd { (grouped(log.price)) " held at first, " (grouped(log.captured)) " captured, " (grouped(log.released)) " given back" }
            @if let Some(error) = &message.last_error { dt { "Last error" } dd { (error) } }
        }
    }
}

/// One message. `done` is what was decided about it just now.
pub(in crate::http) fn message(message: &QueueMessage, done: Option<Choice>) -> Markup {
    let log = &message.log;
    let is_waiting = matches!(log.state, MessageState::Queued | MessageState::Held)
        || log.parts.iter().any(|part| !matches!(part.state.as_str(), "sent" | "failed"));
    let content = html! {
        div.title { h1 { "Message" } (state(log.state)) }
        @match done {
            Some(Choice::Retry) => p.good role="status" { "It is due now: a server sends it within a second." },
            Some(Choice::Cancel) => p.good role="status" { "It was given up; what was not sent is not paid." },
            None => {}
        }
        section {
            (summary(message))
            @if is_waiting { (decide(message, false)) }
        }
        section {
            h2 { "Recipients" }
            table.stack {
                thead { tr { th { "Address" } th { "State" } th { "Said" } } }
                tbody {
                    @for recipient in &log.recipients {
                        tr {
                            td data-label="Address" { (recipient.address) }
                            td data-label="State" { (badge(Tone::Plain, &recipient.state)) @if recipient.maybe_taken { " · may have it" } }
                            td data-label="Said" { (recipient.bounce.as_deref().or(recipient.reply.as_deref()).unwrap_or("–")) }
                        }
                    }
                }
            }
        }
        section {
            h2 { "Parts" }
            table.stack {
                thead { tr { th { "Road" } th { "State" } th.number { "Tries" } th { "Next" } th { "Upstream's id" } th { "Last error" } } }
                tbody {
                    @for part in &log.parts {
                        tr {
                            td data-label="Road" { code { (part.road) } }
                            td data-label="State" { (badge(Tone::Plain, &part.state)) @if part.unknown { " · outcome unknown" } }
                            td.number data-label="Tries" { (part.attempts) }
                            td data-label="Next" { @match part.due_at { Some(at) => (time(at)), None => "–" } }
                            td data-label="Upstream's id" { (part.upstream_id.as_deref().unwrap_or("–")) }
                            td data-label="Last error" { (part.last_error.as_deref().unwrap_or("–")) }
                        }
                    }
                }
            }
        }
        @if !message.decisions.is_empty() {
            section {
                h2 { "Decided" }
                ul {
                    @for decision in &message.decisions {
                        li { (time(decision.decided_at)) ": " (decision.choice.as_str()) " by " (decision.via.as_str())
                            @if decision.held_parts > 0 { ", the risk taken for " (decision.held_parts) " parts" } }
                    }
                }
            }
        }
        @if !log.notes.is_empty() {
            section { h2 { "Changed on the way" } ul { @for note in &log.notes { li { (note) } } } }
        }
    };
    page("Message", Place::Queue, &content)
}
