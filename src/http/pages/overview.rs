//! The page that a customer sees first.

use jiff::Timestamp;
use maud::{Markup, html};

use super::chart;
use super::layout::{
    Navigation, Place, Refresh, Tone, alert, badge, day, empty, grouped, layout, time, warning,
};
use crate::billing::expiry::{Expiries, Portion};
use crate::domain::account::Account;
use crate::domain::credits::Credits;
use crate::domain::forecast::{Forecast, HORIZON_DAYS};
use crate::domain::ids::MessageId;
use crate::domain::message::MessageState;
use crate::http::Settings;
use crate::http::error::in_debt;
use crate::http::usage::Day;
use crate::store::log::MessageLog;
use crate::store::standing::Standing;

/// Seconds after which the page looks again where there is no script.
const LOOK_AGAIN_S: u32 = 15;
/// The same just after a message was taken in: it is about to leave.
const LOOK_AGAIN_SOON_S: u32 = 4;
/// Lines about when credits end; later ones are summed up.
const MOST_PORTIONS: usize = 6;
/// Few days are left: the customer is warned.
const FEW_DAYS: i64 = 3;

/// Credits, usage and the newest messages.
#[derive(Debug)]
pub(in crate::http) struct Overview<'a> {
    /// Whose.
    pub(in crate::http) standing: &'a Standing,
    /// The newest messages.
    pub(in crate::http) messages: &'a [MessageLog],
    /// A message that was taken in just now.
    pub(in crate::http) sent: Option<&'a MessageId>,
    /// What was used, a day each; `None`: it is being counted.
    pub(in crate::http) days: Option<&'a [Day]>,
    /// When the credits run out; `None`: what was used is being counted.
    pub(in crate::http) forecast: Option<Forecast>,
    /// When they end; `None`: Dodo has not said so.
    pub(in crate::http) expiries: Option<&'a Expiries>,
    /// The time.
    pub(in crate::http) now: Timestamp,
}

impl Overview<'_> {
    pub(in crate::http) fn render(&self, settings: &Settings) -> Markup {
        let content = html! {
            div.title {
                div { h1 { "Overview" } span.soft { "Account " (self.standing.customer_id) } }
                div.actions {
                    form method="post" action="/account/portal" {
                        button.second type="submit" { "Invoices and payments" }
                    }
                    form method="post" action="/account/top-up" { button type="submit" { "Buy a top-up" } }
                }
            }
            div #alerts data-live { (self.alerts(settings)) }
            div #credits data-live { (credits(&self.standing.account)) }
            div.columns {
                section #lasting data-live { h2 { "How long they last" } (self.lasting()) }
                section #ending data-live { h2 { "When they expire" } (self.ending()) }
            }
            section #usage data-live { h2 { "Usage" } (self.usage()) }
            section #newest data-live {
                div.title {
                    h2 { "Newest messages" }
                    a href="/account/messages" { "All messages" }
                }
                (newest(self.messages))
            }
        };
        let seconds = if self.sent.is_some() { LOOK_AGAIN_SOON_S } else { LOOK_AGAIN_S };
        let refresh = Refresh { seconds, url: "/account" };
        layout("Overview", Navigation::Customer(settings, Place::Overview), Some(refresh), &content)
    }

    fn alerts(&self, settings: &Settings) -> Markup {
        let account = &self.standing.account;
        let shortfall = account.shortfall();
        html! {
            @if let Some(reason) = &self.standing.suspended_reason {
                (alert(&format!("This account is suspended: {reason}. Ask the operator to resume it.")))
            }
            @if let Some(id) = self.sent { p.good role="status" { "Accepted as " code { (id) } "." } }
            @if shortfall > Credits::ZERO {
                (alert(&in_debt(shortfall)))
            } @else if account.available().is_some_and(|available| available <= 0) {
                (alert("No email credits remaining: mail is refused until there are some. Buy a top-up."))
            } @else if let Some(available) = account.available().filter(|n| self.is_low(*n, settings)) {
                (warning(&format!(
                    "Only {} email credits are left. Buy a top-up before mail is refused.", grouped(available)
                )))
            }
        }
    }

    fn is_low(&self, available: i64, settings: &Settings) -> bool {
        available < settings.low_balance
            || matches!(self.forecast, Some(Forecast::Days(days)) if days <= FEW_DAYS)
    }

    fn lasting(&self) -> Markup {
        let pace = |how_long: String| {
            html! { p.big { (how_long) } p.soft { "At the pace of the last 7 days." } }
        };
        match self.forecast {
            None => html! { p { "What was used is being counted; look again in a moment." } },
            Some(Forecast::Unknown) => html! { p { "The balance was not read yet." } },
            Some(Forecast::Gone) => {
                html! { p.big { "Used up" } p.soft { "Mail is refused until there are some." } }
            }
            Some(Forecast::TooNew) => {
                html! { p { "This account has not been used for long enough to tell." } }
            }
            Some(Forecast::Unused) => {
                html! { p { "Nothing was sent in the last 7 days: at that pace, for ever." } }
            }
            Some(Forecast::Days(0)) => pace("Less than a day".to_owned()),
            Some(Forecast::Days(1)) => pace("About 1 day".to_owned()),
            Some(Forecast::Days(days)) => pace(format!("About {days} days")),
            Some(Forecast::Far) => pace(format!("More than {HORIZON_DAYS} days")),
        }
    }

    fn ending(&self) -> Markup {
        let Some(expiries) = self.expiries else {
            return html! {
                p { "The payment service has not said so yet. This page asks it again; sending works all the same." }
            };
        };
        let shown = expiries.portions.iter().take(MOST_PORTIONS);
        let others = expiries.portions.get(MOST_PORTIONS..).unwrap_or_default();
        let other_credits = others.iter().fold(0, |sum: i64, one| sum.saturating_add(one.credits));
        html! {
            @if expiries.portions.is_empty() {
                p { "There are no credits that could expire." }
            } @else {
                table {
                    thead { tr { th scope="col" { "Expire" } th.number scope="col" { "Credits" } } }
                    tbody {
                        @for portion in shown { (self.portion(portion)) }
                        @if !others.is_empty() {
                            tr { td { "Later" } td.number { (grouped(other_credits)) } }
                        }
                    }
                }
                @if expiries.is_cut { p.soft { "There are more than the payment service listed." } }
                p.soft { "As of " (time(expiries.as_of)) ", before what is held and owed now." }
            }
        }
    }

    fn portion(&self, portion: &Portion) -> Markup {
        let days = portion.expires_at.map(|at| at.duration_since(self.now).as_hours() / 24);
        html! {
            tr {
                td {
                    @match portion.expires_at { Some(at) => (day(at)), None => "Never" }
                    @match days {
                        Some(days) if days < 1 => { " " (badge(Tone::Bad, "today")) }
                        Some(days) if days <= 7 => { " " (badge(Tone::Warn, &format!("in {days} days"))) }
                        _ => ""
                    }
                }
                td.number { (grouped(portion.credits)) }
            }
        }
    }

    fn usage(&self) -> Markup {
        match self.days {
            None => html! { p { "It is being counted; look again in a moment." } },
            Some([]) => {
                html! { p { "This server keeps no log of messages that are done, so there is none." } }
            }
            Some(days) => chart::usage(days),
        }
    }
}

fn credits(account: &Account) -> Markup {
    let number = |count: Option<i64>| count.map_or("unknown".to_owned(), grouped);
    html! {
        dl.figures {
            div.main { dt { "Available" } dd { (number(account.available())) } }
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

fn newest(messages: &[MessageLog]) -> Markup {
    html! {
        @if messages.is_empty() {
            (empty("Nothing was sent yet. Connect has the settings for your app; Send sends a letter from here."))
        } @else {
            table.stack {
                thead {
                    tr {
                        th scope="col" { "Subject" } th scope="col" { "To" } th scope="col" { "State" }
                        th scope="col" { "Accepted" } th.number scope="col" { "Credits" }
                    }
                }
                tbody { @for message in messages { (row(message)) } }
            }
        }
    }
}

fn row(message: &MessageLog) -> Markup {
    let first = message.recipients.first().map(|recipient| recipient.address.as_str());
    let others = message.recipients.len().saturating_sub(1);
    let (tone, state) = state(message);
    let subject = message.subject.as_deref().map(str::trim).filter(|subject| !subject.is_empty());
    html! {
        tr {
            td data-label="Subject" {
                a href={ "/account/messages/" (message.message_id) } { (subject.unwrap_or("(no subject)")) }
            }
            td data-label="To" { span { (first.unwrap_or_default()) @if others > 0 { " and " (others) " more" } } }
            td data-label="State" { (badge(tone, state)) }
            td data-label="Accepted" { (time(message.accepted_at)) }
            td.number data-label="Credits" { (grouped(message.captured)) }
        }
    }
}

/// Where a message stands, in a word or three, with what was told of it after it had left.
fn state(message: &MessageLog) -> (Tone, &'static str) {
    let told = |news: &str| message.recipients.iter().any(|recipient| recipient.news == Some(news));
    let came_back = message.recipients.iter().any(|recipient| recipient.bounced_at.is_some());
    match message.state {
        MessageState::Queued if message.parts.iter().any(|part| part.state == "sending") => {
            (Tone::Plain, "sending")
        }
        MessageState::Queued if message.attempts() > 0 => (Tone::Warn, "tried, waiting"),
        MessageState::Queued => (Tone::Plain, "queued"),
        MessageState::Held => (Tone::Warn, "held for the operator"),
        MessageState::Failed => (Tone::Bad, "failed"),
        MessageState::Sent if told("complained") => (Tone::Bad, "complained about"),
        MessageState::Sent if came_back || told("bounced") => (Tone::Bad, "bounced"),
        MessageState::Sent if told("suppressed") || told("failed") => (Tone::Bad, "not delivered"),
        MessageState::Sent if message.recipients.iter().all(|r| r.news == Some("delivered")) => {
            (Tone::Good, "delivered")
        }
        MessageState::Sent => (Tone::Good, "sent"),
    }
}
