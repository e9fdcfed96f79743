//! Credentials: what there are, a new one with its secret this once, and the end of one.

use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Navigation, Place, Tone, alert, badge, empty, layout, smtp_settings, time, warning};
use super::visitor::sign_out_everywhere;
use crate::domain::credential::Secret;
use crate::domain::ids::Username;
use crate::http::Settings;
use crate::http::query::with_query;
use crate::store::customer::Credential;

/// Revoked credentials that are shown, the last ones.
const MAX_REVOKED: usize = 20;

/// What is typed into the form for a new credential.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::http) struct NewCredential {
    /// What it is for.
    pub(in crate::http) label: String,
    /// The most messages in a day; empty: any number.
    pub(in crate::http) per_day: String,
    /// The most messages in a minute; empty: any number.
    pub(in crate::http) per_minute: String,
}

/// The list and the form.
#[derive(Debug)]
pub(in crate::http) struct Credentials<'a> {
    /// The one that is signed in, if one is.
    pub(in crate::http) own: Option<&'a Username>,
    /// All of them.
    pub(in crate::http) all: &'a [Credential],
    /// One that was made just now, with its secret.
    pub(in crate::http) new: Option<(&'a Username, &'a Secret)>,
    /// One that was revoked just now.
    pub(in crate::http) revoked: Option<&'a Username>,
    /// What was typed.
    pub(in crate::http) typed: &'a NewCredential,
    /// What is wrong with it.
    pub(in crate::http) problem: Option<&'a str>,
}

impl Credentials<'_> {
    pub(in crate::http) fn render(&self, settings: &Settings) -> Markup {
        let (revoked, active): (Vec<_>, Vec<_>) = self.all.iter().partition(|one| one.revoked_at.is_some());
        let last = revoked.len().saturating_sub(MAX_REVOKED);
        let content = html! {
            h1 { "Credentials" }
            @if let Some(problem) = self.problem { (alert(problem)) }
            @if let Some(username) = self.revoked {
                p.good role="status" { "Revoked " code { (username) } ": it signs in no more." }
            }
            @if let Some(new) = self.new {
                p.good role="status" { strong { "Write the secret down now." } " It is shown this once." }
                section { h2 { "The new credential" } (smtp_settings(settings, Some(new))) }
            }
            p.soft {
                "An app signs in with a username and a secret, over SMTP and HTTP alike. Give each app its own: it can "
                "be revoked alone, and a cap on it bounds what can be sent if its secret gets out."
            }
            section {
                h2 { "In use" }
                @if active.is_empty() { (empty("There are none.")) } @else { (self.table(&active)) }
                p.soft { "When a credential was used last is noted once an hour at most." }
            }
            section { h2 { "New credential" } (self.form()) }
            (sign_out_everywhere())
            @if !revoked.is_empty() {
                details {
                    summary { "Revoked (" (revoked.len()) ")" }
                    section {
                        (self.table(revoked.get(last..).unwrap_or_default()))
                        @if last > 0 { p.soft { "And " (last) " that were made before." } }
                    }
                }
            }
        };
        layout("Credentials", Navigation::Customer(settings, Place::Credentials), None, &content)
    }

    fn form(&self) -> Markup {
        let NewCredential { label, per_day, per_minute } = self.typed;
        html! {
            form method="post" action="/account/credentials" {
                label for="label" { "Label" }
                input #label type="text" name="label" value=(label) maxlength="64" placeholder="what it is for";
                div.columns.fields {
                    div {
                        label for="per_day" { "At most, messages a day" }
                        input #per_day type="text" inputmode="numeric" name="per_day" value=(per_day) maxlength="12"
                            placeholder="any number" aria-describedby="caps";
                    }
                    div {
                        label for="per_minute" { "At most, messages a minute" }
                        input #per_minute type="text" inputmode="numeric" name="per_minute" value=(per_minute)
                            maxlength="12" placeholder="any number" aria-describedby="caps";
                    }
                }
                p #caps.soft {
                    "Days and minutes are those of the clock in UTC. What is more is refused for the time being, with "
                    "a reply that has mail servers try again later."
                }
                button type="submit" { "Create a credential" }
            }
        }
    }

    fn table(&self, some: &[&Credential]) -> Markup {
        html! {
            table.stack {
                thead {
                    tr { th { "Label" } th { "Username" } th { "At most" } th { "Created" } th { "Last used" } th { "Revoke" } }
                }
                tbody { @for one in some { (self.row(one)) } }
            }
        }
    }

    fn row(&self, one: &Credential) -> Markup {
        let path = with_query("/account/credentials/revoke", &[("username", one.username.to_string())]);
        let caps = one.caps.is_some().then(|| one.caps.to_string());
        html! {
            tr {
                td data-label="Label" { @if let Some(label) = &one.label { span { (label) } } }
                td data-label="Username" {
                    span { code { (one.username) } @if Some(&one.username) == self.own { " " (badge(Tone::Good, "signed in")) } }
                }
                td data-label="At most" { span { (caps.as_deref().unwrap_or("any number")) } }
                td data-label="Created" { (time(one.created_at)) }
                td data-label="Last used" { @match one.last_used_at { Some(at) => (time(at)), None => span.soft { "never" } } }
                td data-label="Revoke" {
                    @match one.revoked_at {
                        Some(at) => (time(at)),
                        None => a href=(path) aria-label={ "Revoke " (one.username) } { "Revoke…" }
                    }
                }
            }
        }
    }
}

/// Asks whether a credential is to be revoked.
pub(in crate::http) fn revoke(settings: &Settings, one: &Credential, own: Option<&Username>) -> Markup {
    let content = html! {
        h1 { "Revoke this credential?" }
        section {
            dl.settings {
                @if let Some(label) = &one.label { dt { "Label" } dd { (label) } }
                dt { "Username" } dd { code { (one.username) } }
                dt { "Created" } dd { (time(one.created_at)) }
                dt { "Last used" } dd { @match one.last_used_at { Some(at) => (time(at)), None => "never, as far as was noted" } }
            }
            p { "Whatever signs in with it is refused from now on, and it cannot be had back. Mail that was accepted goes its way." }
            @if Some(&one.username) == own {
                (warning("You are signed in with this credential: you will be signed out. If it is your only one, make another one first."))
            }
            div.actions {
                form method="post" action="/account/credentials/revoke" {
                    input type="hidden" name="username" value=(one.username);
                    button.danger type="submit" { "Revoke" }
                }
                a.button.second href="/account/credentials" { "Keep it" }
            }
        }
    };
    layout("Revoke a credential", Navigation::Customer(settings, Place::Credentials), None, &content)
}
