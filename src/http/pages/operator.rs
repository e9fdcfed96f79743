//! The operator's pages: how things stand, customers, the queue.

mod customers;
mod queue;

pub(in crate::http) use customers::{CustomerView, customers};
pub(in crate::http) use queue::{confirm, message, queue};

use jiff::Timestamp;
use maud::{Markup, html};

use super::layout::{Navigation, Tone, alert, badge, empty, grouped, layout, sign, time, warning};
use crate::domain::message::MessageState;
use crate::http::error::HttpError;
use crate::store::account::Totals;
use crate::store::alert::Alert;
use crate::store::gate::Gate;
use crate::store::log::MessageLog;
use crate::store::operator_view::{Crew, WaitingFor};
use crate::submission::Refused;

/// Captures that wait longer are worth a look: an entry is posted every few seconds.
const LAG_NOTICED_S: i64 = 900;

/// The operator's pages, as the navigation names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Overview,
    Customers,
    Queue,
}

impl Place {
    /// Its name, its path, and the lines of its sign.
    const ALL: [(Self, &'static str, &'static str, &'static str); 3] = [
        (Self::Overview, "Overview", "/operator", "M4 18a9 9 0 1 1 16 0M12 15l4-6M12 15h0"),
        (
            Self::Customers,
            "Customers",
            "/operator/customers",
            "M9 11a4 4 0 1 0 0-8 4 4 0 0 0 0 8M2 20a7 7 0 0 1 14 0M16 3.5a4 4 0 0 1 0 7M18 14a7 7 0 0 1 4 6",
        ),
        (Self::Queue, "Queue", "/operator/queue", "M3 6h18M3 12h18M3 18h11"),
    ];
}

fn page(title: &str, place: Place, content: &Markup) -> Markup {
    let links = html! {
        nav aria-label="Operator" {
            @for (each, name, path, lines) in Place::ALL {
                a href=(path) aria-current=[(each == place).then_some("page")] { (sign(lines)) (name) }
            }
            form method="post" action="/operator/sign-out" {
                button.leave type="submit" { (sign("M14 4H5v16h9M10 12h11M17 8l4 4-4 4")) "Sign out" }
            }
        }
    };
    layout(&format!("{title} · Operator"), Navigation::Operator(&links), None, content)
}

/// The form that asks for the token. `problem` is what went wrong with it.
pub(in crate::http) fn sign_in(is_sandbox: bool, problem: Option<&str>) -> Markup {
    let content = html! {
        h1 { "Operator" }
        @if let Some(problem) = problem { (alert(problem)) }
        section {
            form method="post" action="/operator/sign-in" {
                label for="token" { "Operator's token" }
                input #token type="password" name="token" autocomplete="current-password" required autofocus
                    aria-describedby="which";
                p.soft #which {
                    "What stands in " code { "POSTMETER_ADMIN_TOKEN" } " where the server runs. "
                    @if is_sandbox { "The sandbox printed its own when it was started." }
                }
                button type="submit" { "Sign in" }
            }
        }
    };
    layout("Operator", Navigation::Plain, None, &content)
}

/// How things stand.
#[derive(Debug)]
pub(in crate::http) struct Overview {
    pub(in crate::http) now: Timestamp,
    /// Whether the database takes writes.
    pub(in crate::http) can_write: bool,
    pub(in crate::http) totals: Totals,
    pub(in crate::http) gates: Vec<Gate>,
    pub(in crate::http) waiting_for: Vec<WaitingFor>,
    pub(in crate::http) crew: Crew,
    /// Credits owed beyond the balances.
    pub(in crate::http) uncovered: i64,
    /// Age of the oldest capture that is not settled.
    pub(in crate::http) settlement_lag_s: i64,
    pub(in crate::http) is_dodo_up: bool,
    pub(in crate::http) dodo_refuses: Vec<&'static str>,
    pub(in crate::http) ledger_drift: i64,
    pub(in crate::http) entries_doubtful: i64,
    /// The newest first.
    pub(in crate::http) refused: Vec<Refused>,
    /// The newest first.
    pub(in crate::http) alerts: Vec<Alert>,
}

/// Payments that went back, or that somebody disputes.
fn alerts(alerts: &[Alert]) -> Markup {
    html! {
        @if !alerts.is_empty() {
            section {
                h2 { "Refunds and disputes" }
                table.stack {
                    thead { tr { th { "Heard of" } th { "Customer" } th { "What" } th { "Payment" } th { "Suspended for it" } } }
                    tbody {
                        @for alert in alerts {
                            tr {
                                td data-label="Heard of" { (time(alert.raised_at)) }
                                td data-label="Customer" { a href={ "/operator/customers/" (alert.customer_id) } { (alert.customer_id) } }
                                td data-label="What" { (alert.kind.as_str()) ": " (alert.words) }
                                td data-label="Payment" { (alert.payment_id.as_deref().unwrap_or("–")) }
                                td data-label="Suspended for it" { @if alert.suspended { "yes" } @else { "no" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Overview {
    pub(in crate::http) fn render(&self) -> Markup {
        let content = html! {
            div.title { h1 { "Overview" } span.soft { "As of " (time(self.now)) } }
            (self.problems())
            (self.figures())
            (alerts(&self.alerts))
            div.columns {
                (self.upstreams())
                (self.payments())
            }
            (self.queue())
            (self.refusals())
            (self.crew())
        };
        page("Overview", Place::Overview, &content)
    }

    /// What is wrong, in the order in which it hurts.
    fn problems(&self) -> Markup {
        let mut bad = Vec::new();
        if !self.can_write {
            bad.push("The database takes no writes: mail is refused for now.".to_owned());
        }
        if self.ledger_drift != 0 {
            let drift = grouped(self.ledger_drift);
            bad.push(format!("Sums in the books disagree by {drift} credits; `postmeter audit` says where."));
        }
        if !self.dodo_refuses.is_empty() {
            let calls = self.dodo_refuses.join(", ");
            bad.push(format!(
                "Dodo refuses these calls: {calls}. Its key, the key's rights or the entitlement are wrong."
            ));
        }
        let mut soon = Vec::new();
        if self.totals.parts_held > 0 {
            let (held, verb) = counted(self.totals.parts_held, "part is", "parts are");
            soon.push(format!("{held} {verb} held: nobody decides about that but you."));
        }
        if self.entries_doubtful > 0 {
            let (entries, verb) = counted(self.entries_doubtful, "entry is", "entries are");
            soon.push(format!(
                "{entries} {verb} in doubt: Dodo may or may not have applied that; `postmeter entry list` shows it."
            ));
        }
        html! {
            @for problem in &bad { (alert(problem)) }
            @for problem in &soon { (warning(problem)) }
            @if bad.is_empty() && soon.is_empty() && self.gates.is_empty() && self.is_dodo_up {
                p.good { "Nothing asks for you: mail is taken in and leaves, and debits reach Dodo." }
            }
        }
    }

    fn figures(&self) -> Markup {
        let totals = &self.totals;
        html! {
            dl.figures {
                div { dt { "Parts queued" } dd { (grouped(totals.parts_queued)) } }
                div { dt { "Parts held" } dd { a href="/operator/queue?state=held" { (grouped(totals.parts_held)) } } }
                div { dt { "Credits held" } dd { (grouped(totals.held)) } }
                div { dt { "Credits owed" } dd { (grouped(totals.owed)) } }
                div { dt { "Settlement lag" } dd { (span(self.settlement_lag_s)) } }
                div { dt { "Ledger drift" } dd { (grouped(self.ledger_drift)) } }
            }
            p.soft {
                "Held is set aside for mail on its way, owed was sent and is not debited at Dodo yet; the lag is the age "
                "of the oldest such debit. The drift is what this server found when it last compared the books."
            }
        }
    }

    fn upstreams(&self) -> Markup {
        html! {
            section {
                div.title {
                    h2 { "Upstreams" }
                    @if self.gates.is_empty() { (badge(Tone::Good, "open")) } @else { (badge(Tone::Bad, "closed")) }
                }
                @if self.gates.is_empty() { p.soft { "Every road takes our mail." } }
                @for gate in &self.gates {
                    p {
                        strong { (gate.road.as_str()) } " takes no mail since " (time(gate.since)) ": " (gate.reason)
                        ". One part tries it again at " (time(gate.try_again_at)) "."
                    }
                }
            }
        }
    }

    fn payments(&self) -> Markup {
        let is_late = self.settlement_lag_s > LAG_NOTICED_S;
        let (tone, state) = match (self.is_dodo_up, self.dodo_refuses.is_empty(), is_late) {
            (false, ..) => (Tone::Bad, "not answering"),
            (_, false, _) => (Tone::Bad, "refusing"),
            (_, _, true) => (Tone::Warn, "late"),
            _ => (Tone::Good, "well"),
        };
        html! {
            section {
                div.title { h2 { "Dodo and settlement" } (badge(tone, state)) }
                dl.settings {
                    dt { "Last call" }
                    dd { @if self.is_dodo_up { "answered" } @else { "failed or not answered; mail leaves on known credit, debits wait" } }
                    dt { "Entries open" } dd { (grouped(self.totals.entries_open)) }
                    dt { "Entries in doubt" } dd { (grouped(self.entries_doubtful)) }
                    dt { "Oldest debit owed" } dd { (span(self.settlement_lag_s)) }
                    dt { "Owed beyond balances" } dd { (grouped(self.uncovered)) " credits" }
                }
            }
        }
    }

    fn queue(&self) -> Markup {
        html! {
            section {
                h2 { "Why mail waits" }
                @if self.waiting_for.is_empty() { (empty("The queue is empty.")) } @else {
                    table.stack {
                        thead { tr { th { "State" } th { "Last error" } th.number { "Parts" } } }
                        tbody {
                            @for row in &self.waiting_for {
                                tr {
                                    td data-label="State" { a href={ "/operator/queue?state=" (row.state.as_str()) } { (row.state.as_str()) } }
                                    td data-label="Last error" {
                                        @match &row.reason {
                                            Some(reason) => (reason),
                                            None => span.soft { "nothing went wrong yet" },
                                        }
                                    }
                                    td.number data-label="Parts" { (row.parts) }
                                }
                            }
                        }
                    }
                    p.soft { "Of a thousand parts of each kind at most; the figures above count all." }
                }
            }
        }
    }

    fn refusals(&self) -> Markup {
        html! {
            section {
                h2 { "Refused lately" }
                @if self.refused.is_empty() { (empty("This server has refused no mail since it was started.")) } @else {
                    table.stack {
                        thead { tr { th { "Last" } th { "Customer" } th { "Told" } th.number { "Times" } } }
                        tbody {
                            @for refused in &self.refused {
                                tr {
                                    td data-label="Last" { (time(refused.at)) }
                                    td data-label="Customer" {
                                        @if let Some(id) = &refused.customer_id { a href={ "/operator/customers/" (id) } { (id) } }
                                        @else { "–" }
                                    }
                                    td data-label="Told" { (HttpError::Refused(refused.refusal.clone()).text()) }
                                    td.number data-label="Times" { (refused.times) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn crew(&self) -> Markup {
        html! {
            section {
                h2 { "Processes and duties" }
                @if self.crew.nodes.is_empty() { p.soft { "One process, on a database of its own." } } @else {
                    ul { @for (node, seen_at) in &self.crew.nodes { li { code { (short(node, 12)) } ", last seen " (time(*seen_at)) } } }
                }
                @if !self.crew.duties.is_empty() {
                    dl.settings {
                        @for (name, node, until) in &self.crew.duties {
                            dt { (name) } dd { code { (short(node, 12)) } " until " (time(*until)) }
                        }
                    }
                }
            }
        }
    }
}

/// A number, and what is said of one or of many.
fn counted(number: i64, one: &'static str, many: &'static str) -> (String, &'static str) {
    (grouped(number), if number == 1 { one } else { many })
}

/// A stretch of time, as people say it.
fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{} s", seconds.max(0)),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most).chain(['…']).collect()
}

fn recipients(message: &MessageLog) -> String {
    let first = message.recipients.first().map_or("", |recipient| recipient.address.as_str());
    match message.recipients.len() {
        0 | 1 => first.to_owned(),
        many => format!("{first} and {} more", many.saturating_sub(1)),
    }
}

fn subject(message: &MessageLog) -> &str {
    message.subject.as_deref().filter(|subject| !subject.trim().is_empty()).unwrap_or("(no subject)")
}

fn state(state: MessageState) -> Markup {
    match state {
        MessageState::Queued => badge(Tone::Plain, "queued"),
        MessageState::Held => badge(Tone::Warn, "held"),
        MessageState::Sent => badge(Tone::Good, "sent"),
        MessageState::Failed => badge(Tone::Bad, "failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_of_time_are_said_as_people_say_them() {
        let table = [
            (-1, "0 s"),
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7_199, "119 min"),
            (7_200, "2 h"),
            (172_800, "2 days"),
        ];
        for (seconds, want) in table {
            assert_eq!(span(seconds), want);
        }
        assert_eq!((short("größe", 5), short("größer", 5)), ("größe".to_owned(), "größe…".to_owned()));
    }
}
