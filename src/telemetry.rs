//! Logs and metrics: the one place for their set-up, their names and their fields.
//!
//! Logs go to stderr; stdout belongs to the `ready` line and to what commands
//! print. One line is written for each accepted message, attempt and settlement,
//! where it is handled. No field ever holds a secret, a body or a header. Text
//! from outside is given as a string or with `?`, which escape its line breaks,
//! never with `%`, which would let it write lines of its own.
//!
//! | field | of |
//! |---|---|
//! | `customer_id`, `username` | who: the customer, the credential |
//! | `peer`, `listener` | the client's address; where it came in |
//! | `message_id`, `part_id`, `entry_id`, `upstream_id` | which message, part, ledger entry; the upstream's own id |
//! | `recipients`, `bytes` | how many; the size of the message in octets |
//! | `road`, `attempt`, `outcome` | `resend` or `smtp`; number from 1; a value of [`AttemptOutcome`] |
//! | `status`, `reason` | enhanced status code; why, in one line |
//! | `retry_at` | when the next attempt is due |
//! | `kind`, `amount` | of an entry: `debit` or `credit`, credits |
//! | `available`, `balance`, `held`, `owed`, `shortfall` | credits of the customer |
//! | `webhook_id`, `event` | of a webhook |
//! | `alert`, `payment_id`, `suspended` | of an alert: `refund` or `dispute`; the payment; whether the customer was suspended for it |
//! | `table`, `row`, `problem` | of what the audit found |
//! | `choice`, `via`, `held_parts` | of a decision: `retry` or `cancel`; `command` or `http`; of how many parts the risk was told and taken |
//! | `error` | what went wrong on our side |
//!
//! Metrics are OpenMetrics, in base units, without statics: whoever counts is
//! handed a [`Metrics`]. Labels take few values, all listed in `label`: never an id, an
//! address or a text from outside. This room must not know what the numbers lead to.

mod label;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry, Unit};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::domain::alert::AlertKind;
use crate::domain::credits::Credits;
use crate::domain::event::EventKind;
use crate::domain::message::Road;
use crate::domain::proof::ProofState;
use crate::domain::refusal::Refusal;

pub use label::*;

/// The media type of [`Metrics::encode`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is logged unless `RUST_LOG` says otherwise, target by target. The
/// libraries below us tell every statement and every connection at `info`, and sqlx at `warn`
/// what our own lines tell of an outage once.
const DEFAULT_FILTER: &str =
    "info,sqlx=error,hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn,tower_http=warn,lettre=warn";

/// How a log line is written (`--log-format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, its fields at the top.
    Json,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LogSetupError {
    /// `RUST_LOG` is malformed.
    #[error("RUST_LOG is not a log filter such as info or postmeter=debug: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// This process logs already.
    #[error("logging was set up twice in this process")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Begins to log to stderr. `rust_log` is the value of `RUST_LOG`; it adds to the
/// default (`info`, libraries `warn`) and wins where both name the same target.
pub fn init(format: LogFormat, rust_log: Option<&str>) -> Result<(), LogSetupError> {
    let colours = std::io::stderr().is_terminal();
    let subscriber = subscriber(format, filter(rust_log)?, std::io::stderr, colours);
    Ok(tracing::subscriber::set_global_default(subscriber)?)
}

fn filter(rust_log: Option<&str>) -> Result<EnvFilter, LogSetupError> {
    let wanted = rust_log.map(str::trim).filter(|text| !text.is_empty());
    let text = wanted.map_or_else(|| DEFAULT_FILTER.to_owned(), |text| format!("{DEFAULT_FILTER},{text}"));
    Ok(EnvFilter::builder().parse(text)?)
}

fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    writer: W,
    colours: bool,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    match format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_span_list(false).finish()),
    }
}

/// The reason of a refusal, as one word for the metrics and the log.
pub const fn refusal_reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::BadCredential => "bad_credential",
        Refusal::TooManyFailures { .. } => "too_many_failures",
        Refusal::TooManySessions { .. } => "too_many_sessions",
        Refusal::Suspended { .. } => "suspended",
        Refusal::SenderNotAllowed { .. } => "sender_not_allowed",
        Refusal::OutOfCredit { .. } => "out_of_credit",
        Refusal::BillingUnknown => "billing_unknown",
        Refusal::Suppressed { .. } => "suppressed",
        Refusal::AddressNotCarried { .. } => "address_not_carried",
        Refusal::TooManyRecipients { .. } => "too_many_recipients",
        Refusal::TooLarge { .. } => "too_large",
        Refusal::TooFast { .. } => "too_fast",
        Refusal::Capped(_) => "capped",
        Refusal::Unacceptable { .. } => "unacceptable",
        Refusal::Looping => "looping",
        Refusal::KeyReused => "key_reused",
        Refusal::StoreUnavailable => "store_unavailable",
    }
}

/// Counters and gauges of this process. Clones count together and cost nothing.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

type Labelled<const N: usize, M> = Family<[(&'static str, &'static str); N], M>;

#[derive(Debug)]
struct Inner {
    registry: Registry,
    connections: Labelled<1, Gauge>,
    sign_ins: Labelled<1, Counter>,
    messages_accepted: Counter,
    submissions_refused: Labelled<1, Counter>,
    parts_queued: Gauge,
    parts_held: Gauge,
    attempts: Labelled<2, Counter>,
    resend_call_size: Histogram,
    late_sent: Counter,
    events: Labelled<1, Counter>,
    customers_paused: Counter,
    gate_closed: Labelled<1, Gauge>,
    domains: Labelled<1, Gauge>,
    credits_captured: Counter,
    credits_held: Gauge,
    credits_owed: Gauge,
    credits_uncovered: Gauge,
    oldest_capture_age: Gauge,
    entries: Labelled<2, Counter>,
    refunds: Labelled<1, Counter>,
    entries_doubtful: Gauge,
    ledger_drift: Gauge,
    dodo_calls: Labelled<2, Counter>,
    dodo_up: Gauge,
    dodo_refusing: Labelled<1, Gauge>,
    webhooks: Labelled<2, Counter>,
    alerts: Labelled<1, Counter>,
    database_up: Gauge,
    store_commit: Histogram,
    store_batch_size: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero, and Dodo and the database taken to be up.
    pub fn new() -> Self {
        let mut names = Names(Registry::with_prefix("postmeter"));
        // From 0.5 ms, a fast disk's fsync, to 8 s; from one member to 2048.
        let seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 15));
        let members = Histogram::new(exponential_buckets(1.0, 2.0, 12));
        let mails = Histogram::new(exponential_buckets(1.0, 2.0, 8));
        let inner = Inner {
            connections: names.add("connections", "Connections that are open"),
            sign_ins: names.add("sign_ins", "Sign-ins"),
            messages_accepted: names
                .add("messages_accepted", "Messages answered with 250, all of them safe on disk"),
            submissions_refused: names.add("submissions_refused", "Submissions refused"),
            parts_queued: names.add("parts_queued", "Parts waiting or under way"),
            parts_held: names.add("parts_held", "Parts whose outcome cannot be known, left to the operator"),
            attempts: names.add("attempts", "Attempts to send a part"),
            resend_call_size: names.add_as("resend_call_size", "Mails of a call to Resend that may have several", mails),
            late_sent: names.add("late_sent", "Parts that the upstream accepted after they were given up"),
            events: names.add("events", "News of mail that the upstream had taken, each piece once"),
            customers_paused: names
                .add("customers_paused", "Customers paused because too much of their mail came back or was called spam"),
            gate_closed: names.add("gate_closed", "1 while an upstream is closed to all of our mail"),
            domains: names.add("domains", "Domains that customers have added, by where their proof stands"),
            credits_captured: names
                .add("credits_captured", "Credits that became owed because a message was sent"),
            credits_held: names.add("credits_held", "Credits held for accepted messages, all customers"),
            credits_owed: names.add("credits_owed", "Credits captured and not yet settled, all customers"),
            credits_uncovered: names
                .add("credits_uncovered", "Credits owed beyond the balances, all customers: they wait for top-ups"),
            oldest_capture_age: names.add_in(
                Unit::Seconds,
                "oldest_capture_age",
                "Age of the oldest capture that is not settled, 0 without one",
                Gauge::default(),
            ),
            entries: names.add("entries", "Tries to post a ledger entry"),
            refunds: names.add("refunds", "Steps of refunds for messages that bounced"),
            entries_doubtful: names.add(
                "entries_doubtful",
                "Entries that Dodo may or may not have applied; not posted again, their credits stay owed",
            ),
            ledger_drift: names.add(
                "ledger_drift",
                "Credits by which sums in the books disagreed when they were last compared; 0: all is well",
            ),
            dodo_calls: names.add("dodo_calls", "Calls to Dodo"),
            dodo_up: names.add("dodo_up", "0 after a call that Dodo failed or left unanswered"),
            dodo_refusing: names.add(
                "dodo_refusing",
                "1 while Dodo refuses these calls for a reason that the operator must look at: key, rights, entitlement",
            ),
            webhooks: names.add("webhooks", "Webhooks received"),
            alerts: names.add("alerts", "Payments that Dodo has told were refunded or disputed, each once"),
            database_up: names.add("database_up", "0 while the database takes no writes, and mail is refused for it"),
            store_commit: names.add_in(
                Unit::Seconds,
                "store_commit",
                "Time of a commit with its fsync",
                seconds,
            ),
            store_batch_size: names.add_as("store_batch_size", "Writes that shared a commit", members),
            registry: names.0,
        };
        inner.start_at_zero();
        Self(Arc::new(inner))
    }

    /// All of it in the OpenMetrics text format; see [`METRICS_CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut page = String::new();
        // Writing to a String does not fail, and our own values always encode.
        match text::encode(&mut page, &self.0.registry) {
            Ok(()) => page,
            Err(fmt::Error) => String::from("# EOF\n"),
        }
    }

    /// Counts a connection as open until the answer is dropped.
    pub fn connection(&self, listener: Listener) -> OpenConnection {
        let gauge = self.0.connections.get_or_create_owned(&[("listener", listener.as_str())]);
        gauge.inc();
        OpenConnection(gauge)
    }

    /// Counts a sign-in.
    pub fn sign_in(&self, result: SignInResult) {
        self.0.sign_ins.get_or_create(&[("result", result.as_str())]).inc();
    }

    /// Counts a message that was answered with 250.
    pub fn message_accepted(&self) {
        self.0.messages_accepted.inc();
    }

    /// Counts a submission that was refused, at whatever step.
    pub fn submission_refused(&self, refusal: &Refusal) {
        self.0.submissions_refused.get_or_create(&[("reason", refusal_reason(refusal))]).inc();
    }

    /// Says how many parts wait or are under way, and how many are held.
    pub fn set_parts(&self, queued: u64, held: u64) {
        self.0.parts_queued.set(level(queued));
        self.0.parts_held.set(level(held));
    }

    /// How many parts were held when they were last counted: `readyz` asks.
    pub fn parts_held(&self) -> i64 {
        self.0.parts_held.get()
    }

    /// Counts an attempt to send a part.
    pub fn attempt(&self, road: Road, outcome: AttemptOutcome) {
        let labels = [("road", road.as_str()), ("outcome", outcome.as_str())];
        self.0.attempts.get_or_create(&labels).inc();
    }

    /// Counts news that a part was sent after it had been given up.
    pub fn late_sent(&self) {
        self.0.late_sent.inc();
    }

    /// Counts a piece of news of mail that the upstream had taken.
    pub fn event(&self, kind: EventKind) {
        self.0.events.get_or_create(&[("kind", kind.as_str())]).inc();
    }

    /// Counts a customer who was paused.
    pub fn customer_paused(&self) {
        self.0.customers_paused.inc();
    }

    /// Says whether the gate of an upstream is closed.
    pub fn set_gate_closed(&self, road: Road, closed: bool) {
        self.0.gate_closed.get_or_create(&[("upstream", road.as_str())]).set(i64::from(closed));
    }

    /// How many domains of customers stand where; a state that is not among them has none.
    pub fn set_domains(&self, counts: &[(ProofState, i64)]) {
        for state in ProofState::ALL {
            let count = counts.iter().find(|(counted, _)| counted == state).map_or(0, |(_, count)| *count);
            self.0.domains.get_or_create(&[("state", state.as_str())]).set(count);
        }
    }

    /// Counts credits that were captured.
    pub fn captured(&self, credits: Credits) {
        self.0.credits_captured.inc_by(credits.get());
    }

    /// Says how many credits are held and owed, all customers together.
    pub fn set_credits(&self, held: u64, owed: u64) {
        self.0.credits_held.set(level(held));
        self.0.credits_owed.set(level(owed));
    }

    /// Says what is owed beyond the balances, and how long the oldest debt has waited.
    pub fn set_debts(&self, uncovered: u64, oldest: Duration) {
        self.0.credits_uncovered.set(level(uncovered));
        self.0.oldest_capture_age.set(level(oldest.as_secs()));
    }

    /// Says whether Dodo refuses a kind of call for something that the operator must mend.
    pub fn set_dodo_refusing(&self, call: DodoCall, is_refusing: bool) {
        self.0.dodo_refusing.get_or_create(&[("call", call.as_str())]).set(i64::from(is_refusing));
    }

    /// The calls that Dodo refuses so: `readyz` asks.
    pub fn dodo_refuses(&self) -> Vec<&'static str> {
        let is_refused =
            |call: &DodoCall| self.0.dodo_refusing.get_or_create(&[("call", call.as_str())]).get() != 0;
        DodoCall::ALL.iter().filter(|call| is_refused(call)).map(|call| call.as_str()).collect()
    }

    /// Counts a try to post an entry.
    pub fn entry(&self, kind: EntryKind, result: EntryResult) {
        let labels = [("kind", kind.as_str()), ("result", result.as_str())];
        self.0.entries.get_or_create(&labels).inc();
    }

    /// Counts a step of a refund.
    pub fn refund(&self, result: RefundResult) {
        self.0.refunds.get_or_create(&[("result", result.as_str())]).inc();
    }

    /// Says how many entries are in doubt.
    pub fn set_entries_doubtful(&self, count: u64) {
        self.0.entries_doubtful.set(level(count));
    }

    /// How many entries were in doubt when they were last counted: `readyz` asks.
    pub fn entries_doubtful(&self) -> i64 {
        self.0.entries_doubtful.get()
    }

    /// Says by how many credits the sums in the books disagree.
    pub fn set_ledger_drift(&self, credits: u64) {
        self.0.ledger_drift.set(level(credits));
    }

    /// By how many credits the sums disagreed when they were last compared: `readyz` asks.
    pub fn ledger_drift(&self) -> i64 {
        self.0.ledger_drift.get()
    }

    /// Counts a call to Dodo, and takes from its result whether Dodo is up.
    pub fn dodo_call(&self, call: DodoCall, result: DodoResult) {
        self.0.dodo_calls.get_or_create(&[("call", call.as_str()), ("result", result.as_str())]).inc();
        let up = !matches!(result, DodoResult::Failed | DodoResult::Unanswered);
        self.0.dodo_up.set(i64::from(up));
    }

    /// Whether the last call to Dodo was answered, whatever the answer: `readyz` asks.
    pub fn is_dodo_up(&self) -> bool {
        self.0.dodo_up.get() != 0
    }

    /// Counts a webhook.
    pub fn webhook(&self, source: WebhookSource, result: WebhookResult) {
        let labels = [("source", source.as_str()), ("result", result.as_str())];
        self.0.webhooks.get_or_create(&labels).inc();
    }

    /// Counts an alert.
    pub fn alert(&self, kind: AlertKind) {
        self.0.alerts.get_or_create(&[("kind", kind.as_str())]).inc();
    }

    /// Says whether the database takes writes, as far as the last one shows.
    pub fn set_database_up(&self, is_up: bool) {
        self.0.database_up.set(i64::from(is_up));
    }

    /// Notes with how many mails a call to Resend leaves.
    pub fn resend_call(&self, mails: u32) {
        self.0.resend_call_size.observe(f64::from(mails));
    }

    /// Notes a commit: how long it took and how many writes shared it.
    pub fn store_commit(&self, took: Duration, members: u32) {
        self.0.store_commit.observe(took.as_secs_f64());
        self.0.store_batch_size.observe(f64::from(members));
    }
}

impl Inner {
    /// A series that appears with its first event hides that event from `rate()`.
    fn start_at_zero(&self) {
        self.dodo_up.set(1);
        self.database_up.set(1);
        begin(&self.submissions_refused, [("reason", refusal_reason(&Refusal::StoreUnavailable))]);
        for listener in Listener::ALL {
            begin(&self.connections, [("listener", listener.as_str())]);
        }
        for state in ProofState::ALL {
            begin(&self.domains, [("state", state.as_str())]);
        }
        for result in SignInResult::ALL {
            begin(&self.sign_ins, [("result", result.as_str())]);
        }
        for road in [Road::Resend, Road::Smtp] {
            begin(&self.gate_closed, [("upstream", road.as_str())]);
            for outcome in AttemptOutcome::ALL {
                begin(&self.attempts, [("road", road.as_str()), ("outcome", outcome.as_str())]);
            }
        }
        for kind in EntryKind::ALL {
            for result in EntryResult::ALL {
                begin(&self.entries, [("kind", kind.as_str()), ("result", result.as_str())]);
            }
        }
        for kind in AlertKind::ALL {
            begin(&self.alerts, [("kind", kind.as_str())]);
        }
        for kind in EventKind::ALL {
            begin(&self.events, [("kind", kind.as_str())]);
        }
        for result in RefundResult::ALL {
            begin(&self.refunds, [("result", result.as_str())]);
        }
        for call in DodoCall::ALL {
            begin(&self.dodo_refusing, [("call", call.as_str())]);
            for result in DodoResult::ALL {
                begin(&self.dodo_calls, [("call", call.as_str()), ("result", result.as_str())]);
            }
        }
        for source in WebhookSource::ALL {
            for result in WebhookResult::ALL {
                begin(&self.webhooks, [("source", source.as_str()), ("result", result.as_str())]);
            }
        }
    }
}

fn begin<const N: usize, M: Default>(family: &Labelled<N, M>, labels: [(&'static str, &'static str); N]) {
    drop(family.get_or_create(&labels));
}

/// The registry while it is filled.
struct Names(Registry);

impl Names {
    fn add<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.add_as(name, help, M::default())
    }

    fn add_as<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn add_in<M: Metric + Clone>(&mut self, unit: Unit, name: &str, help: &str, metric: M) -> M {
        self.0.register_with_unit(name, help, unit, metric.clone());
        metric
    }
}

/// A connection that is counted as open as long as this lives.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn level(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
