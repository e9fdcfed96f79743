//! Pages for whoever comes: the start, the way to the payment and back.

use maud::{Markup, html};

use super::layout::{Navigation, Refresh, alert, layout, smtp_settings};
use crate::domain::credential::Secret;
use crate::domain::ids::Username;
use crate::domain::sender::{SenderPattern, SenderPolicy};
use crate::http::Settings;

/// The start: what this is, subscribe, sign in. `problem` is what went wrong with either form.
pub(in crate::http) fn landing(settings: &Settings, problem: Option<&str>) -> Markup {
    let content = html! {
        h1 { "Email that is paid for in advance" }
        p {
            "Buy email credits, point your app's SMTP settings here, and send. Each message costs one credit; "
            "a message that could not be sent costs nothing."
        }
        @if settings.is_sandbox {
            p.soft {
                "This is a sandbox: nothing is charged, and no mail leaves this machine. "
                "A username and a secret stand in the terminal where it was started."
            }
        }
        @if let Some(problem) = problem { (alert(problem)) }
        div.columns {
            section {
                h2 { "Subscribe" }
                form method="post" action="/checkout/subscribe" {
                    label for="email" { "Email" }
                    input #email type="email" name="email" autocomplete="email" maxlength="254" required;
                    label for="name" { "Name" }
                    input #name type="text" name="name" autocomplete="name" maxlength="100" required;
                    button type="submit" { "Go to payment" }
                }
                p.soft { "After the payment you are shown your SMTP settings." }
            }
            section {
                h2 { "Sign in" }
                form method="post" action="/sign-in" {
                    label for="username" { "Username" }
                    input #username type="text" name="username" autocomplete="username" required;
                    label for="secret" { "Secret" }
                    input #secret type="password" name="secret" autocomplete="current-password" required;
                    button type="submit" { "Sign in" }
                }
                p.soft { "With the credential that your app uses." }
            }
        }
        section {
            h2 { "SMTP settings" }
            (smtp_settings(settings, None))
        }
    };
    layout("Email credits", Navigation::Visitor(settings), None, &content)
}

/// Something cannot be done.
pub(in crate::http) fn error(text: &str) -> Markup {
    let content = html! {
        h1 { "This did not work" }
        (alert(text))
        p { a href="/" { "Back to the start" } }
    };
    layout("Not done", Navigation::Plain, None, &content)
}

/// On the way to the payment page.
pub(in crate::http) fn to_payment(checkout_url: &str) -> Markup {
    let content = html! {
        h1 { "To the payment page" }
        p { "Your browser goes there by itself." }
        p { a.button href=(checkout_url) rel="noreferrer" { "Go to payment" } }
    };
    layout(
        "To the payment page",
        Navigation::Plain,
        Some(Refresh { seconds: 0, url: checkout_url }),
        &content,
    )
}

/// On the way to the customer portal.
pub(in crate::http) fn to_portal(link: &str) -> Markup {
    let content = html! {
        h1 { "To your invoices and payments" }
        p { "They are kept by the payment service. Your browser goes there by itself." }
        p { a.button href=(link) rel="noreferrer" { "Go to the portal" } }
    };
    let refresh = Refresh { seconds: 0, url: link };
    layout("To your invoices and payments", Navigation::Plain, Some(refresh), &content)
}

/// Back before the news of the payment. `again` is where the page looks next;
/// `None`: it has waited long enough.
pub(in crate::http) fn waiting(again: Option<&str>) -> Markup {
    let content = html! {
        h1 { "Waiting for the payment" }
        p role="status" {
            "The payment is not confirmed yet. "
            @if again.is_some() { "This page looks again every two seconds; keep it open." }
            @else { "Load this page again later; if you have paid, nothing is lost." }
        }
    };
    layout(
        "Waiting for the payment",
        Navigation::Plain,
        again.map(|url| Refresh { seconds: 2, url }),
        &content,
    )
}

/// Back from a checkout that failed or was left. `again` is where it began.
pub(in crate::http) fn not_paid(again: &str) -> Markup {
    let content = html! {
        h1 { "Not paid" }
        (alert("The payment service says that the payment did not go through. Nothing was bought."))
        p { a.button href=(again) { "Back" } }
    };
    layout("Not paid", Navigation::Plain, None, &content)
}

/// The payment went to an account that exists.
pub(in crate::http) fn known() -> Markup {
    let content = html! {
        h1 { "Thank you" }
        p {
            "The payment belongs to an account that exists already, and its credits are added there. "
            "For the safety of that account nothing of it is shown here: sign in with its credential. "
            "If you have none, ask the operator."
        }
        p { a.button href="/" { "Sign in" } }
    };
    layout("Thank you", Navigation::Plain, None, &content)
}

/// The credential was shown before.
pub(in crate::http) fn already_shown() -> Markup {
    let content = html! {
        h1 { "Already shown" }
        p {
            "The credential of this checkout was shown once, and is not kept in a form that could be shown again. "
            "If you did not write it down: this browser may still be signed in, and your account has a page "
            "that creates another one. If it is not, ask the operator."
        }
        p { a.button href="/account" { "To your account" } }
    };
    layout("Already shown", Navigation::Plain, None, &content)
}

/// The first credential of a new customer.
pub(in crate::http) fn first_credential(
    settings: &Settings,
    username: &Username,
    secret: &Secret,
    senders: &[SenderPattern],
) -> Markup {
    let content = html! {
        h1 { "Welcome: these are your SMTP settings" }
        p.good { strong { "Write the secret down now." } " It is shown this once." }
        section { (smtp_settings(settings, Some((username, secret)))) }
        section {
            h2 { "Senders" }
            (sender_list(settings.sender_policy, senders))
        }
        p { a.button href="/account" { "To your account" } }
    };
    layout("Your SMTP settings", Navigation::Plain, None, &content)
}

/// Whom a customer may send as.
pub(super) fn sender_list(policy: SenderPolicy, senders: &[SenderPattern]) -> Markup {
    html! {
        @if policy == SenderPolicy::Any || senders.contains(&SenderPattern::Any) {
            p { "You may send from any address." }
        } @else if senders.is_empty() {
            p { "There is no sender yet. Ask the operator to allow your address or domain." }
        } @else {
            p { "You may send from:" }
            ul { @for sender in senders { li { code { (sender.to_string()) } } } }
            p.soft { "Ask the operator to allow other addresses or domains." }
        }
    }
}

/// Back from a top-up.
pub(in crate::http) fn thanks() -> Markup {
    let content = html! {
        h1 { "Thank you" }
        p role="status" { "The credits appear in your account as soon as the payment is confirmed." }
        p { a.button href="/account" { "To your account" } }
    };
    layout("Thank you", Navigation::Plain, Some(Refresh { seconds: 2, url: "/account" }), &content)
}
