//! Composition: what is built, bound, started and stopped, and in which order.
//!
//! Whoever is told to stop may say so for a while before it does (`drain_s`), so that a load
//! balancer sends new clients elsewhere; everybody is served meanwhile.
//!
//! Two stops follow each other. The first closes the front: listeners go, every
//! client between two commands hears 421, whoever is in the middle of a message
//! finishes it. Then the back: attempts that are under way finish, entries on
//! their way are answered. Whatever is not done when the time is up is left to the
//! leases and to the entries' keys: nothing that was acknowledged is lost.

mod sandbox;
mod stopping;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::allowance::Allowance;
use crate::billing::dodo::{Dodo, DodoSettings};
use crate::billing::{self, Billing};
use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl, ProofBy, Secrets};
use crate::crash::{CrashAt, CrashPoint};
use crate::data_dir;
use crate::delivery::told::{self, Ears};
use crate::delivery::{self, Delivery};
use crate::descriptors;
use crate::dkim::Signer;
use crate::domain::address::Domain;
use crate::door::{Door, Limits, Network};
use crate::handover::Handover;
use crate::http;
use crate::http::signature::SigningKey;
use crate::mime::address_list::NamedMailbox;
use crate::presence::{self, Presence};
use crate::proof::dns::Dns;
use crate::proof::{Asked, Proofs, Quota};
use crate::ration::Ration;
use crate::routing::Routing;
use crate::smtp;
use crate::smtp::connection::{Opening, Server};
use crate::store::node::NameError;
use crate::store::{Maker, Store, StoreSettings};
use crate::submission::{self, Submission};
use crate::sweep::Sweep;
use crate::telemetry::Metrics;
use crate::throttle::sign_in::NamesKey;
use crate::tls::{self, CertificateStore};
use crate::upstream::Upstreams;
use crate::upstream::resend::{Resend, ResendSettings};
use crate::upstream::smtp::{SmtpSettings, SmtpUpstream};
use crate::upstream::translating::Translating;
pub use sandbox::sandbox;

use stopping::{Signals, finish};

/// How long the front may take to finish what its clients have begun.
const FRONT_STOP: Duration = Duration::from_secs(15);
/// How long attempts and entries under way may take to finish.
const BACK_STOP: Duration = Duration::from_secs(12);

/// Runs the real thing until it is told to stop.
pub async fn serve(config: Config, secrets: Secrets, crash_at: CrashAt) -> anyhow::Result<()> {
    for warning in secrets.warnings() {
        tracing::warn!("{warning}");
    }
    if let Some(warning) = descriptors::raise(&config) {
        tracing::warn!("{warning}");
    }
    let _lock = data_dir::lock(&config.data_dir)?;
    let store = open_store(&config, Maker::Serve, crash_at).await?;
    let sockets = Sockets::bind(&config).await?;
    let mut signals = Signals::listen()?;
    let running = Running::start(&config, &secrets, (store.0, store.1), sockets, None).await?;
    say(&running.ready_line());
    running.run(&mut signals, Duration::from_secs(config.drain_s)).await
}

async fn open_store(config: &Config, maker: Maker, crash_at: CrashAt) -> anyhow::Result<(Store, Metrics)> {
    let metrics = Metrics::new();
    let settings = StoreSettings {
        data_dir: config.data_dir.clone(),
        database_url: config.database_url.as_ref().map(DatabaseUrl::secret),
        maker,
        low_balance_credits: config.billing.low_balance_credits,
        min_free_bytes: config.queue.min_free_bytes,
    };
    Ok((Store::open_with(&settings, metrics.clone(), crash_at).await?, metrics))
}

/// Everything that listens, bound before anything is started.
#[derive(Debug)]
struct Sockets {
    submission: Vec<TcpListener>,
    submissions: Vec<TcpListener>,
    http: TcpListener,
    metrics: Option<TcpListener>,
}

impl Sockets {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let mut submission = Vec::new();
        for address in &config.smtp.submission {
            submission.push(bind(*address).await?);
        }
        let mut submissions = Vec::new();
        for address in &config.smtp.submissions {
            submissions.push(bind(*address).await?);
        }
        let metrics = match config.http.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { submission, submissions, http: bind(config.http.listen).await?, metrics })
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another program using it, or does the port need more rights?")
    })
}

/// A started system.
struct Running {
    smtp: Option<SocketAddr>,
    smtps: Option<SocketAddr>,
    http: SocketAddr,
    store: Store,
    billing: Billing,
    draining: CancellationToken,
    /// Another process goes by this one's name.
    replaced: CancellationToken,
    front: (TaskTracker, CancellationToken),
    back: (TaskTracker, CancellationToken),
}

/// The rooms behind the front.
struct Back {
    store: Store,
    metrics: Metrics,
    dodo: Dodo,
    billing: Billing,
    ears: Ears,
    submission: Submission,
    arriving: Allowance,
    proofs: Proofs,
    clock: Clock,
    replaced: CancellationToken,
}

impl Running {
    async fn start(
        config: &Config,
        secrets: &Secrets,
        (store, metrics): (Store, Metrics),
        sockets: Sockets,
        extra_pages: Option<Router>,
    ) -> anyhow::Result<Self> {
        let back = (TaskTracker::new(), CancellationToken::new());
        let front = (TaskTracker::new(), CancellationToken::new());
        let certificate = CertificateStore::load(&config.smtp.tls_cert, &config.smtp.tls_key)?;
        let first = |listeners: &[TcpListener]| listeners.first().map(TcpListener::local_addr).transpose();
        let (smtp, smtps) = (first(&sockets.submission)?, first(&sockets.submissions)?);
        let http = sockets.http.local_addr()?;
        let rooms = start_back(config, secrets, (store, metrics), &back).await?;
        let session_key = http::SessionKey::new(&rooms.store.shared_key().await?, &secrets.dodo_api_key);
        let settings = http_settings(config, secrets, (session_key, smtp, smtps), extra_pages.is_some())?;
        let draining = CancellationToken::new();
        let pages = http_router(&rooms, settings, (draining.clone(), extra_pages), &back);
        let metrics = rooms.metrics.clone();
        start_smtp(config, &rooms, &certificate, (sockets.submission, sockets.submissions), &front)?;
        front.0.spawn(certificate.watch(front.1.clone()));
        start_http(config, (sockets.http, pages), config.http_trusted_proxies(), &metrics, &front);
        if let Some(listener) = sockets.metrics {
            let pages = http::metrics_router(metrics.clone());
            start_http(config, (listener, pages), &[], &metrics, &front);
        }
        let Back { store, billing, replaced, .. } = rooms;
        Ok(Self { smtp, smtps, http, store, billing, draining, replaced, front, back })
    }

    fn ready_line(&self) -> String {
        let shown =
            |address: Option<SocketAddr>| address.map_or_else(|| "none".to_owned(), |a| a.to_string());
        format!("ready smtp={} smtps={} http={}\n", shown(self.smtp), shown(self.smtps), self.http)
    }

    /// Runs until it is told to stop and has drained for so long, or another process goes by its name.
    async fn run(self, signals: &mut Signals, drain: Duration) -> anyhow::Result<()> {
        let replaced = self.replaced.clone();
        tokio::select! {
            () = signals.heard() => self.drain(drain, signals).await,
            () = replaced.cancelled() => {}
        }
        self.stop().await;
        if replaced.is_cancelled() { Err(NameError::Taken.into()) } else { Ok(()) }
    }

    /// Serves for so long, or until the next signal, and says meanwhile that it will not.
    async fn drain(&self, longest: Duration, signals: &mut Signals) {
        if longest.is_zero() {
            return;
        }
        self.draining.cancel();
        tracing::info!(
            drain_s = longest.as_secs(),
            "draining: /readyz says 503, and whoever comes is still served; another signal ends that"
        );
        tokio::select! {
            () = tokio::time::sleep(longest) => {}
            () = signals.heard() => {}
            () = self.replaced.cancelled() => {}
        }
    }

    async fn stop(self) {
        tracing::info!("stopping: what is in hand is finished first");
        finish("clients", self.front, FRONT_STOP).await;
        self.store.pass(CrashPoint::FrontStopped);
        let is_done = finish("attempts and entries", self.back, BACK_STOP).await;
        // What is in nobody's hands now need not wait for its lease.
        if is_done && let Err(error) = self.store.disappear().await {
            tracing::warn!(%error, "the other processes could not be told that this one is gone");
        }
        tracing::info!("stopped");
    }
}

fn dodo(config: &Config, secrets: &Secrets, clock: &Clock) -> anyhow::Result<Dodo> {
    Ok(Dodo::new(DodoSettings {
        base_url: secrets.dodo_base_url.clone(),
        api_key: secrets.dodo_api_key.clone(),
        entitlement_id: secrets.credit_entitlement_id.clone(),
        timeout: Duration::from_secs(config.billing.dodo_timeout_s),
        clock: clock.clone(),
    })?)
}

async fn start_back(
    config: &Config,
    secrets: &Secrets,
    (store, metrics): (Store, Metrics),
    (tasks, stop): &(TaskTracker, CancellationToken),
) -> anyhow::Result<Back> {
    store.take_name(presence::GONE).await?;
    store.forget_arriving().await;
    let clock = presence::clock(&store).await?;
    let routing = Routing::new(config);
    let from = config.notices_from()?;
    let notices_from = NamedMailbox { name: Some(from.name), mailbox: from.mailbox };
    let dodo = dodo(config, secrets, &clock)?;
    let billing = Billing::new(
        billing::Tools {
            store: store.clone(),
            dodo: dodo.clone(),
            routing,
            clock: clock.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        },
        billing::Settings::new(config, &secrets.base_url, notices_from.clone()),
    );
    let (handover, handed) =
        Handover::new(config.upstream.max_bytes_in_flight, config.upstream.max_concurrency);
    let translating = Translating::new(config.upstream.max_bytes_translating);
    let ration = Ration::of(&store, &clock);
    let upstreams = upstreams(config, secrets, (&clock, &translating, ration))?;
    let proofs = proofs(config, (&store, &metrics), upstreams.resend.as_ref(), &clock)?;
    let mut settings = delivery::Settings::new(config, notices_from);
    settings.postmaster.account_url = format!("{}/account", secrets.base_url);
    let delivery = Delivery::new(
        delivery::Tools {
            store: store.clone(),
            upstreams,
            billing: billing.clone(),
            handover: handover.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        },
        settings.clone(),
    );
    let ears = Ears::new(told::Tools {
        store: store.clone(),
        billing: billing.clone(),
        metrics: metrics.clone(),
        clock: clock.clone(),
        postmaster: settings.postmaster,
        thresholds: config.reputation,
        is_resend_smtp: config.uses_resend_smtp(),
    });
    let tools = submission::Tools {
        store: store.clone(),
        billing: billing.clone(),
        handover,
        routing,
        translating,
        clock: clock.clone(),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
        names_key: NamesKey(store.shared_key().await?),
    };
    let submission = Submission::new(config, tools);
    let replaced = attend(&store, &clock, (tasks, stop));
    delivery.start(handed).await?;
    billing.start();
    tasks.spawn(sweep(config, &store, &clock, stop).run());
    tasks.spawn(proofs.clone().run(stop.clone()));
    let arriving = arriving(config);
    Ok(Back { store, metrics, dodo, billing, ears, submission, arriving, proofs, clock, replaced })
}

/// Tells the other processes on the database that this one is there, and hears what they tell. Cancelled when
/// another one goes by its name.
fn attend(
    store: &Store,
    clock: &Clock,
    (tasks, stop): (&TaskTracker, &CancellationToken),
) -> CancellationToken {
    let replaced = CancellationToken::new();
    let presence = Presence {
        store: store.clone(),
        clock: clock.clone(),
        stop: stop.clone(),
        replaced: replaced.clone(),
    };
    tasks.spawn(presence.run());
    tasks.spawn(store.clone().listen(stop.clone()));
    replaced
}

/// The room of what arrives.
fn arriving(config: &Config) -> Allowance {
    let (all, each) = (config.smtp.max_bytes_arriving, config.smtp.max_bytes_arriving_per_customer);
    Allowance::new("smtp.max_bytes_arriving", all, each)
}

fn sweep(config: &Config, store: &Store, clock: &Clock, stop: &CancellationToken) -> Sweep {
    Sweep {
        store: store.clone(),
        clock: clock.clone(),
        keep: Sweep::keep(&config.queue),
        arrives_within: Duration::from_secs(config.smtp.data_timeout_s),
        stop: stop.clone(),
    }
}

/// Who is asked about the domains that customers add. Calls to Resend share the pace of
/// the mail that leaves.
fn proofs(
    config: &Config,
    (store, metrics): (&Store, &Metrics),
    resend: Option<&Resend>,
    clock: &Clock,
) -> anyhow::Result<Proofs> {
    let asked = match (config.senders.proof, resend) {
        (ProofBy::Dns, _) => Asked::Dns(
            Dns::new(config.senders.resolver)
                .context("the DNS resolver cannot be set up; senders.resolver names another one")?,
        ),
        (ProofBy::Resend, Some(resend)) => {
            Asked::Resend(resend.clone().in_region(config.senders.resend_region))
        }
        _ => Asked::Nobody,
    };
    let quota = Quota { domains: config.senders.max_domains, per_day: config.senders.max_domains_per_day };
    Ok(Proofs::new(store.clone(), asked, clock.clone(), quota, metrics.clone()))
}

/// The upstreams that this configuration uses.
fn upstreams(
    config: &Config,
    secrets: &Secrets,
    (clock, translating, ration): (&Clock, &Translating, Ration),
) -> anyhow::Result<Upstreams> {
    let timeout = Duration::from_secs(config.upstream.timeout_s);
    let resend = match &secrets.resend_api_key {
        Some(api_key) if config.uses_resend() => {
            let settings = ResendSettings {
                base_url: secrets.resend_base_url.clone(),
                api_key: api_key.clone(),
                timeout,
                clock: clock.clone(),
            };
            Some(Resend::new(&settings)?.drawing_from(ration))
        }
        _ => None,
    };
    let smtp = match &secrets.upstream_smtp_url {
        Some(url) if config.uses_smtp() => Some(SmtpUpstream::new(&SmtpSettings {
            url: url.clone(),
            allow_plaintext: config.upstream.allow_plaintext,
            hostname: config.smtp.hostname.clone(),
            timeout,
            reuse: config.upstream.reuse(),
            signer: Arc::new(Signer::load(&config.dkim)?),
            clock: clock.clone(),
            is_resend: config.uses_resend_smtp(),
        })?),
        _ => None,
    };
    Ok(Upstreams { resend, smtp, translating: translating.clone() })
}

fn http_router(
    rooms: &Back,
    settings: http::Settings,
    (draining, extra_pages): (CancellationToken, Option<Router>),
    (tasks, stop): &(TaskTracker, CancellationToken),
) -> Router {
    let rooms = http::Rooms {
        store: rooms.store.clone(),
        submission: rooms.submission.clone(),
        billing: rooms.billing.clone(),
        ears: rooms.ears.clone(),
        dodo: rooms.dodo.clone(),
        metrics: rooms.metrics.clone(),
        clock: rooms.clock.clone(),
        arriving: rooms.arriving.clone(),
        proofs: rooms.proofs.clone(),
        draining,
    };
    let site = http::Site::new(rooms, settings);
    tasks.spawn(http::find_lost_payments(site.clone(), stop.clone()));
    http::router(site, extra_pages)
}

fn http_settings(
    config: &Config,
    secrets: &Secrets,
    (session_key, smtp, smtps): (http::SessionKey, Option<SocketAddr>, Option<SocketAddr>),
    is_sandbox: bool,
) -> anyhow::Result<http::Settings> {
    let webhook_keys = secrets.dodo_webhook_keys.iter().map(SigningKey::parse).collect::<Result<_, _>>()?;
    let resend_webhook_keys =
        secrets.resend_webhook_secrets.iter().map(SigningKey::parse).collect::<Result<_, _>>()?;
    let starter_domain = config.senders.starter_domain.as_deref().map(Domain::parse).transpose()?;
    Ok(http::Settings {
        base_url: secrets.base_url.clone(),
        admin_token: secrets.admin_token.clone(),
        session_key,
        checkout_key: http::CheckoutKey::new(&secrets.dodo_api_key),
        suspends: http::Suspends::of(&config.billing),
        webhook_keys,
        resend_webhook_keys,
        plan_product_id: secrets.plan_product_id.clone(),
        topup_product_id: secrets.topup_product_id.clone(),
        starter_domain,
        sender_policy: config.senders.policy,
        smtp: http::SmtpAccess {
            host: config.smtp.hostname.clone(),
            starttls_port: smtp.map(|address| address.port()),
            tls_port: smtps.map(|address| address.port()),
        },
        max_request_bytes: config.smtp.max_request_bytes(),
        floor: config.smtp.floor(),
        max_recipients: config.smtp.max_recipients,
        forwarding_proxies: config.http.forwarding_proxies.clone(),
        lifetime: Duration::from_secs(config.queue.lifetime_h.saturating_mul(3600)),
        log_days: u32::try_from(config.queue.keep_log_days).unwrap_or(u32::MAX),
        low_balance: i64::try_from(config.billing.low_balance_credits).unwrap_or(i64::MAX),
        serves_metrics: config.http.metrics_listen.is_none(),
        is_sandbox,
    })
}

fn start_smtp(
    config: &Config,
    rooms: &Back,
    certificate: &std::sync::Arc<CertificateStore>,
    (submission, submissions): (Vec<TcpListener>, Vec<TcpListener>),
    (tasks, stop): &(TaskTracker, CancellationToken),
) -> anyhow::Result<()> {
    let (submission_room, arriving) = (rooms.submission.clone(), rooms.arriving.clone());
    let reply = config.billing.out_of_credit_reply;
    let server = Server::new(&config.smtp, reply, submission_room, arriving);
    let door = Door::new(Limits {
        max_connections: config.smtp.max_connections,
        max_connections_per_ip: config.smtp.max_connections_per_ip,
        forwarding_proxies: Vec::new(),
        trusted_proxies: config.smtp.trusted_proxies.clone(),
        proxy_header_timeout: Duration::from_secs(config.smtp.handshake_timeout_s),
    });
    let front =
        smtp::listener::Front::new(server, door, rooms.metrics.clone(), (tasks.clone(), stop.clone()));
    for listener in submission {
        let acceptor = TlsAcceptor::from(certificate.server_config()?);
        tasks.spawn(std::sync::Arc::clone(&front).run(listener, Opening::StartTls(acceptor)));
    }
    for listener in submissions {
        let acceptor = TlsAcceptor::from(certificate.server_config()?);
        tasks.spawn(std::sync::Arc::clone(&front).run(listener, Opening::Implicit(acceptor)));
    }
    Ok(())
}

/// The metrics' own listener trusts no proxy: whoever reads this node's comes directly.
fn start_http(
    config: &Config,
    (listener, pages): (TcpListener, Router),
    trusted_proxies: &[Network],
    metrics: &Metrics,
    front: &(TaskTracker, CancellationToken),
) {
    let door = Door::new(Limits {
        max_connections: config.http.max_connections,
        max_connections_per_ip: config.http.max_connections_per_ip,
        forwarding_proxies: config.http.forwarding_proxies.clone(),
        trusted_proxies: trusted_proxies.to_vec(),
        proxy_header_timeout: Duration::from_secs(config.smtp.handshake_timeout_s),
    });
    let timeout = Duration::from_secs(config.http.header_timeout_s);
    let serving = http::listener::Front::new(pages, door, timeout, metrics.clone(), front.clone());
    front.0.spawn(serving.run(listener));
}

/// What programs that started us wait for; whoever closed stdout does not wait.
fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
