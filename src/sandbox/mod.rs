//! The sandbox: stand-ins for Dodo and Resend on loopback, the local checkout
//! page, the inbox with the mails that "left", and misbehaviour on demand.
//!
//! It owns everything that exists only so that Postmeter can be tried and tested
//! without an account: fixed ids and keys, faults on demand, their memory. The
//! code that talks to the two services does not know it is here; it is given
//! base URLs. Nothing but `main`, `cli` and `app` may import this room.

#[cfg(test)]
pub(crate) mod contract;
pub mod dodo;
pub mod faults;
mod inbox;
mod journal;
mod misbehave;
mod page;
mod rate;
pub mod resend;
#[cfg(test)]
mod tests;
mod webhook;
mod welcome;
mod wire;

pub use welcome::welcome;

use std::future::Future;
use std::io::{Error, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Secrets;
use dodo::DodoStandIn;
use resend::ResendStandIn;

/// The seeded customer.
pub const CUSTOMER_ID: &str = "cus_sandbox";
/// Its e-mail address.
pub const CUSTOMER_EMAIL: &str = "sandbox@example.com";
/// Its name.
pub const CUSTOMER_NAME: &str = "Sandbox";
/// The credits that it begins with; they do not expire.
pub const CREDITS: u64 = 5_000;
/// The username of its credential.
pub const USERNAME: &str = "sandbox";
/// The secret of its credential. It exists in the sandbox only.
pub const SECRET: &str = "sandbox-secret";
/// What the operator signs in with. It exists in the sandbox only.
pub const ADMIN_TOKEN: &str = "sandbox-operator-token";

/// Where the sandbox's bounces and notices come from.
pub const NOTICES_FROM: &str = "Postmeter <postmaster@sandbox.example>";
/// Customers who subscribe in the sandbox get an address here at once.
pub const STARTER_DOMAIN: &str = "sandbox.example";

/// The only credit entitlement.
pub const ENTITLEMENT_ID: &str = "cde_sandbox";
/// The plan.
pub const PLAN_PRODUCT_ID: &str = "pdt_sandbox_plan";
/// The top-up.
pub const TOPUP_PRODUCT_ID: &str = "pdt_sandbox_topup";
/// Dodo key that may do everything.
pub const DODO_API_KEY: &str = "dodo_test_sandbox";
/// Dodo key that may only read.
pub const DODO_READ_ONLY_API_KEY: &str = "dodo_test_sandbox_read_only";
/// What Dodo's webhooks are signed with.
pub const WEBHOOK_SECRET: &str = "whsec_c2FuZGJveC1vbmx5LW5vdC1hLXNlY3JldC0xMjM0";
/// What Resend's webhooks are signed with.
pub const RESEND_WEBHOOK_SECRET: &str = "whsec_c2FuZGJveC1vbmx5LW5vdC1hLXNlY3JldC01Njc4";
/// Resend key that may do everything.
pub const RESEND_API_KEY: &str = "re_sandbox";
/// Resend key that may only send.
pub const RESEND_SENDING_API_KEY: &str = "re_sandbox_sending";

/// Mails that the inbox keeps at most, and their octets; the oldest leave.
const INBOX_MAILS: usize = 2_000;
const INBOX_OCTETS: u64 = 256 << 20;

/// How the stand-ins are started. Their manners are set afterwards, at any time.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where their memory is kept; `None`: nowhere.
    pub data_dir: Option<PathBuf>,
    /// Base URL of Postmeter's HTTP side, without a slash at the end: the checkout page is linked
    /// there and webhooks go there. `None`: the stand-in for Dodo serves its checkout page itself, and
    /// webhooks wait for [`DodoStandIn::deliver_webhooks_to`] and [`ResendStandIn::deliver_webhooks_to`].
    pub base_url: Option<String>,
    /// Their clock.
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Self {
        Self { data_dir: None, base_url: None, clock: Clock::system() }
    }
}

/// Both stand-ins, serving on loopback.
#[derive(Debug)]
pub struct StandIns {
    /// The one for Dodo.
    pub dodo: DodoStandIn,
    /// Its base URL.
    pub dodo_url: String,
    /// The one for Resend.
    pub resend: ResendStandIn,
    /// Its base URL.
    pub resend_url: String,
    tasks: Tasks,
}

impl StandIns {
    /// Binds two free ports of 127.0.0.1, reads what is remembered, makes the seeded customer if it
    /// is not there, and serves until [`StandIns::stop`].
    ///
    /// # Errors
    /// No port, or a journal that cannot be read or is in use.
    pub async fn start(settings: Settings) -> Result<Self> {
        let tasks = Tasks::default();
        if let Some(dir) = &settings.data_dir {
            std::fs::create_dir_all(dir)?;
        }
        let dir = settings.data_dir.as_deref();
        let dodo = DodoStandIn::open(dir, settings.clock.clone(), tasks.clone())?;
        let resend = ResendStandIn::open(dir, settings.clock, tasks.clone())?;
        dodo.add_customer(CUSTOMER_ID, CUSTOMER_EMAIL, CUSTOMER_NAME)?;
        if dodo.balance(CUSTOMER_ID).is_none() {
            dodo.grant(CUSTOMER_ID, CREDITS, None)?;
        }
        let dodo_url = tasks.serve(dodo.router()).await?;
        let resend_url = tasks.serve(resend.router()).await?;
        match &settings.base_url {
            Some(base) => {
                dodo.serve_checkout_at(base);
                dodo.deliver_webhooks_to(&format!("{base}/webhooks/dodo"));
                resend.deliver_webhooks_to(&format!("{base}/webhooks/resend"));
            }
            None => dodo.serve_checkout_at(&dodo_url),
        }
        Ok(Self { dodo, dodo_url, resend, resend_url, tasks })
    }

    /// The inbox, which is bounded from now on, the page of misbehaviour and the checkout page, to be
    /// merged into Postmeter's own routes.
    pub fn pages(&self) -> Router {
        self.resend.keep_at_most(INBOX_MAILS, INBOX_OCTETS);
        let inbox = inbox::router(&self.resend, &self.dodo);
        inbox.merge(misbehave::router(&self.dodo, &self.resend)).merge(self.dodo.checkout_page())
    }

    /// Whoever waits for a mail is answered at that stop, since who serves the pages waits for them.
    pub fn answer_at(&self, stop: CancellationToken) {
        let Tasks { stop: own, leaving, .. } = self.tasks.clone();
        self.tasks.spawn(async move {
            own.run_until_cancelled(stop.cancelled()).await;
            leaving.cancel();
        });
    }

    /// What a real account would have in the environment.
    pub fn secrets(&self, base_url: &str) -> Secrets {
        Secrets {
            dodo_api_key: SecretString::from(DODO_API_KEY),
            dodo_webhook_keys: vec![SecretString::from(WEBHOOK_SECRET)],
            dodo_base_url: self.dodo_url.clone(),
            credit_entitlement_id: ENTITLEMENT_ID.to_owned(),
            plan_product_id: PLAN_PRODUCT_ID.to_owned(),
            topup_product_id: TOPUP_PRODUCT_ID.to_owned(),
            resend_api_key: Some(SecretString::from(RESEND_API_KEY)),
            resend_base_url: self.resend_url.clone(),
            resend_webhook_secrets: vec![SecretString::from(RESEND_WEBHOOK_SECRET)],
            base_url: base_url.to_owned(),
            admin_token: Some(SecretString::from(ADMIN_TOKEN)),
            upstream_smtp_url: None,
        }
    }

    /// Answers what is in hand, for five seconds at most, and stops. Webhooks that were not taken
    /// yet are tried again at the next start, where there is a data directory.
    pub async fn stop(self) {
        self.tasks.stop.cancel();
        self.tasks.tracker.close();
        if tokio::time::timeout(Duration::from_secs(5), self.tasks.tracker.wait()).await.is_err() {
            tracing::warn!("a stand-in had a connection that did not end");
        }
    }
}

/// Both stand-ins with nothing but memory, and the routes to each, for tests that
/// are the network themselves.
#[cfg(test)]
pub(crate) fn in_memory(clock: &Clock) -> Result<((DodoStandIn, Router), (ResendStandIn, Router))> {
    let dodo = DodoStandIn::open(None, clock.clone(), Tasks::default())?;
    let resend = ResendStandIn::open(None, clock.clone(), Tasks::default())?;
    let routes = (dodo.router(), resend.router());
    Ok(((dodo, routes.0), (resend, routes.1)))
}

/// What is running for the stand-ins, and how it is told to stop.
#[derive(Debug, Clone, Default)]
struct Tasks {
    stop: CancellationToken,
    /// Cancelled before that: nobody waits any longer.
    leaving: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Serves on a free port of loopback; the base URL.
    async fn serve(&self, router: Router) -> Result<String> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let base = format!("http://{}", listener.local_addr()?);
        self.spawn(wire::serve(listener, router, self.stop.clone()));
        Ok(base)
    }
}

/// An HTTP client that is meant for loopback: no proxy, no redirects, and no certificate authority
/// that it would trust.
fn loopback_client() -> Result<reqwest::ClientBuilder> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::other)?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none()))
}
