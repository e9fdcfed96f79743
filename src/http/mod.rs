//! The HTTP side: the page, the routes for programs, webhooks and health.
//!
//! A handler reads, asks the rooms below, and answers; every decision about mail
//! is [`Submission`]'s, so that `/send`, `/emails` and SMTP are one road. Whatever arrives is
//! bounded in size and time. Pages need no script: forms and redirects are enough; the
//! policy that is sent along allows the one of ours, which makes them nicer. What this
//! room must not know: SQL, SMTP, how mail leaves.

mod account;
mod auth;
mod body;
mod checkout;
mod credits;
mod emails;
pub mod error;
mod health;
pub mod listener;
mod live;
mod lost;
mod messages;
pub mod openapi;
mod operator;
mod overview;
mod pages;
mod portal;
mod provision;
mod query;
mod queue;
mod send;
mod senders;
mod session;
mod sign_in;
pub mod signature;
mod suppressions;
#[cfg(test)]
mod tests;
mod usage;
mod webhooks;
mod welcome;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::allowance::Allowance;
use crate::billing::Billing;
use crate::billing::dodo::Dodo;
use crate::census::Census;
use crate::clock::Clock;
use crate::config;
use crate::delivery::told::Ears;
use crate::domain::address::Domain;
use crate::domain::ids::CustomerId;
use crate::domain::sender::SenderPolicy;
use crate::door::Network;
use crate::floor::Floor;
use crate::proof::Proofs;
use crate::store::Store;
use crate::submission::Submission;
use crate::telemetry::Metrics;
use crate::throttle::Throttle;

pub use checkout::CheckoutKey;
pub use health::metrics_router;
pub use lost::find_lost_payments;
pub use session::SessionKey;
pub(crate) use session::is_same_site;

use error::{HttpError, PageError};
use session::Sessions;
use sign_in::LinkThrottles;
use signature::SigningKey;

/// Checkouts that one network may begin at once, and how often after that.
const SUBSCRIBE_BURST: u32 = 20;
const SUBSCRIBE_INTERVAL: Duration = Duration::from_secs(3);
/// Questions to Dodo about checkouts whose webhook did not come, all visitors together.
const POLL_BURST: u32 = 10;
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// Calls about domains that one customer may cause at once, and how often after that.
const DOMAIN_BURST: u32 = 10;
const DOMAIN_INTERVAL: Duration = Duration::from_secs(6);
/// Connections that one customer keeps although others need a place.
const SEATS: usize = 256;
/// Octets in memory of all webhooks that are larger than such are.
const WEBHOOK_ROOM_BYTES: usize = 16 << 20;

/// The rooms that handlers ask.
#[derive(Debug, Clone)]
pub struct Rooms {
    /// The database.
    pub store: Store,
    /// Takes messages in.
    pub submission: Submission,
    /// Is told that balances changed.
    pub billing: Billing,
    /// Hears what became of mail.
    pub ears: Ears,
    /// Starts checkouts.
    pub dodo: Dodo,
    /// Counts.
    pub metrics: Metrics,
    /// Tells the time.
    pub clock: Clock,
    /// Is counted for messages that arrive.
    pub arriving: Allowance,
    /// Adds and proves domains.
    pub proofs: Proofs,
    /// Cancelled when new clients belong elsewhere, since the server is going to stop.
    pub draining: CancellationToken,
}

/// What a new customer is told to put into an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpAccess {
    /// The host name.
    pub host: String,
    /// The port with STARTTLS.
    pub starttls_port: Option<u16>,
    /// The port with implicit TLS.
    pub tls_port: Option<u16>,
}

/// For which news of a payment its customer is suspended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Suspends {
    /// `billing.suspend_on_refund`
    pub on_refund: bool,
    /// `billing.suspend_on_dispute`
    pub on_dispute: bool,
}

impl Suspends {
    /// What this configuration says.
    pub fn of(billing: &config::Billing) -> Self {
        Self { on_refund: billing.suspend_on_refund, on_dispute: billing.suspend_on_dispute }
    }
}

/// What handlers need to be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `BASE_URL`, without a slash at the end.
    pub base_url: String,
    /// `POSTMETER_ADMIN_TOKEN`; unset: nobody is the operator.
    pub admin_token: Option<SecretString>,
    /// What sign-ins on the page are known by.
    pub session_key: SessionKey,
    /// What checkouts are signed with.
    pub checkout_key: CheckoutKey,
    /// When a customer is suspended.
    pub suspends: Suspends,
    /// `DODO_WEBHOOK_KEY`, one or several.
    pub webhook_keys: Vec<SigningKey>,
    /// `RESEND_WEBHOOK_SECRET`, one or several; none: nothing is believed.
    pub resend_webhook_keys: Vec<SigningKey>,
    /// `PLAN_PRODUCT_ID`
    pub plan_product_id: String,
    /// `TOPUP_PRODUCT_ID`
    pub topup_product_id: String,
    /// `senders.starter_domain`
    pub starter_domain: Option<Domain>,
    /// `senders.policy`
    pub sender_policy: SenderPolicy,
    /// Where SMTP is spoken.
    pub smtp: SmtpAccess,
    /// Octets of the largest request to `/send`.
    pub max_request_bytes: usize,
    /// How slowly it may arrive.
    pub floor: Floor,
    /// `smtp.max_recipients`
    pub max_recipients: usize,
    /// `http.forwarding_proxies`
    pub forwarding_proxies: Vec<Network>,
    /// `queue.lifetime_h`
    pub lifetime: Duration,
    /// `queue.keep_log_days`
    pub log_days: u32,
    /// `billing.low_balance_credits`
    pub low_balance: i64,
    /// Whether `/metrics` is served here, and not on an address of its own.
    pub serves_metrics: bool,
    /// Whether there is an inbox to link to.
    pub is_sandbox: bool,
}

/// Everything that handlers share.
#[derive(Debug)]
pub struct Site {
    store: Store,
    submission: Submission,
    billing: Billing,
    ears: Ears,
    dodo: Dodo,
    metrics: Metrics,
    clock: Clock,
    arriving: Allowance,
    proofs: Proofs,
    draining: CancellationToken,
    settings: Settings,
    sessions: Sessions,
    /// `None`: there is no admin token, and nobody is the operator here.
    operators: Option<operator::Sessions>,
    subscribe_throttle: Throttle<IpAddr>,
    poll_throttle: Throttle<()>,
    link_throttles: LinkThrottles,
    domain_throttle: Throttle<CustomerId>,
    /// For what is large of webhooks before it is known whether they are signed.
    webhook_room: Arc<Census<()>>,
    /// Connections on which a customer is known.
    seats: Arc<Census<CustomerId>>,
    /// Pages that hear news.
    lives: live::Lives,
    usage: usage::Usage,
}

/// The site, as handlers hold it.
pub type Shared = Arc<Site>;

impl Site {
    /// Puts it together.
    pub fn new(rooms: Rooms, settings: Settings) -> Shared {
        let Rooms { store, submission, billing, ears, dodo, metrics, clock, arriving, proofs, draining } =
            rooms;
        Arc::new(Self {
            sessions: Sessions::new(settings.session_key.clone(), &settings.base_url),
            operators: operator::Sessions::new(&settings),
            subscribe_throttle: Throttle::new(SUBSCRIBE_BURST, SUBSCRIBE_INTERVAL),
            poll_throttle: Throttle::new(POLL_BURST, POLL_INTERVAL),
            link_throttles: LinkThrottles::new(),
            domain_throttle: Throttle::new(DOMAIN_BURST, DOMAIN_INTERVAL),
            webhook_room: Census::new(WEBHOOK_ROOM_BYTES),
            seats: Census::new(SEATS),
            lives: live::Lives::new(),
            usage: usage::Usage::new(settings.log_days),
            store,
            submission,
            billing,
            ears,
            dodo,
            metrics,
            clock,
            arriving,
            proofs,
            draining,
            settings,
        })
    }
}

/// All routes, with `extra` pages beside them: those get the fallbacks and the
/// security headers too, and must have no fallback of their own.
pub fn router(site: Shared, extra: Option<Router>) -> Router {
    let document = openapi::routes(&site.settings.base_url);
    let metrics = site.settings.serves_metrics.then(|| metrics_router(site.metrics.clone()));
    let routes = Router::new()
        .route("/", get(account::start))
        .route("/style.css", get(pages::style))
        .route("/script.js", get(pages::script))
        .route("/favicon.svg", get(pages::icon))
        .route("/sign-in", get(sign_in::page).post(sign_in::sign_in))
        .route("/sign-in/link", get(sign_in::show_link).post(sign_in::ask_for_link))
        .route("/sign-in/link/use", post(sign_in::use_link))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/sign-out/everywhere", post(sign_in::sign_out_everywhere))
        .route("/account", get(overview::overview))
        .route("/account/live", get(live::live))
        .route("/account/connect", get(overview::connect))
        .route("/account/portal", post(portal::open))
        .route("/account/send", get(account::send_form).post(account::send))
        .route("/account/top-up", post(checkout::top_up_form))
        .route("/welcome", get(welcome::welcome))
        .route("/thanks", get(welcome::thanks))
        .route("/checkout/subscribe", post(checkout::subscribe))
        .route("/checkout/topup", post(checkout::top_up))
        .route("/credits/{customer_id}", get(credits::show))
        .route("/send", post(send::send))
        .route("/senders", get(senders::list))
        .route("/senders/domains", get(senders::domains).post(senders::add))
        .route("/senders/domains/{domain}", get(senders::show).delete(senders::remove))
        .route("/senders/domains/{domain}/verify", post(senders::verify))
        .route("/messages", get(messages::list))
        .route("/messages/{message_id}", get(messages::show))
        .route("/suppressions", get(suppressions::list).post(suppressions::add))
        .route("/suppressions/{address}", delete(suppressions::remove))
        .route("/queue", get(queue::list))
        .route("/queue/{message_id}", get(queue::show))
        .route("/queue/{message_id}/retry", post(queue::retry))
        .route("/queue/{message_id}/cancel", post(queue::cancel))
        .route("/webhooks/dodo", post(webhooks::dodo))
        .route("/webhooks/resend", post(webhooks::resend::resend))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .merge(account::routes())
        .merge(emails::routes())
        .merge(operator::routes())
        .merge(document)
        .with_state(site);
    routes
        .merge(metrics.unwrap_or_default())
        .merge(extra.unwrap_or_default())
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::map_response(secured))
}

async fn no_route(headers: HeaderMap) -> Response {
    said(&headers, HttpError::NoRoute)
}

async fn wrong_method(headers: HeaderMap) -> Response {
    said(&headers, HttpError::WrongMethod)
}

/// To a browser as a page, to a program as JSON.
fn said(headers: &HeaderMap, error: HttpError) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") { PageError(error).into_response() } else { error.into_response() }
}

/// What every answer carries, unless a handler knows better. `same-origin`: with
/// `no-referrer` browsers would hide the origin of our own forms from us.
async fn secured(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
