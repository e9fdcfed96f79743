//! Whom a customer's mail is not taken for.

use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Navigation, Place, alert, empty, grouped, layout, time};
use crate::domain::suppression::Cause;
use crate::http::Settings;
use crate::http::query::with_query;
use crate::store::suppression::{Listed, Suppression, WALK};

/// What is typed into the form for an address.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::http) struct NewSuppression {
    /// The address.
    pub(in crate::http) address: String,
    /// Why, in the customer's words.
    pub(in crate::http) reason: String,
}

/// The list with its search and the form.
#[derive(Debug)]
pub(in crate::http) struct Suppressions<'a> {
    /// This page of the list.
    pub(in crate::http) listed: &'a Listed,
    /// What is looked for.
    pub(in crate::http) sought: &'a str,
    /// Whether it begins with the first address.
    pub(in crate::http) is_first: bool,
    /// What was typed.
    pub(in crate::http) typed: &'a NewSuppression,
    /// What is wrong with it.
    pub(in crate::http) problem: Option<&'a str>,
    /// What was done just now.
    pub(in crate::http) news: Option<&'a str>,
}

impl Suppressions<'_> {
    pub(in crate::http) fn render(&self, settings: &Settings) -> Markup {
        let content = html! {
            h1 { "Suppressions" }
            @if let Some(problem) = self.problem { (alert(problem)) }
            @if let Some(news) = self.news { p.good role="status" { (news) } }
            p.soft {
                "Mail to these addresses is refused at once and costs nothing. An address comes here by itself when mail to "
                "it bounces for good or is called spam, so that your mail stays welcome elsewhere."
            }
            form.toolbar method="get" action="/account/suppressions" role="search" aria-label="Suppressions" {
                div {
                    label for="q" { "Address" }
                    input #q type="text" name="q" value=(self.sought) maxlength="320" autocomplete="off"
                        spellcheck="false" placeholder="or a part of it";
                }
                button type="submit" { "Search" }
                @if !self.sought.is_empty() { a.button.second href="/account/suppressions" { "Clear" } }
            }
            section { (self.list()) (self.pager()) }
            section { h2 { "Add an address" } (self.form()) }
        };
        layout("Suppressions", Navigation::Customer(settings, Place::Suppressions), None, &content)
    }

    fn list(&self) -> Markup {
        let nothing =
            if self.sought.is_empty() { "No address is suppressed." } else { "No address is like that." };
        html! {
            @if self.listed.is_stopped {
                p.soft role="status" { "The search stopped after " (grouped(i64::from(WALK))) " addresses: it goes on where you tell it to." }
            }
            @if self.listed.entries.is_empty() { (empty(nothing)) } @else {
                table.stack {
                    thead { tr { th { "Address" } th { "Why" } th { "Since" } th { "Take off" } } }
                    tbody { @for entry in &self.listed.entries { (row(entry)) } }
                }
            }
        }
    }

    fn pager(&self) -> Markup {
        let path = |after: Option<&String>| {
            let sought = Some(self.sought).filter(|sought| !sought.is_empty());
            let fields = sought.map(|sought| ("q", sought.to_owned())).into_iter();
            let fields: Vec<_> = fields.chain(after.map(|after| ("after", after.clone()))).collect();
            with_query("/account/suppressions", &fields)
        };
        html! {
            @if !self.is_first || self.listed.next.is_some() {
                nav.pager aria-label="Pages" {
                    @if !self.is_first { a href=(path(None)) { "First" } }
                    @if let Some(next) = &self.listed.next { a rel="next" href=(path(Some(next))) { "More" } }
                }
            }
        }
    }

    fn form(&self) -> Markup {
        let NewSuppression { address, reason } = self.typed;
        html! {
            form method="post" action="/account/suppressions" {
                label for="address" { "Address" }
                input #address type="text" inputmode="email" name="address" value=(address) maxlength="320" required
                    autocomplete="off" autocapitalize="none" spellcheck="false"
                    aria-invalid=[self.problem.map(|_| "true")];
                label for="reason" { "Reason" }
                input #reason type="text" name="reason" value=(reason) maxlength="160" placeholder="in your words, or nothing";
                button type="submit" { "Suppress the address" }
            }
        }
    }
}

fn row(entry: &Suppression) -> Markup {
    let why = match entry.reason {
        Cause::Bounce => "mail to it bounced",
        Cause::Complaint => "its owner called a mail spam",
        Cause::Upstream => "the upstream has it on its own list",
        Cause::Manual => "put here by hand",
    };
    html! {
        tr {
            td data-label="Address" { span { (entry.address) } }
            td data-label="Why" {
                span {
                    (why)
                    @if let Some(detail) = &entry.detail { ": " small { (detail) } }
                    @if let Some(id) = &entry.message_id { " " a href={ "/account/messages/" (id) } { "the message" } }
                }
            }
            td data-label="Since" { (time(entry.added_at)) }
            td data-label="Take off" {
                form method="post" action="/account/suppressions/remove" {
                    input type="hidden" name="address" value=(entry.address);
                    button.quiet type="submit" aria-label={ "Take off " (entry.address) } { "Take off" }
                }
            }
        }
    }
}
