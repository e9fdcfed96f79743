//! Pages for a customer who signed in.

use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Navigation, Place, alert, layout};
use crate::http::Settings;

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
