//! Whom a customer may send as, and the domains that prove it.

use maud::{Markup, html};
use serde_json::Value;

use super::layout::{Navigation, Place, Tone, alert, badge, copyable, empty, layout, time, warning};
use crate::domain::proof::{Origin, ProofState};
use crate::domain::sender::{SenderPattern, SenderPolicy};
use crate::http::Settings;
use crate::http::query::with_query;
use crate::http::senders::DomainView;
use crate::store::proof::SenderLine;

/// The list, the domains and the form.
#[derive(Debug)]
pub(in crate::http) struct Senders<'a> {
    /// Whom the customer may send as.
    pub(in crate::http) lines: &'a [SenderLine],
    /// Their domains.
    pub(in crate::http) domains: &'a [DomainView],
    /// Whether domains can be added here.
    pub(in crate::http) may_add: bool,
    /// What was typed.
    pub(in crate::http) typed: &'a str,
    /// What went wrong.
    pub(in crate::http) problem: Option<&'a str>,
    /// What was done just now.
    pub(in crate::http) news: Option<&'a str>,
}

impl Senders<'_> {
    pub(in crate::http) fn render(&self, settings: &Settings) -> Markup {
        let content = html! {
            h1 { "Senders" }
            @if let Some(problem) = self.problem { (alert(problem)) }
            @if let Some(news) = self.news { p.good role="status" { (news) } }
            section { h2 { "You may send from" } (self.list(settings)) }
            @if self.may_add || !self.domains.is_empty() {
                h2 { "Your domains" }
                @for (number, domain) in self.domains.iter().enumerate() { (self.domain(number, domain)) }
                @if self.domains.is_empty() { (empty("None yet. Add one, publish the records that you are shown, and have it verified.")) }
            }
            @if self.may_add { section { h2 { "Add a domain" } (self.form()) } }
        };
        layout("Senders", Navigation::Customer(settings, Place::Senders), None, &content)
    }

    fn list(&self, settings: &Settings) -> Markup {
        let is_any = settings.sender_policy == SenderPolicy::Any
            || self.lines.iter().any(|line| line.pattern == SenderPattern::Any);
        html! {
            @if is_any {
                p { "Any address." }
            } @else if self.lines.is_empty() {
                (empty("No address yet."))
            } @else {
                table.stack {
                    thead { tr { th { "Address or domain" } th { "Why" } } }
                    tbody {
                        @for line in self.lines {
                            tr {
                                td data-label="Sender" { code { (line.pattern.to_string()) } }
                                td data-label="Why" { span { (origin(line.origin)) } }
                            }
                        }
                    }
                }
            }
            @if !is_any && !self.may_add { p.soft { "To send from another address or domain, ask the operator." } }
        }
    }

    fn domain(&self, number: usize, domain: &DomainView) -> Markup {
        let (tone, state) = state(domain.state);
        html! {
            section {
                div.title { h3 { (domain.domain) } (badge(tone, state)) }
                @if let Some(problem) = &domain.problem { (warning(problem)) }
                @if let Some(since) = domain.missing_since {
                    (warning("The proof is not found any more. Publish the records again, or sending from here ends."))
                    p.soft { "Missing since " (time(since)) "." }
                }
                (records(number, &domain.records))
                p.soft {
                    @if let Some(at) = domain.verified_at { "Verified at " (time(at)) ". " }
                    @if let Some(at) = domain.checked_at { "Looked at last at " (time(at)) ". " }
                    @if let Some(at) = domain.expires_at { "Forgotten at " (time(at)) " unless it is verified." }
                }
                (self.actions(domain))
            }
        }
    }

    fn actions(&self, domain: &DomainView) -> Markup {
        let path = with_query("/account/senders/remove", &[("domain", domain.domain.clone())]);
        html! {
            @if !matches!(domain.state, ProofState::Denied | ProofState::Removing) {
                div.actions {
                    @if self.may_add {
                        form method="post" action="/account/senders/verify" {
                            input type="hidden" name="domain" value=(domain.domain);
                            button.second type="submit" aria-label={ "Verify " (domain.domain) } {
                                @if domain.state == ProofState::Verified { "Look again" } @else { "Verify now" }
                            }
                        }
                    }
                    a href=(path) aria-label={ "Remove " (domain.domain) } { "Remove…" }
                }
            }
        }
    }

    fn form(&self) -> Markup {
        html! {
            form method="post" action="/account/senders" {
                label for="domain" { "Domain" }
                input #domain type="text" name="domain" value=(self.typed) maxlength="253" placeholder="example.com"
                    autocomplete="off" autocapitalize="none" spellcheck="false" required aria-describedby="which"
                    aria-invalid=[self.problem.filter(|_| !self.typed.is_empty()).map(|_| "true")];
                p #which.soft { "You may then send from every address of exactly this domain, not of those below it." }
                button type="submit" { "Add the domain" }
            }
        }
    }
}

/// Asks whether a domain is to be removed.
pub(in crate::http) fn remove_sender(settings: &Settings, domain: &DomainView) -> Markup {
    let content = html! {
        h1 { "Remove " (domain.domain) "?" }
        section {
            p { "Mail from it is refused from now on. To have it back, add it again: it will have new records." }
            div.actions {
                form method="post" action="/account/senders/remove" {
                    input type="hidden" name="domain" value=(domain.domain);
                    button.danger type="submit" { "Remove" }
                }
                a.button.second href="/account/senders" { "Keep it" }
            }
        }
    };
    layout("Remove a domain", Navigation::Customer(settings, Place::Senders), None, &content)
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Operator => "allowed by the operator",
        Origin::Starter => "given to you at the start",
        Origin::Proof => "verified below",
    }
}

fn state(state: ProofState) -> (Tone, &'static str) {
    match state {
        ProofState::Adding => (Tone::Plain, "being added"),
        ProofState::Pending => (Tone::Warn, "waits for its records"),
        ProofState::Verified => (Tone::Good, "verified"),
        ProofState::Lost => (Tone::Bad, "no longer verified"),
        ProofState::Denied => (Tone::Bad, "denied by the operator"),
        ProofState::Removing => (Tone::Plain, "being removed"),
    }
}

/// The records to publish, whoever asks for them.
fn records(number: usize, records: &Value) -> Markup {
    let records = records.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |record: &Value, name: &str| match record.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    html! {
        @if !records.is_empty() { p { "Publish in the DNS of this domain:" } }
        @for (nth, record) in records.iter().enumerate() {
            @let (kind, priority, status) = (text(record, "type"), text(record, "priority"), text(record, "status"));
            div.record {
                p {
                    b { (kind) }
                    @if !priority.is_empty() { ", priority " (priority) }
                    @if !status.is_empty() { " " (badge(if status == "verified" { Tone::Good } else { Tone::Plain }, &status)) }
                }
                @for field in ["name", "value"] {
                    p.soft { @if field == "name" { "Name" } @else { "Value" } }
                    (copyable(
                        &format!("{field}-{number}-{nth}"),
                        &format!("the {field} of the {kind} record"),
                        &text(record, field),
                    ))
                }
            }
        }
    }
}
