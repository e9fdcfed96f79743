//! Pages for a customer who signed in.

use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Navigation, Place, alert, layout, scrolling, smtp_settings, time};
use super::visitor::sender_list;
use crate::domain::credential::Secret;
use crate::domain::ids::Username;
use crate::http::Settings;
use crate::store::customer::Credential;
use crate::store::standing::Standing;

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

/// Credentials and senders; a new credential with its secret, this once.
pub(in crate::http) fn credentials(
    settings: &Settings,
    standing: &Standing,
    credentials: &[Credential],
    new: Option<(&Username, &Secret)>,
) -> Markup {
    let content = html! {
        h1 { "Credentials and senders" }
        @if new.is_some() { p.good { strong { "Write the secret down now." } " It is shown this once." } }
        section { h2 { "SMTP settings" } (smtp_settings(settings, new)) }
        section {
            h2 { "Credentials" }
            (scrolling("Credentials", &html! {
                table {
                    thead { tr { th { "Username" } th { "Label" } th { "Created" } th { "Revoked" } } }
                    tbody { @for credential in credentials { (credential_row(credential, &standing.username)) } }
                }
            }))
            p.soft {
                "A revoked credential stops working at once. Revoking the one that you are signed in with "
                "signs you out: make another one first."
            }
            form method="post" action="/account/credentials" {
                label for="label" { "Label of a new credential" }
                input #label type="text" name="label" maxlength="64" placeholder="what it is for";
                button type="submit" { "Create a credential" }
            }
        }
        section { h2 { "Senders" } (sender_list(settings.sender_policy, &standing.senders)) }
    };
    layout("Credentials", Navigation::Customer(settings, Place::Credentials), None, &content)
}

fn credential_row(credential: &Credential, own: &Username) -> Markup {
    html! {
        tr {
            td { code { (credential.username) } @if credential.username == *own { " " small { "(signed in)" } } }
            td { (credential.label.as_deref().unwrap_or_default()) }
            td { (time(credential.created_at)) }
            td {
                @match credential.revoked_at {
                    Some(at) => (time(at)),
                    None => {
                        form method="post" action="/account/credentials/revoke" {
                            input type="hidden" name="username" value=(credential.username);
                            button.quiet type="submit" { "Revoke" }
                        }
                    }
                }
            }
        }
    }
}
