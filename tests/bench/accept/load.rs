//! What is asked of a server and the clock around it: messages, new sessions, idle sessions.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::args::Args;
use crate::client::{Endpoint, Message, Session};
use crate::servers::Server;

/// Messages that each connection sends before the clock runs: processes start, caches fill.
const WARM_UP: u64 = 3;
/// Sessions that are opened at the same time.
const OPENING: usize = 8;
/// How long a server may be silent before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages over some connections.
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) round: usize,
}

/// One run of messages.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) messages: u64,
    pub(crate) seconds: f64,
    pub(crate) per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, seconds, per_s, p50_ms, p99_ms } = self;
        write!(
            f,
            "{per_s:>8.0} messages/s  p50 {p50_ms:.2} ms  p99 {p99_ms:.2} ms  ({messages} in {seconds:.1} s)"
        )
    }
}

/// Memory of the serving process, in KiB.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) before_kib: u64,
    pub(crate) with_idle_kib: u64,
}

impl Load {
    /// Opens and warms up the connections, then sends the messages over all of them at once.
    pub(crate) async fn run(&self, server: &Server, args: &Args) -> Result<Figures> {
        let sessions = within(PATIENCE, open(&server.endpoint, self.connections)).await?;
        let mut warm = JoinSet::new();
        for (number, mut session) in sessions.into_iter().enumerate() {
            let run = format!("{}-{}-{number}", self.round, self.connections);
            let mut message = Message::new(&run, args.message_bytes);
            let pipelining = !args.no_pipelining;
            warm.spawn(async move {
                for n in 0..WARM_UP {
                    session.send(message.numbered(n), pipelining).await?;
                }
                Ok(Sender { session, message, pipelining })
            });
        }
        let senders = within(PATIENCE, join(warm)).await?;

        let begin = Instant::now();
        let tickets = Tickets::new(args.messages, begin, args);
        let mut working = JoinSet::new();
        for sender in senders {
            working.spawn(sender.work(Arc::clone(&tickets)));
        }
        let limit = Duration::from_secs(args.max_seconds) + PATIENCE;
        let done = within(limit, join(working)).await?;
        let end = done.iter().map(|sent| sent.last).max().context("no connection")?;
        let latencies: Vec<Duration> = done.into_iter().flat_map(|sent| sent.latencies).collect();
        server
            .accepted
            .fetch_add(latencies.len() as u64 + WARM_UP * self.connections as u64, Ordering::Relaxed);
        figures(latencies, end - begin)
    }
}

/// New sessions per second: connect, STARTTLS, AUTH, QUIT.
pub(crate) async fn new_sessions(server: &Server, args: &Args) -> Result<f64> {
    within(PATIENCE, open(&server.endpoint, OPENING)).await?;
    let begin = Instant::now();
    let tickets = Tickets::new(args.sessions, begin, args);
    let mut working = JoinSet::new();
    for _ in 0..OPENING {
        let (endpoint, tickets) = (server.endpoint.clone(), Arc::clone(&tickets));
        working.spawn(async move {
            let mut opened = 0_u64;
            while tickets.take().is_some() {
                Session::open(&endpoint).await?.quit().await?;
                opened += 1;
            }
            Ok(opened)
        });
    }
    let opened: u64 =
        within(Duration::from_secs(args.max_seconds) + PATIENCE, join(working)).await?.iter().sum();
    Ok(opened as f64 / begin.elapsed().as_secs_f64())
}

/// Memory before and with many signed-in sessions that do nothing; none for Postfix, where
/// each session is a process.
pub(crate) async fn idle_sessions(server: &Server, args: &Args) -> Result<Option<Memory>> {
    let Some(pid) = server.pid else { return Ok(None) };
    let before_kib = memory_kib(pid, "VmRSS:")?;
    let mut sessions = within(PATIENCE, open(&server.endpoint, args.idle)).await?;
    let with_idle_kib = memory_kib(pid, "VmRSS:")?;
    for session in &mut sessions {
        within(PATIENCE, session.noop()).await.context("an idle session was lost")?;
    }
    Ok(Some(Memory { before_kib, with_idle_kib }))
}

/// A line of /proc/PID/status, in KiB.
pub(crate) fn memory_kib(pid: u32, line: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value =
        status.lines().find_map(|l| l.strip_prefix(line)).with_context(|| format!("{line} of {pid}"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

/// What the workers of a run share: how many are to be done, and between which times.
struct Tickets {
    next: AtomicU64,
    count: u64,
    /// Even if the count is reached before.
    not_before: Instant,
    /// Even if the count is not reached by then.
    not_after: Instant,
}

impl Tickets {
    fn new(count: u64, begin: Instant, args: &Args) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(0),
            count,
            not_before: begin + Duration::from_secs(args.min_seconds),
            not_after: begin + Duration::from_secs(args.max_seconds),
        })
    }

    /// The number of the next one to do, or that it is enough.
    fn take(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let wanted = number < self.count || now < self.not_before;
        (wanted && now < self.not_after).then_some(number)
    }
}

struct Sender {
    session: Session,
    message: Message,
    pipelining: bool,
}

struct Sent {
    latencies: Vec<Duration>,
    last: Instant,
}

impl Sender {
    async fn work(mut self, tickets: Arc<Tickets>) -> Result<Sent> {
        let mut sent = Sent { latencies: Vec::new(), last: Instant::now() };
        while let Some(ticket) = tickets.take() {
            let message = self.message.numbered(ticket + WARM_UP);
            let begin = Instant::now();
            self.session.send(message, self.pipelining).await?;
            sent.last = Instant::now();
            sent.latencies.push(sent.last - begin);
        }
        self.session.quit().await?;
        Ok(sent)
    }
}

/// Opens sessions, a few at a time.
pub(crate) async fn open(endpoint: &Endpoint, count: usize) -> Result<Vec<Session>> {
    let left = Arc::new(AtomicU64::new(count as u64));
    let mut opening = JoinSet::new();
    for _ in 0..OPENING {
        let (endpoint, left) = (endpoint.clone(), Arc::clone(&left));
        opening.spawn(async move {
            let mut mine = Vec::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                mine.push(Session::open(&endpoint).await?);
            }
            Ok(mine)
        });
    }
    Ok(join(opening).await?.into_iter().flatten().collect())
}

/// All results, or the first failure; the others are then aborted.
async fn join<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result??);
    }
    Ok(results)
}

pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => bail!("no answer for {} s", limit.as_secs()),
    }
}

fn figures(mut latencies: Vec<Duration>, elapsed: Duration) -> Result<Figures> {
    latencies.sort_unstable();
    let at = |percent: usize| {
        let index = (latencies.len() * percent).div_ceil(100).saturating_sub(1);
        latencies.get(index).map(|l| l.as_secs_f64() * 1e3).context("no message was accepted")
    };
    let seconds = elapsed.as_secs_f64();
    let messages = latencies.len() as u64;
    Ok(Figures { messages, seconds, per_s: messages as f64 / seconds, p50_ms: at(50)?, p99_ms: at(99)? })
}
