//! Misbehaviour on demand, for those who look at the page and for tests: Dodo and
//! Resend down, slow or refusing, mail that bounces, a customer without credit.
//!
//! It says what is wrong in a few words; everything finer is a fault of its own
//! ([`super::faults`]). What is set here lasts until it is set otherwise, or the sandbox ends.

use axum::body::Bytes;
use axum::extract::{Form, FromRequest, Request, State as Held};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::dodo::DodoStandIn;
use super::faults::{Fault, Misbehaviour};
use super::page::{Here, Page, own_pages_only, style};
use super::resend::{Refusal, ResendStandIn};
use super::{CREDITS, CUSTOMER_ID};

/// How late a slow service answers, in milliseconds: before its callers give it up.
const SLOW_MS: u64 = 3_000;
/// Customers whose credit can be taken on the page, newest first.
const MAX_CUSTOMERS: usize = 20;
/// Addresses that may bounce.
const MAX_BOUNCING: usize = 100;
/// Longest address, in octets.
const MAX_ADDRESS: usize = 254;

/// How Dodo is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Dodo {
    Normal,
    Down,
    Slow,
}

/// How Resend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Resend {
    #[serde(rename = "normal")]
    Normal,
    #[serde(rename = "429")]
    RateLimited,
    #[serde(rename = "500")]
    Failing,
    #[serde(rename = "down")]
    Down,
    #[serde(rename = "slow")]
    Slow,
}

/// What is done with a customer's credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Credit {
    /// All of it expires.
    None,
    /// It is as at the beginning.
    Full,
}

impl Dodo {
    const ALL: [(Self, &str, &str); 3] = [
        (Self::Normal, "normal", "Normal"),
        (Self::Down, "down", "Down: no call is answered"),
        (Self::Slow, "slow", "Slow: each answer takes three seconds"),
    ];

    fn fault(self) -> Option<Fault> {
        match self {
            Self::Normal => None,
            Self::Down => Some(Fault::new(Misbehaviour::DropBefore).always()),
            Self::Slow => Some(Fault::new(Misbehaviour::Late { delay_ms: SLOW_MS }).always()),
        }
    }
}

impl Resend {
    const ALL: [(Self, &str, &str); 5] = [
        (Self::Normal, "normal", "Normal"),
        (Self::RateLimited, "429", "429: too many requests, come back in five seconds"),
        (Self::Failing, "500", "500: something went wrong inside"),
        (Self::Down, "down", "Down: no call is answered"),
        (Self::Slow, "slow", "Slow: each answer takes three seconds"),
    ];

    fn fault(self) -> Option<Fault> {
        let misbehaviour = match self {
            Self::Normal => return None,
            Self::RateLimited => Refusal::rate_limited(5).into(),
            Self::Failing => Refusal::application_error("Internal server error").into(),
            Self::Down => Misbehaviour::DropBefore,
            Self::Slow => Misbehaviour::Late { delay_ms: SLOW_MS },
        };
        Some(Fault::new(misbehaviour).on("POST", "/emails").always())
    }
}

/// What is wrong now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct State {
    dodo: Dodo,
    resend: Resend,
    /// How many of the next mails bounce.
    bounce_next: u32,
    /// Addresses whose mail bounces.
    bounce: Vec<String>,
    /// The newest customers and their balances at Dodo.
    customers: Vec<Customer>,
    /// Nothing of it is wrong; a customer without credit is not the sandbox's fault.
    is_normal: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Customer {
    customer_id: String,
    email: String,
    balance: u64,
}

impl State {
    pub(super) fn of(dodo: &DodoStandIn, resend: &ResendStandIn) -> Self {
        let (at_dodo, at_resend) = (dodo.faults().pending(), resend.faults().pending());
        let is_set =
            |pending: &[Fault], fault: Option<Fault>| fault.is_some_and(|one| pending.contains(&one));
        let dodo_is =
            Dodo::ALL.into_iter().map(|(dodo, ..)| dodo).find(|dodo| is_set(&at_dodo, dodo.fault()));
        let resend_is =
            Resend::ALL.into_iter().map(|(one, ..)| one).find(|one| is_set(&at_resend, one.fault()));
        let behaviour = resend.behaviour();
        let customers = dodo.newest_customers(MAX_CUSTOMERS).into_iter();
        let bounces = behaviour.bounce_next > 0 || !behaviour.bouncing.is_empty();
        Self {
            is_normal: dodo_is.is_none() && resend_is.is_none() && !bounces,
            dodo: dodo_is.unwrap_or(Dodo::Normal),
            resend: resend_is.unwrap_or(Resend::Normal),
            bounce_next: behaviour.bounce_next,
            bounce: behaviour.bouncing,
            customers: customers
                .map(|(customer_id, email, balance)| Customer { customer_id, email, balance })
                .collect(),
        }
    }

    /// What is wrong, for the top of the inbox.
    pub(super) fn banner(&self) -> Markup {
        let dodo = match self.dodo {
            Dodo::Normal => None,
            Dodo::Down => Some("Dodo is down.".to_owned()),
            Dodo::Slow => Some("Dodo is slow.".to_owned()),
        };
        let resend = match self.resend {
            Resend::Normal => None,
            Resend::RateLimited => Some("Resend answers 429.".to_owned()),
            Resend::Failing => Some("Resend answers 500.".to_owned()),
            Resend::Down => Some("Resend is down.".to_owned()),
            Resend::Slow => Some("Resend is slow.".to_owned()),
        };
        let next = match self.bounce_next {
            0 => None,
            1 => Some("The next mail bounces.".to_owned()),
            many => Some(format!("The next {many} mails bounce.")),
        };
        let some = (!self.bounce.is_empty()).then(|| format!("Mail to {} bounces.", self.bounce.join(", ")));
        let all: Vec<String> = [dodo, resend, next, some].into_iter().flatten().collect();
        html! {
            @if !all.is_empty() {
                form.warn.wrong method="post" action="/sandbox/misbehave" {
                    span { strong { "On demand: " } (all.join(" ")) }
                    input type="hidden" name="normal" value="true";
                    button.second type="submit" { "Back to normal" }
                }
            }
        }
    }
}

/// What is to be otherwise; what is absent stays.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Change {
    /// First of all everything is as it should be; credits stay.
    normal: bool,
    dodo: Option<Dodo>,
    resend: Option<Resend>,
    credit: Option<Credit>,
    /// Whose credit; the seeded customer's if nobody is named.
    customer_id: Option<String>,
    bounce_next: Option<u32>,
    /// An address whose mail bounces from now on.
    bounce: Option<String>,
    /// One whose mail does no more.
    deliver: Option<String>,
}

#[derive(Debug, Clone)]
struct Rooms {
    dodo: DodoStandIn,
    resend: ResendStandIn,
}

/// `GET` shows what is wrong, `POST` changes it; JSON to programs, a page to browsers.
pub(super) fn router(dodo: &DodoStandIn, resend: &ResendStandIn) -> Router {
    Router::new()
        .route("/sandbox/misbehave", get(show).post(change))
        .route("/sandbox/style.css", get(style))
        .layer(from_fn(own_pages_only))
        .with_state(Rooms { dodo: dodo.clone(), resend: resend.clone() })
}

async fn show(Held(rooms): Held<Rooms>, headers: HeaderMap) -> Response {
    let state = State::of(&rooms.dodo, &rooms.resend);
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accepts.contains("text/html") {
        return Json(state).into_response();
    }
    Page::new("Misbehave", Here::Misbehave).render(&page(&state, None))
}

async fn change(Held(rooms): Held<Rooms>, request: Request) -> Response {
    let declared = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form = declared.is_some_and(|declared| declared.starts_with("application/x-www-form-urlencoded"));
    let made = read(request, is_form).await.and_then(|change| rooms.make(&change));
    let state = State::of(&rooms.dodo, &rooms.resend);
    match (made, is_form) {
        (Ok(()), true) => Redirect::to("/sandbox/misbehave").into_response(),
        (Ok(()), false) => Json(state).into_response(),
        (Err(why), true) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Page { status, ..Page::new("Misbehave", Here::Misbehave) }.render(&page(&state, Some(&why)))
        }
        (Err(why), false) => {
            (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "code": "invalid", "error": why })))
                .into_response()
        }
    }
}

async fn read(request: Request, is_form: bool) -> Result<Change, String> {
    if is_form {
        let form = Form::from_request(request, &()).await;
        return form.map(|Form(change)| change).map_err(|error| error.body_text());
    }
    let body = Bytes::from_request(request, &()).await.map_err(|error| error.body_text())?;
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

impl Rooms {
    fn make(&self, change: &Change) -> Result<(), String> {
        let bounce = change.bounce.as_deref().map(str::trim).filter(|address| !address.is_empty());
        if bounce.is_some_and(|address| !address.contains('@') || address.len() > MAX_ADDRESS) {
            return Err("bounce: an address such as bob@example.net".to_owned());
        }
        if change.normal {
            self.set(Dodo::Normal, Resend::Normal);
            self.resend.behave(|behaviour| {
                behaviour.bounce_next = 0;
                behaviour.bouncing.clear();
            });
        }
        let state = State::of(&self.dodo, &self.resend);
        if change.dodo.is_some() || change.resend.is_some() {
            self.set(change.dodo.unwrap_or(state.dodo), change.resend.unwrap_or(state.resend));
        }
        let is_full = bounce.is_some() && state.bounce.len() >= MAX_BOUNCING;
        if is_full {
            return Err(format!("bounce: {MAX_BOUNCING} addresses bounce already"));
        }
        self.resend.behave(|behaviour| {
            behaviour.bounce_next = change.bounce_next.unwrap_or(behaviour.bounce_next);
            if let Some(address) = bounce {
                behaviour.bouncing.retain(|known| !known.eq_ignore_ascii_case(address));
                behaviour.bouncing.push(address.to_owned());
            }
            if let Some(address) = &change.deliver {
                behaviour.bouncing.retain(|known| !known.eq_ignore_ascii_case(address.trim()));
            }
        });
        self.set_credit(change)
    }

    /// Only what is set here is taken away: other faults on demand stay.
    fn set(&self, dodo: Dodo, resend: Resend) {
        let known: Vec<Fault> = Dodo::ALL.into_iter().filter_map(|(dodo, ..)| dodo.fault()).collect();
        self.dodo.faults().retain(|fault| !known.contains(fault));
        dodo.fault().into_iter().for_each(|fault| self.dodo.faults().push(fault));
        let known: Vec<Fault> = Resend::ALL.into_iter().filter_map(|(resend, ..)| resend.fault()).collect();
        self.resend.faults().retain(|fault| !known.contains(fault));
        resend.fault().into_iter().for_each(|fault| self.resend.faults().push(fault));
    }

    fn set_credit(&self, change: &Change) -> Result<(), String> {
        let Some(credit) = change.credit else { return Ok(()) };
        let customer_id = change.customer_id.as_deref().unwrap_or(CUSTOMER_ID);
        let Some(balance) = self.dodo.balance(customer_id) else {
            return Err("customer_id: there is no such customer, or it never had credits".to_owned());
        };
        let made = match credit {
            Credit::None => self.dodo.take_credit(customer_id),
            Credit::Full if balance >= CREDITS => Ok(()),
            Credit::Full => self.dodo.give_credit(customer_id, CREDITS.saturating_sub(balance)),
        };
        made.map_err(|error| format!("the sandbox's journal cannot be written: {error}"))
    }
}

fn page(state: &State, problem: Option<&str>) -> Markup {
    html! {
        div.title {
            h1 { "Misbehave" }
            @if !state.is_normal {
                form method="post" {
                    input type="hidden" name="normal" value="true";
                    button type="submit" { "Back to normal" }
                }
            }
        }
        @if let Some(problem) = problem { p.alert role="alert" { (problem) } }
        p.soft {
            "What the services do wrong from now on, until it is set otherwise or the sandbox ends. "
            "Your program should see what its users would see: retries, refusals, bounces."
        }
        div.columns {
            section {
                (heading("Dodo", state.dodo == Dodo::Normal))
                p.soft { "While it is down mail goes on leaving on the credit that is known, and debits wait." }
                (choice("dodo", &Dodo::ALL.map(|(dodo, name, label)| (name, label, dodo == state.dodo))))
            }
            section {
                (heading("Resend", state.resend == Resend::Normal))
                p.soft { "What it refuses for now waits in the queue and is tried again; nothing is paid for it meanwhile." }
                (choice("resend", &Resend::ALL.map(|(resend, name, label)| (name, label, resend == state.resend))))
            }
        }
        (bounces(state))
        (credits(&state.customers))
        section {
            h2 { "From a test" }
            p.soft { "The same by JSON; what is left out stays as it is, and the answer is the whole state." }
            pre tabindex="0" {
                "curl http://127.0.0.1:3000/sandbox/misbehave -H 'Content-Type: application/json' \\\n"
                "  -d '{\"resend\": \"429\", \"dodo\": \"down\", \"bounce\": \"bob@example.net\", \"credit\": \"none\"}'\n"
                "curl http://127.0.0.1:3000/sandbox/misbehave -H 'Content-Type: application/json' -d '{\"normal\": true, \"credit\": \"full\"}'"
            }
        }
    }
}

fn heading(name: &str, is_normal: bool) -> Markup {
    html! {
        div.title {
            h2 { (name) }
            @if is_normal { span.badge.sent { "normal" } } @else { span.badge.failed { "on demand" } }
        }
    }
}

/// One of several, as radio buttons.
fn choice(name: &str, options: &[(&str, &str, bool)]) -> Markup {
    html! {
        form method="post" {
            fieldset.choice {
                legend.unseen { (name) }
                @for (value, label, is_set) in options {
                    label { input type="radio" name=(name) value=(value) checked[*is_set]; (label) }
                }
            }
            button.second type="submit" { "Set" }
        }
    }
}

fn bounces(state: &State) -> Markup {
    html! {
        section {
            (heading("Bounces", state.bounce_next == 0 && state.bounce.is_empty()))
            p.soft {
                "The mail is accepted, and comes back for good as from a mailbox that does not exist. The sender gets a "
                "bounce, and the address is suppressed for that customer."
            }
            div.actions {
                form method="post" {
                    @if state.bounce_next == 0 {
                        input type="hidden" name="bounce_next" value="1";
                        button.second type="submit" { "Bounce the next mail" }
                    } @else {
                        input type="hidden" name="bounce_next" value="0";
                        span.badge.failed { "next " (state.bounce_next) } " "
                        button.second type="submit" { "Deliver the next mail" }
                    }
                }
            }
            form.toolbar method="post" {
                div {
                    label for="bounce" { "An address that bounces" }
                    input #bounce type="email" name="bounce" placeholder="bob@example.net" required maxlength=(MAX_ADDRESS);
                }
                button.second type="submit" { "Let it bounce" }
            }
            @if !state.bounce.is_empty() {
                ul.files {
                    @for address in &state.bounce {
                        li {
                            form.actions method="post" {
                                code { (address) }
                                input type="hidden" name="deliver" value=(address);
                                button.quiet type="submit" { "Deliver again" span.unseen { " to " (address) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn credits(customers: &[Customer]) -> Markup {
    html! {
        section {
            h2 { "Credit" }
            p.soft { "At Dodo. Postmeter hears of a change by a signed webhook, as it would of a payment." }
            table.stack {
                thead { tr { th { "Customer" } th { "Address" } th.number { "Balance" } th { span.unseen { "Change" } } } }
                tbody {
                    @for customer in customers {
                        tr {
                            td data-label="Customer" { code { (customer.customer_id) } }
                            td data-label="Address" { (customer.email) }
                            td.number data-label="Balance" { (customer.balance) }
                            td data-label="Change" {
                                form method="post" {
                                    input type="hidden" name="customer_id" value=(customer.customer_id);
                                    @if customer.balance > 0 {
                                        button.quiet.danger type="submit" name="credit" value="none" { "Take it all" }
                                    } @else {
                                        button.quiet type="submit" name="credit" value="full" { "Give " (CREDITS) " back" }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
