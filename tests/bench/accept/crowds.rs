//! What crowds cost: memory with very many idle sessions, an ordinary client's time beside
//! thousands of slow ones, memory while a thousand large messages arrive. Each part has a
//! server of its own, with the limits that Postmeter has by default except those on how
//! much one address and one customer may have: here all are one customer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::args::{Args, Kind};
use crate::client::{Endpoint, Message, Session};
use crate::crowd::{Host, Slow};
use crate::load::{memory_kib, open, within};
use crate::postmeter::Postmeter;
use crate::servers::Ground;
use crate::tls;

/// How many idle sessions there are when memory is read.
const IDLE: [usize; 2] = [1_000, 5_000];
/// The longest that an ordinary client may wait.
const LONGEST: Duration = Duration::from_secs(1);
/// How long a slow client is silent between two octets.
const SILENCE: Duration = Duration::from_secs(2);
/// How many clients come at the same time: the kernel's queue is not what is measured.
const COMING: usize = 64;
/// How long a crowd may take to come, and a server to be done with one.
const PATIENCE: Duration = Duration::from_secs(600);
/// A piece of a large message: whole lines.
const PIECE: usize = 16_000;

/// All three parts; fails if a promise is broken, once everything is printed.
pub(crate) async fn run(args: &Args) -> Result<()> {
    idle(args).await.context("idle sessions")?;
    let slowest = slow(args).await.context("slow clients")?;
    let kept = large(args).await.context("large messages")?;
    ensure!(slowest <= LONGEST, "an ordinary client waited {slowest:?}, longer than {LONGEST:?}");
    ensure!(kept == args.large, "{kept} of {} large messages were kept", args.large);
    Ok(())
}

async fn start(args: &Args) -> Result<(Postmeter, Ground)> {
    let ground = Ground::new(args)?;
    Ok((Postmeter::start(args, &ground, &tls::connector()?, Kind::Postmeter).await?, ground))
}

async fn idle(args: &Args) -> Result<()> {
    let (postmeter, _ground) = start(args).await?;
    let before = memory_kib(postmeter.pid(), "VmRSS:")?;
    println!("idle TLS sessions, signed in: none {}", mib(before));
    let mut sessions = Vec::new();
    for count in IDLE {
        let more = open(std::slice::from_ref(&postmeter.endpoint), count - sessions.len());
        sessions.extend(within(PATIENCE, more).await?);
        let kib = memory_kib(postmeter.pid(), "VmRSS:")?;
        let each = kib.saturating_sub(before) as f64 / count as f64;
        println!("  {count}: {}, {each:.1} KiB each", mib(kib));
    }
    for session in &mut sessions {
        within(PATIENCE, session.noop()).await.context("an idle session was lost")?;
    }
    drop(sessions);
    postmeter.stop_and_audit().await.map(drop)
}

struct Crowd {
    coming: Semaphore,
    there: AtomicUsize,
    /// How often somebody has sat down.
    sat_down: AtomicUsize,
}

/// The longest that an ordinary client waited for its session and the 250 to its message.
async fn slow(args: &Args) -> Result<Duration> {
    let (postmeter, _ground) = start(args).await?;
    let Endpoint { addr, username, secret, connector } = postmeter.endpoint.clone();
    let token = STANDARD.encode(format!("\0{username}\0{secret}"));
    let host = Host { smtp: addr, smtps: postmeter.smtps, connector, token, sender: "app@bench.example" };
    let coming = Semaphore::new(COMING);
    let crowd = Arc::new(Crowd { coming, there: AtomicUsize::new(0), sat_down: AtomicUsize::new(0) });
    let mut clients = JoinSet::new();
    for number in 0..args.slow {
        clients.spawn(linger(number, host.clone(), Arc::clone(&crowd)));
    }
    let begin = Instant::now();
    while crowd.sat_down.load(Relaxed) < args.slow {
        if let Some(failed) = clients.try_join_next() {
            failed??;
        }
        ensure!(begin.elapsed() < PATIENCE, "{} sat down in {PATIENCE:?}", crowd.sat_down.load(Relaxed));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{} slow clients came in {:.1} s", args.slow, begin.elapsed().as_secs_f64());

    let mut message = Message::new("crowds", args.message_bytes);
    let (mut took, mut fewest) = (Vec::new(), args.slow);
    for number in 0..args.mails {
        let begin = Instant::now();
        let mut session = within(PATIENCE, Session::open(&postmeter.endpoint)).await?;
        within(PATIENCE, session.send(message.numbered(number), false)).await?;
        took.push(begin.elapsed());
        session.quit().await?;
        fewest = fewest.min(crowd.there.load(Relaxed));
    }
    if let Some(failed) = clients.try_join_next() {
        failed??;
    }
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent).div_ceil(100).saturating_sub(1)];
    let again = crowd.sat_down.load(Relaxed) - args.slow;
    println!(
        "  at least {fewest} of them there, {again} let go and back again; an ordinary client's session and mail: \
         median {:.1?}, p99 {:.1?}, slowest {:.1?} of {}; {}",
        at(50),
        at(99),
        at(100),
        args.mails,
        mib(memory_kib(postmeter.pid(), "VmRSS:")?),
    );
    ensure!(fewest * 100 >= args.slow * 95, "too few of the slow clients were there");
    drop(clients);
    postmeter.stop_and_audit().await?;
    Ok(at(100))
}

/// Sits there, and comes again whenever it is let go.
async fn linger(number: usize, host: Host, crowd: Arc<Crowd>) -> Result<()> {
    loop {
        let coming = crowd.coming.acquire().await?;
        let mut slow = Slow::open(number, &host).await.with_context(|| format!("slow client {number}"))?;
        drop(coming);
        crowd.there.fetch_add(1, Relaxed);
        crowd.sat_down.fetch_add(1, Relaxed);
        while tokio::time::timeout(SILENCE, slow.let_go()).await.is_err() {
            if slow.drip().await.is_err() {
                break;
            }
        }
        crowd.there.fetch_sub(1, Relaxed);
    }
}

/// How many of the large messages were kept.
async fn large(args: &Args) -> Result<usize> {
    let (postmeter, _ground) = start(args).await?;
    let pid = postmeter.pid();
    let before = memory_kib(pid, "VmRSS:")?;
    let sessions = within(PATIENCE, open(std::slice::from_ref(&postmeter.endpoint), args.large)).await?;
    let with_sessions = memory_kib(pid, "VmRSS:")?;
    let begin = Instant::now();
    let mut sending = JoinSet::new();
    let pace = Duration::from_secs(args.large_seconds) / u32::try_from(pieces(args))?.max(1);
    for (number, session) in sessions.into_iter().enumerate() {
        let turn = pace.mul_f64(number as f64 / args.large as f64);
        sending.spawn(send_large(session, pieces(args), begin + turn, pace));
    }
    let (mut kept, mut sessions, mut why) = (0, Vec::new(), None);
    while let Some(sent) = sending.join_next().await {
        match sent? {
            Ok(session) => {
                kept += 1;
                sessions.push(session);
            }
            Err(error) => why = Some(error),
        }
    }
    let (took, peak) = (begin.elapsed(), memory_kib(pid, "VmHWM:")?);
    for session in sessions {
        within(PATIENCE, session.quit()).await?;
    }
    while postmeter.upstream.taken().is_some_and(|taken| taken < kept as u64) {
        ensure!(begin.elapsed() < PATIENCE * 3, "the messages are not delivered");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!(
        "{kept} of {} messages of {} octets kept in {:.0} s: before {}, with the sessions {}, peak {} while they \
         arrived, {} until they had left, {} afterwards",
        args.large,
        pieces(args) * PIECE,
        took.as_secs_f64(),
        mib(before),
        mib(with_sessions),
        mib(peak),
        mib(memory_kib(pid, "VmHWM:")?),
        mib(memory_kib(pid, "VmRSS:")?),
    );
    if let Some(why) = why {
        println!("  the last that was not kept: {why:#}");
    }
    println!("  {}", postmeter.stop_and_audit().await?);
    Ok(kept)
}

fn pieces(args: &Args) -> usize {
    args.large_bytes.div_ceil(PIECE)
}

/// One message, a piece at a time, as fast as that and no faster.
async fn send_large(mut session: Session, pieces: usize, from: Instant, pace: Duration) -> Result<Session> {
    let line = [&[b'x'; 498][..], b"\r\n"].concat();
    let piece = line.repeat(PIECE / line.len());
    let mut turns = tokio::time::interval_at(from.into(), pace);
    session.begin().await?;
    session.more(b"From: app@bench.example\r\nSubject: large\r\n\r\n").await?;
    for _ in 0..pieces {
        turns.tick().await;
        session.more(&piece).await?;
    }
    session.more(b".\r\n").await?;
    match tokio::time::timeout(PATIENCE, session.ended()).await {
        Ok(ended) => ended.map(|()| session),
        Err(_) => bail!("no answer"),
    }
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1_024.0)
}
