//! Notices to customers about their account: readable text, and the same as HTML.
//!
//! The HTML fetches nothing and sets no colour, so that it is as light or as dark as whatever
//! shows it. What customers or visitors have typed stands in the text alone, never in a field
//! of the header.

use std::fmt::Write as _;

use lettre::message::header::ContentType;
use maud::{DOCTYPE, Markup, html};

use super::write::{Fields, Origin, Part, Seed, message, multipart, text};
use crate::domain::address::Mailbox;
use crate::domain::credits::Credits;

/// Characters of a name that are shown.
const MAX_NAME_CHARS: usize = 60;

/// Where a notice leads.
#[derive(Debug, Clone, Copy)]
pub struct Links<'a> {
    /// The customer's page.
    pub account: &'a str,
    /// Where there are more credits.
    pub top_up: &'a str,
}

/// A link by which a customer signs in.
#[derive(Debug, Clone, Copy)]
pub struct SignInLink<'a> {
    /// Whose account it opens.
    pub customer_id: &'a str,
    /// What they are called.
    pub name: Option<&'a str>,
    /// Where it leads.
    pub url: &'a str,
}

/// What a notice says, whatever the form.
struct Letter<'a> {
    subject: String,
    paragraphs: Vec<String>,
    /// What they are called, and where they lead.
    links: Vec<(String, &'a str)>,
    /// Why it was sent.
    closing: String,
}

/// Greets a new customer, and says where everything is.
pub fn welcome(
    origin: &Origin<'_>,
    to: &Mailbox,
    (name, senders): (Option<&str>, &[String]),
    links: &Links<'_>,
) -> Vec<u8> {
    let hostname = origin.hostname;
    let hello = shown(name).map_or_else(|| "Welcome.".to_owned(), |name| format!("Welcome, {name}."));
    let mut paragraphs = vec![
        format!("{hello} Your account at {hostname} is ready: point your app's SMTP settings at {hostname}, and send."),
        "A username and a secret for your app are shown once, in the browser that you paid in. If you do not \
         have them, sign in with a link that is mailed to you, and make others on your account page."
            .to_owned(),
    ];
    if !senders.is_empty() {
        paragraphs.push(format!("You may send at once from: {}.", senders.join(", ")));
    }
    let letter = Letter {
        subject: "Welcome: your email credits are ready".to_owned(),
        paragraphs,
        links: vec![("Your account".to_owned(), links.account)],
        closing: "This is sent once, when an account is made.".to_owned(),
    };
    letter.written(origin, to)
}

/// Tells a customer that credit is running out, and where there is more.
pub fn low_balance(origin: &Origin<'_>, to: &Mailbox, available: Credits, links: &Links<'_>) -> Vec<u8> {
    let letter = Letter {
        subject: format!("{available} email credits left"),
        paragraphs: vec![
            format!("Your account at {} has {available} email credits left.", origin.hostname),
            "When they are used up, mail is refused until there are more.".to_owned(),
        ],
        links: vec![("Buy more".to_owned(), links.top_up), ("Your account".to_owned(), links.account)],
        closing: "This is sent once each time the credits fall below the limit.".to_owned(),
    };
    letter.written(origin, to)
}

/// Tells a customer that mail was refused for lack of credit.
pub fn out_of_credit(origin: &Origin<'_>, to: &Mailbox, links: &Links<'_>) -> Vec<u8> {
    let letter = Letter {
        subject: "No email credits remaining".to_owned(),
        paragraphs: vec![
            format!("Your account at {} has no email credits for a message that it was to send.", origin.hostname),
            "Mail is refused until there are more. What was accepted before is still sent, and programs that keep \
             refused mail for a while send it by themselves after a top-up."
                .to_owned(),
        ],
        links: vec![
            ("Buy more".to_owned(), links.top_up),
            ("Your account".to_owned(), links.account),
        ],
        closing: "This is sent once each time the credits run out.".to_owned(),
    };
    letter.written(origin, to)
}

/// Tells a customer that a payment has arrived.
pub fn payment_received(origin: &Origin<'_>, to: &Mailbox, links: &Links<'_>) -> Vec<u8> {
    let letter = Letter {
        subject: "Payment received: thank you".to_owned(),
        paragraphs: vec![
            format!("A payment for your account at {} was received.", origin.hostname),
            "The credits that it buys are added to your account, which shows how many there are now. Should you \
             know nothing of this payment, answer this mail or ask the operator."
                .to_owned(),
        ],
        links: vec![("Your account".to_owned(), links.account)],
        closing: "This is sent once for each payment.".to_owned(),
    };
    letter.written(origin, to)
}

/// Tells a customer that their mail is not taken any more, and why.
pub fn paused(origin: &Origin<'_>, to: &Mailbox, reason: &str, account: &str) -> Vec<u8> {
    let letter = Letter {
        subject: "Your account is paused".to_owned(),
        paragraphs: vec![
            format!("Your account at {} is {reason}.", origin.hostname),
            "Until it is resumed no mail is taken from it. What was accepted before is still sent, and your \
             credits stay yours."
                .to_owned(),
            "Mail that comes back or is called spam harms everybody who sends through this relay. What to do: \
             take the addresses that bounced off your lists (GET /suppressions shows them), write only to \
             people who asked for it, and then ask the operator to resume the account."
                .to_owned(),
        ],
        links: if account.is_empty() { Vec::new() } else { vec![("Your account".to_owned(), account)] },
        closing: "This is sent once each time an account is paused.".to_owned(),
    };
    letter.written(origin, to)
}

/// Gives whoever has an address a link to each of their accounts.
pub fn sign_in_links(origin: &Origin<'_>, to: &Mailbox, links: &[SignInLink<'_>]) -> Vec<u8> {
    let hostname = origin.hostname;
    let label = |link: &SignInLink<'_>| match shown(link.name) {
        Some(name) => format!("Sign in as {name} ({})", link.customer_id),
        None => format!("Sign in as {}", link.customer_id),
    };
    let letter = Letter {
        subject: format!("Your link to sign in at {hostname}"),
        paragraphs: vec![
            format!(
                "Somebody, probably you, asked for a link to sign in at {hostname} with this address. A link can \
                 be used once, within 15 minutes."
            ),
            "If it was not you, do nothing: nobody is signed in by asking, and whoever asked is not told whether \
             an account has this address."
                .to_owned(),
        ],
        links: links.iter().map(|link| (label(link), link.url)).collect(),
        closing: "Nobody who works here asks you for this link. Do not pass it on.".to_owned(),
    };
    letter.written(origin, to)
}

impl Letter<'_> {
    fn written(&self, origin: &Origin<'_>, to: &Mailbox) -> Vec<u8> {
        let mut fields = Fields::of_our_own(origin, to.clone().into(), "auto-generated");
        fields.text("Subject", &self.subject);
        let (plain, rich) = (self.text(), self.html().into_string());
        let seed = Seed::of([origin.message_id.as_str().as_bytes(), plain.as_bytes(), rich.as_bytes()]);
        let parts = vec![
            Part::Single(text(ContentType::TEXT_PLAIN, &plain)),
            Part::Single(text(ContentType::TEXT_HTML, &rich)),
        ];
        message(fields, Part::Multi(multipart("alternative", &seed, parts)))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for paragraph in &self.paragraphs {
            let _ = write!(text, "{paragraph}\n\n");
        }
        for (label, url) in &self.links {
            let _ = write!(text, "{label}:\n\n{url}\n\n");
        }
        text + &self.closing + "\n"
    }

    fn html(&self) -> Markup {
        const BODY: &str = "margin:0;padding:24px;font-family:system-ui,-apple-system,'Segoe UI',Roboto,\
                            Helvetica,Arial,sans-serif;font-size:16px;line-height:1.5";
        const BUTTON: &str = "display:inline-block;padding:10px 18px;border:1px solid;border-radius:8px;\
                              font-weight:600;text-decoration:none";
        const SMALL: &str = "font-size:13px;line-height:1.5";
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="supported-color-schemes" content="light dark";
                    title { (self.subject) }
                }
                body style=(BODY) {
                    div style="max-width:560px;margin:0 auto" {
                        h1 style="font-size:20px;line-height:1.3;margin:0 0 16px" { (self.subject) }
                        @for paragraph in &self.paragraphs { p style="margin:0 0 16px" { (paragraph) } }
                        @for (label, url) in &self.links {
                            p style="margin:24px 0 4px" { a href=(url) style=(BUTTON) { (label) } }
                            p style="margin:0 0 16px;font-size:13px;word-break:break-all" { (url) }
                        }
                        hr style="border:0;border-top:1px solid;margin:24px 0 12px";
                        p style=(SMALL) { (self.closing) }
                    }
                }
            }
        }
    }
}

/// A name as it may stand in a line of text: what would begin another line is left out.
fn shown(name: Option<&str>) -> Option<String> {
    let plain = |c: char| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c };
    let name: String = name?.chars().map(plain).take(MAX_NAME_CHARS).collect();
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
