//! What very many other messages cost mail: those that wait, and those that leave the log.
//!
//! Two servers of a kind stand side by side, one on an empty database and one on a full one.
//! They take turns, so that whatever else the machine does meanwhile meets both.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::args::{Args, Kind, Upstream};
use crate::client::{Message, Session};
use crate::fill::Fill;
use crate::load::{Figures, Load, figures, within};
use crate::postmeter::{Postmeter, Setup};
use crate::report::{machine, median};
use crate::servers::{Ground, Server};
use crate::tls;

/// What of the rate on an empty database there must be at least on a full one.
const LEAST: f64 = 0.9;
/// How long a server is left alone first: it compares the sums of its books with all rows.
const SETTLING: Duration = Duration::from_secs(30);
/// How long old rows may take to leave, and a message to be delivered.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Rates and latencies, by the number of connections, beside so many messages that wait.
pub(crate) async fn waiting(count: u64, args: &Args) -> Result<()> {
    let ground = Ground::new(args)?;
    let mut is_met = true;
    for kind in args.postmeters() {
        let pair = Pair::start(kind, Fill::Waiting(count).checked()?, args, &ground).await?;
        tokio::time::sleep(SETTLING).await;
        for &connections in &args.connections {
            let mut runs = Vec::new();
            for round in 1..=args.rounds {
                runs.push(pair.run(Load { connections, round }, args).await?);
            }
            let what = format!("{} C={connections} with {count} waiting", kind.name());
            is_met &= verdict(&format!("{what}: accepted"), &runs, |figures| Some(figures.per_s));
            is_met &= verdict(&format!("{what}: completed"), &runs, |figures| figures.completed_per_s);
        }
        if args.upstream == Upstream::Sink {
            let (empty, full) = pair.followed(args).await?;
            println!(
                "{} one after the other until the upstream has it:\n  empty {empty}\n  full  {full}",
                kind.name()
            );
        }
        pair.stop(args).await?;
    }
    println!("{}", machine());
    ensure!(is_met, "a full queue costs too much");
    Ok(())
}

/// Rates while so many old messages leave.
pub(crate) async fn leaving(count: u64, args: &Args) -> Result<()> {
    let ground = Ground::new(args)?;
    let mut is_met = true;
    for kind in args.postmeters() {
        let fill = Fill::Leaving(count).checked()?;
        let pair = Pair::start(kind, fill, args, &ground).await?;
        let (begin, mut runs) = (Instant::now(), Vec::new());
        let (mut left, connections) = (count, args.connections.last().copied().unwrap_or(1));
        while left > 0 && begin.elapsed() < PATIENCE {
            runs.push(pair.run(Load { connections, round: runs.len() }, args).await?);
            left = pair.full.0.database.left(fill).await?;
            eprintln!("  {left} are left after {:.0} s", begin.elapsed().as_secs_f64());
        }
        let what = format!("{} C={connections} while {count} leave", kind.name());
        is_met &= verdict(&format!("{what}: accepted"), &runs, |figures| Some(figures.per_s));
        verdict(&format!("{what}: p99"), &runs, |figures| Some(figures.p99_ms));
        ensure!(left == 0, "{left} have not left");
        let seconds = begin.elapsed().as_secs_f64();
        println!("  they left in {seconds:.0} s beside the mail, {:.0} a second", count as f64 / seconds);
        pair.stop(args).await?;
    }
    println!("{}", machine());
    ensure!(is_met, "rows that leave cost too much");
    Ok(())
}

/// Prints medians and the median of each round's ratio, full to empty.
fn verdict(what: &str, runs: &[(Figures, Figures)], pick: impl Fn(&Figures) -> Option<f64>) -> bool {
    let of = |picked: Vec<Option<f64>>| median(picked.into_iter().flatten().collect());
    let ratios = runs.iter().map(|(empty, full)| Some(pick(full)? / pick(empty)?)).collect();
    let empty = of(runs.iter().map(|(empty, _)| pick(empty)).collect());
    let full = of(runs.iter().map(|(_, full)| pick(full)).collect());
    let (Some(empty), Some(full), Some(ratio)) = (empty, full, of(ratios)) else { return true };
    println!("{what}: empty {empty:.1}, full {full:.1}, ratio {ratio:.2} (median of {} rounds)", runs.len());
    ratio >= LEAST
}

struct Pair {
    empty: (Postmeter, Server),
    full: (Postmeter, Server),
}

impl Pair {
    async fn start(kind: Kind, fill: Fill, args: &Args, ground: &Ground) -> Result<Self> {
        let connector = tls::connector()?;
        let begin = Instant::now();
        let full = Setup { kind, fill: Some(fill) };
        let full = Postmeter::start(args, ground, &connector, full).await.context("the full one")?;
        let seconds = begin.elapsed().as_secs_f64();
        eprintln!("{}: {} messages were written in {seconds:.0} s", kind.name(), fill.count());
        let empty = Postmeter::start(args, ground, &connector, kind).await.context("the empty one")?;
        let with_server = |postmeter: Postmeter| {
            let server = postmeter.server();
            (postmeter, server)
        };
        Ok(Self { empty: with_server(empty), full: with_server(full) })
    }

    /// A run on either; who begins takes turns too.
    async fn run(&self, load: Load, args: &Args) -> Result<(Figures, Figures)> {
        let one = async |(postmeter, server): &(Postmeter, Server), name: &str| {
            let figures = postmeter.run(server, &load, args).await?;
            eprintln!("  C={:<3} {name} {figures}", load.connections);
            anyhow::Ok(figures)
        };
        if load.round.is_multiple_of(2) {
            let full = one(&self.full, "full ").await?;
            return Ok((one(&self.empty, "empty").await?, full));
        }
        let empty = one(&self.empty, "empty").await?;
        Ok((empty, one(&self.full, "full ").await?))
    }

    /// How long it takes from MAIL until the upstream has a message, on either.
    async fn followed(&self, args: &Args) -> Result<(Figures, Figures)> {
        Ok((followed(&self.empty, args).await?, followed(&self.full, args).await?))
    }

    async fn stop(self, args: &Args) -> Result<()> {
        for (name, (postmeter, _)) in [("empty", self.empty), ("full", self.full)] {
            if args.tables {
                println!("{name}:\n{}", postmeter.database.tables()?);
            }
            println!("{name} audit: {}", postmeter.stop_and_audit().await?);
        }
        Ok(())
    }
}

async fn followed((postmeter, server): &(Postmeter, Server), args: &Args) -> Result<Figures> {
    let mut session = Session::open(&server.endpoints[0]).await?;
    let mut message = Message::new("followed", args.message_bytes);
    let (began, mut latencies) = (Instant::now(), Vec::new());
    for number in 0..args.followed {
        let before = postmeter.upstream.taken().context("the upstream takes no mail")?;
        let begin = Instant::now();
        let coming = postmeter.upstream.more_than(before);
        let sent = async { session.send(message.numbered(number), !args.no_pipelining).await };
        let (at, sent) = within(PATIENCE, async { Ok(tokio::join!(coming, sent)) }).await?;
        sent?;
        latencies.push(at? - begin);
    }
    session.quit().await?;
    server.accepted.fetch_add(args.followed, std::sync::atomic::Ordering::Relaxed);
    figures(latencies, (began, Instant::now()))
}
