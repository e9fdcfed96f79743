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
use crate::counters::Work;
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
    /// The same messages by the time until all of them were sent and captured.
    pub(crate) completed_per_s: Option<f64>,
    /// What the store did for them.
    pub(crate) work: Option<Work>,
    /// When the clock began to run.
    #[serde(skip)]
    pub(crate) began: Instant,
}

impl Figures {
    /// Messages a second until then.
    pub(crate) fn per_s_until(&self, at: Instant) -> f64 {
        self.messages as f64 / (at - self.began).as_secs_f64()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, seconds, per_s, p50_ms, p99_ms, .. } = self;
        write!(
            f,
            "{per_s:>8.0} messages/s  p50 {p50_ms:.2} ms  p99 {p99_ms:.2} ms  ({messages} in {seconds:.1} s)"
        )?;
        if let Some(completed) = self.completed_per_s {
            write!(f, "  {completed:.0}/s completed")?;
        }
        let Some(Work { commits_per_s, writes_per_commit, ms_per_commit, wal_per_message }) = &self.work
        else {
            return Ok(());
        };
        write!(f, "  {commits_per_s:.0} commits/s of {writes_per_commit:.1} in {ms_per_commit:.1} ms")?;
        wal_per_message.map_or(Ok(()), |wal| write!(f, "  {:.1} KB of log a message", wal / 1e3))
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
        let sessions = within(PATIENCE, open(&server.endpoints, self.connections)).await?;
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
        figures(latencies, (begin, end))
    }
}

/// New sessions per second: connect, STARTTLS, AUTH, QUIT.
pub(crate) async fn new_sessions(server: &Server, args: &Args) -> Result<f64> {
    within(PATIENCE, open(&server.endpoints, OPENING)).await?;
    let begin = Instant::now();
    let tickets = Tickets::new(args.sessions, begin, args);
    let mut working = JoinSet::new();
    for endpoint in server.endpoints.iter().cycle().take(OPENING) {
        let (endpoint, tickets) = (endpoint.clone(), Arc::clone(&tickets));
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
    let mut sessions = within(PATIENCE, open(&server.endpoints, args.idle)).await?;
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

/// Opens sessions, a few at a time, and as many at each of a server's nodes as at any other.
pub(crate) async fn open(endpoints: &[Endpoint], count: usize) -> Result<Vec<Session>> {
    let left = Arc::new(AtomicU64::new(count as u64));
    let mut opening = JoinSet::new();
    for _ in 0..OPENING {
        let (endpoints, left) = (endpoints.to_vec(), Arc::clone(&left));
        opening.spawn(async move {
            let mut mine = Vec::new();
            while let Ok(n) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) {
                mine.push(Session::open(&endpoints[n as usize % endpoints.len()]).await?);
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

/// The figures of messages that took so long, between those times.
pub(crate) fn figures(mut latencies: Vec<Duration>, (began, end): (Instant, Instant)) -> Result<Figures> {
    latencies.sort_unstable();
    let at = |percent: usize| {
        let index = (latencies.len() * percent).div_ceil(100).saturating_sub(1);
        latencies.get(index).map(|l| l.as_secs_f64() * 1e3).context("no message was accepted")
    };
    let seconds = (end - began).as_secs_f64();
    let (messages, p50_ms, p99_ms) = (latencies.len() as u64, at(50)?, at(99)?);
    let (per_s, completed_per_s, work) = (messages as f64 / seconds, None, None);
    Ok(Figures { messages, seconds, per_s, p50_ms, p99_ms, completed_per_s, work, began })
}
