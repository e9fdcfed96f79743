//! The routes from outside: a real database, a submission that takes mail in, and
//! a Dodo that says what it was told to say.

mod access;
mod account;
mod dashboard;
mod document;
mod emails;
mod operator;
mod pages;
mod queue;
mod room;
mod sending;
mod sign_in;
mod way_in;
mod webhooks;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::listener::{Front, Peer};
use super::session::SessionKey;
use super::signature::SigningKey;
use super::{CheckoutKey, Rooms, Settings, Shared, Site, SmtpAccess, Suspends, router};
use crate::allowance::Allowance;
use crate::billing::dodo::{Dodo, DodoSettings};
use crate::billing::{self, Billing};
use crate::clock::Clock;
use crate::config::Config;
use crate::delivery;
use crate::delivery::told::{self, Ears};
use crate::domain::address::Domain;
use crate::domain::credential::Secret;
use crate::domain::ids::{CustomerId, Username};
use crate::domain::sender::{SenderPattern, SenderPolicy};
use crate::door::{Door, Limits};
use crate::handover::Handover;
use crate::mime::address_list::NamedMailbox;
use crate::outbound::stand_in::{Given, StandIn};
use crate::proof::{Asked, Proofs, Quota};
use crate::random;
use crate::routing::Routing;
use crate::store::Store;
use crate::store::customer::Credential;
use crate::store::session::PageSession;
use crate::submission::stand_in::{Directory, store};
use crate::submission::{self, Submission};
use crate::telemetry::Metrics;
use crate::throttle::sign_in::NamesKey;
use crate::upstream::translating::Translating;

const BASE_URL: &str = "https://meter.example";
const ADMIN_TOKEN: &str = "the-admin-token";
/// One request of the greatest size, three times over, and a half.
const ROOM_FOR_EACH: usize = 700_000;
const ROOM_FOR_ALL: usize = 1_000_000;
const MAX_REQUEST_BYTES: usize = 185_536;
const WEBHOOK_KEY: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// The whole site. Customers `cus_ann` (credential `ann`, `ann-secret`) with thirty
/// credits and the sender `ann@example.com`, and `cus_bob` (`bob`, `bob-secret`).
struct Town {
    router: Router,
    site: Shared,
    store: Store,
    clock: Clock,
    dodo: StandIn,
    _directory: Directory,
}

/// An answer that was read to its end.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The cookies that were set, as a browser sends them back.
    fn cookie(&self) -> String {
        let set = self.headers.get_all("set-cookie").into_iter().map(|value| value.to_str().unwrap());
        set.map(|cookie| cookie.split(';').next().unwrap()).collect::<Vec<_>>().join("; ")
    }
}

impl Town {
    async fn new() -> Self {
        Self::with_dodo(&[]).await
    }

    async fn with_dodo(answers: &[Given]) -> Self {
        let (store, directory) = store().await;
        let clock = Clock::manual(Clock::system().now());
        let stand_in = StandIn::busy(answers).await;
        let dodo = Dodo::new(DodoSettings {
            base_url: stand_in.base_url.clone(),
            api_key: SecretString::from("key"),
            entitlement_id: "cde".to_owned(),
            timeout: Duration::from_secs(5),
            clock: clock.clone(),
        });
        let rooms = rooms(store.clone(), dodo.unwrap(), &clock);
        let site = Site::new(rooms, settings());
        seed(&store, &clock).await;
        Self { router: router(site.clone(), None), site, store, clock, dodo: stand_in, _directory: directory }
    }

    async fn call(&self, request: Request<Body>) -> Answer {
        self.call_from("192.0.2.7:1234", request).await
    }

    async fn call_from(&self, peer: &str, mut request: Request<Body>) -> Answer {
        let peer = peer.parse().unwrap();
        request.extensions_mut().insert(Peer(peer));
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 22).await.unwrap();
        let answer = Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        };
        document::holds(&method, &path, &answer);
        answer
    }

    /// Signs in on the page and gives the cookie.
    async fn sign_in(&self, username: &str) -> String {
        let form = format!("username={username}&secret={username}-secret");
        let answer = self.call(form_of("/sign-in", &form)).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/account"), "{answer:?}");
        answer.cookie()
    }

    /// The cookie of whoever signed in by a mailed link.
    async fn by_mail(&self, of: &str) -> String {
        let (new, cookie) = self.site.sessions.begin(&Secret::generate(random::octets()), self.clock.now());
        let who = PageSession { customer_id: customer(of), username: None };
        self.store.begin_session(&new, &who).await.unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }
}

fn rooms(store: Store, dodo: Dodo, clock: &Clock) -> Rooms {
    let mut config = Config::default();
    config.limits.sign_in_max_delay_s = 0;
    let metrics = Metrics::new();
    let routing = Routing::new(&config);
    let tasks = TaskTracker::new();
    let notices_from = NamedMailbox::parse("postmaster@example.com").unwrap();
    let billing = Billing::new(
        billing::Tools {
            store: store.clone(),
            dodo: dodo.clone(),
            routing,
            clock: clock.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            stop: CancellationToken::new(),
        },
        billing::Settings::new(&config, BASE_URL, notices_from.clone()),
    );
    let (handover, _) = Handover::new(1 << 20, 1);
    let tools = submission::Tools {
        store: store.clone(),
        billing: billing.clone(),
        handover,
        routing,
        translating: Translating::new(config.upstream.max_bytes_translating),
        clock: clock.clone(),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
        names_key: NamesKey(random::octets()),
    };
    let submission = Submission::new(&config, tools);
    let arriving = Allowance::new("arriving", ROOM_FOR_ALL, ROOM_FOR_EACH);
    let quota = Quota { domains: 3, per_day: 3 };
    let proofs = Proofs::new(store.clone(), Asked::Nobody, clock.clone(), quota, metrics.clone());
    let ears = Ears::new(told::Tools {
        store: store.clone(),
        billing: billing.clone(),
        metrics: metrics.clone(),
        clock: clock.clone(),
        postmaster: delivery::Settings::new(&config, notices_from).postmaster,
        thresholds: config.reputation,
        is_resend_smtp: config.uses_resend_smtp(),
    });
    let draining = CancellationToken::new();
    Rooms {
        store,
        submission,
        billing,
        ears,
        dodo,
        metrics,
        clock: clock.clone(),
        arriving,
        proofs,
        draining,
    }
}

fn settings() -> Settings {
    Settings {
        base_url: BASE_URL.to_owned(),
        admin_token: Some(SecretString::from(ADMIN_TOKEN)),
        session_key: SessionKey::new(&random::octets(), &SecretString::from("key")),
        checkout_key: CheckoutKey::new(&SecretString::from("key")),
        suspends: Suspends { on_refund: false, on_dispute: true },
        webhook_keys: vec![signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), signing_key(WEBHOOK_KEY)],
        resend_webhook_keys: vec![signing_key(WEBHOOK_KEY)],
        plan_product_id: "pdt_plan".to_owned(),
        topup_product_id: "pdt_topup".to_owned(),
        starter_domain: Some(Domain::parse("mail.example").unwrap()),
        sender_policy: SenderPolicy::Listed,
        smtp: SmtpAccess {
            host: "smtp.meter.example".to_owned(),
            starttls_port: Some(587),
            tls_port: Some(465),
        },
        max_request_bytes: MAX_REQUEST_BYTES,
        floor: Config::default().smtp.floor(),
        max_recipients: 3,
        forwarding_proxies: Config::default().http.forwarding_proxies,
        lifetime: Duration::from_secs(3600),
        log_days: 30,
        low_balance: 10,
        serves_metrics: true,
        is_sandbox: false,
    }
}

fn signing_key(text: &str) -> SigningKey {
    SigningKey::parse(&SecretString::from(text)).unwrap()
}

async fn seed(store: &Store, clock: &Clock) {
    let now = clock.now();
    for name in ["ann", "bob"] {
        let customer_id = customer(name);
        store.add_customer(&customer_id, Some("x@example.com"), None, now).await.unwrap();
        let credential = Credential {
            username: Username::parse(name).unwrap(),
            customer_id: customer_id.clone(),
            label: None,
            created_at: now,
            revoked_at: None,
            caps: Default::default(),
            last_used_at: None,
        };
        let secret = Secret::presented(&format!("{name}-secret"));
        store.add_credential(&credential, &secret.hash()).await.unwrap();
    }
    let sender = SenderPattern::parse("ann@example.com").unwrap();
    store.allow_sender(&customer("ann"), &sender, now).await.unwrap();
    let read = store.begin_balance_read(&customer("ann")).await.unwrap().unwrap();
    store.apply_balance(&read, 30, now).await.unwrap();
}

fn customer(name: &str) -> CustomerId {
    CustomerId::parse(&format!("cus_{name}")).unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn json_of(path: &str, body: &str) -> Request<Body> {
    let request = Request::post(path).header("content-type", "application/json; charset=utf-8");
    request.body(Body::from(body.to_owned())).unwrap()
}

fn form_of(path: &str, body: &str) -> Request<Body> {
    let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
    request.header("origin", BASE_URL).body(Body::from(body.to_owned())).unwrap()
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

/// Under a customer's credential.
fn basic(request: Request<Body>, name: &str) -> Request<Body> {
    let pair = STANDARD.encode(format!("{name}:{name}-secret"));
    with(request, "authorization", &format!("Basic {pair}"))
}

fn bearer(request: Request<Body>, token: &str) -> Request<Body> {
    with(request, "authorization", &format!("Bearer {token}"))
}

#[test]
fn p10_nothing_that_is_shared_shows_a_secret() {
    let shown = format!("{:?}", settings());
    assert!(!shown.contains(ADMIN_TOKEN) && !shown.contains("C2FVsBQ"), "{shown}");
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_ends() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let town = Town::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let door = Door::new(Limits {
        max_connections: 10,
        max_connections_per_ip: 10,
        forwarding_proxies: Vec::new(),
        trusted_proxies: Vec::new(),
        proxy_header_timeout: Duration::from_secs(5),
    });
    let tasks = (tracker.clone(), stop.clone());
    let metrics = town.site.metrics.clone();
    let front = Front::new(town.router.clone(), door, Duration::from_secs(5), metrics, tasks);
    tracker.spawn(front.run(listener));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let begun = b"POST /checkout/subscribe HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
        content-type: application/json\r\ncontent-length: 2\r\n\r\n";
    stream.write_all(begun).await.unwrap();
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, *b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(town.call(get("/metrics")).await.body.contains("connections{listener=\"http\"} 1"));
    stop.cancel();
    stream.write_all(b"{}").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 422 ") && answer.contains("missing field `email`"), "{answer}");
    tracker.close();
    tracker.wait().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
