//! Pages for whoever comes: the start, the way to the payment and back.

use maud::{Markup, html};

use super::layout::{Navigation, Refresh, alert, layout, smtp_settings};
use crate::domain::credential::Secret;
use crate::domain::ids::{CustomerId, Username};
use crate::domain::sender::{SenderPattern, SenderPolicy};
use crate::http::Settings;

/// What was typed into a form that comes back, and what was wrong with it. A secret does not come
/// back.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::http) struct Typed<'a> {
    /// What went wrong.
    pub(in crate::http) problem: Option<&'a str>,
    /// Of the form that subscribes.
    pub(in crate::http) email: &'a str,
    /// Likewise.
    pub(in crate::http) name: &'a str,
    /// Of the form that signs in.
    pub(in crate::http) username: &'a str,
    /// Of the form that asks for a link.
    pub(in crate::http) address: &'a str,
}

/// The start: what this is, subscribe, sign in. `problem` is what went wrong with either form.
pub(in crate::http) fn landing(settings: &Settings, problem: Option<&str>) -> Markup {
    landing_again(settings, &Typed { problem, ..Typed::default() })
}

/// The same with what was typed.
pub(in crate::http) fn landing_again(settings: &Settings, typed: &Typed<'_>) -> Markup {
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
        @if let Some(problem) = typed.problem { (alert(problem)) }
        div.columns {
            section {
                h2 { "Subscribe" }
                form method="post" action="/checkout/subscribe" {
                    label for="email" { "Email" }
                    input #email type="email" name="email" value=(typed.email) autocomplete="email" maxlength="254"
                        required;
                    label for="name" { "Name" }
                    input #name type="text" name="name" value=(typed.name) autocomplete="name" maxlength="100"
                        required;
                    button type="submit" { "Go to payment" }
                }
                p.soft { "After the payment you are shown your SMTP settings, in this browser." }
            }
            (credential_form(typed))
        }
        (link_form(typed))
        section {
            h2 { "SMTP settings" }
            (smtp_settings(settings, None))
        }
    };
    layout("Email credits", Navigation::Visitor(settings), None, &content)
}

/// Signing in, with a credential or by a mailed link.
pub(in crate::http) fn sign_in(settings: &Settings, typed: &Typed<'_>) -> Markup {
    let content = html! {
        h1 { "Sign in to your account" }
        @if let Some(problem) = typed.problem { (alert(problem)) }
        div.columns { (credential_form(typed)) (link_form(typed)) }
    };
    layout("Sign in", Navigation::Visitor(settings), None, &content)
}

fn credential_form(typed: &Typed<'_>) -> Markup {
    html! {
        section {
            h2 { "Sign in" }
            form method="post" action="/sign-in" {
                label for="username" { "Username" }
                input #username type="text" name="username" value=(typed.username) autocomplete="username" required;
                label for="secret" { "Secret" }
                input #secret type="password" name="secret" autocomplete="current-password" required;
                button type="submit" { "Sign in" }
            }
            p.soft { "With the credential that your app uses." }
        }
    }
}

fn link_form(typed: &Typed<'_>) -> Markup {
    html! {
        section {
            h2 { "Sign in by email" }
            form method="post" action="/sign-in/link" {
                label for="address" { "Email of your account" }
                input #address type="email" name="email" value=(typed.address) autocomplete="email" maxlength="254"
                    required;
                button type="submit" { "Mail me a link" }
            }
            p.soft { "For when you have no credential at hand. The link works once, within 15 minutes." }
        }
    }
}

/// A link was asked for; the same whether anybody has the address.
pub(in crate::http) fn link_mailed(settings: &Settings) -> Markup {
    let content = html! {
        h1 { "Look into your mail" }
        p role="status" {
            "If an account has this address, a link to sign in is on its way there. "
            "It works once, within 15 minutes."
        }
        p.soft { "Nothing came? Look among the spam, and check that this is the address of your payment." }
        p { a href="/sign-in" { "Back to the sign-in" } }
    };
    layout("Look into your mail", Navigation::Visitor(settings), None, &content)
}

/// From a mailed link: the button that uses it up.
pub(in crate::http) fn use_link(settings: &Settings, secret: &str, customer_id: &CustomerId) -> Markup {
    let content = html! {
        h1 { "Sign in" }
        p { "To the account " code { (customer_id) } ", in this browser." }
        form method="post" action="/sign-in/link/use" {
            input type="hidden" name="t" value=(secret);
            button type="submit" { "Sign in" }
        }
        p.soft { "If you did not ask for this link, close this page: nobody is signed in by looking at it." }
    };
    layout("Sign in", Navigation::Visitor(settings), None, &content)
}

/// A mailed link that was used, is too old, or never was.
pub(in crate::http) fn link_is_over(settings: &Settings) -> Markup {
    let content = html! {
        h1 { "This link does not work any more" }
        (alert("A link to sign in works once, within 15 minutes, and the newest sign-in ends all older links."))
        p { a.button href="/sign-in" { "Ask for another one" } }
    };
    layout("This link does not work any more", Navigation::Visitor(settings), None, &content)
}

/// The form that signs out everywhere.
pub(in crate::http) fn sign_out_everywhere() -> Markup {
    html! {
        section {
            h2 { "Sign out everywhere" }
            p.soft {
                "Ends every sign-in of this account on this page, here and in other browsers, and links that were "
                "mailed. Credentials go on working for your apps."
            }
            form method="post" action="/sign-out/everywhere" {
                button.quiet type="submit" { "Sign out everywhere" }
            }
        }
    }
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

/// The payment went to an account that exists. No form stands here: this page says nothing of
/// where it is (no-referrer), and forms must say where they come from.
pub(in crate::http) fn known() -> Markup {
    let content = html! {
        h1 { "Thank you" }
        p {
            "The payment belongs to an account that exists already, and its credits are added there. "
            "For the safety of that account nothing of it is shown here: sign in with its credential, or have "
            "a link mailed to its address."
        }
        p { a.button href="/sign-in" { "Sign in" } }
    };
    layout("Thank you", Navigation::Plain, None, &content)
}

/// Somebody has the address of this page, and not the browser that began the checkout.
pub(in crate::http) fn other_browser() -> Markup {
    let content = html! {
        h1 { "Not in this browser" }
        p {
            "This checkout was begun in another browser, and nothing of it is shown anywhere else. Open this "
            "page there; or, once the payment is confirmed, sign in with a link that is mailed to the address of "
            "the payment."
        }
        p { a.button href="/sign-in" { "Sign in" } }
    };
    layout("Not in this browser", Navigation::Plain, None, &content)
}

/// The credential was shown before.
pub(in crate::http) fn already_shown() -> Markup {
    let content = html! {
        h1 { "Already shown" }
        p {
            "The credential of this checkout was shown once, and is not kept in a form that could be shown again. "
            "If you did not write it down: this browser may still be signed in, and your account has a page "
            "that creates another one. If it is not, have a link mailed to you."
        }
        p { a.button href="/account" { "To your account" } " " a href="/sign-in" { "Sign in" } }
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
