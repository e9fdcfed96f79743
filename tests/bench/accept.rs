//! The acceptance bench: how fast mail is taken in, beside Postfix and beside a server that
//! stores nothing.
//!
//! ```text
//! tests/bench/postfix.sh install          once, as root: Debian's postfix and its SASL modules
//! cargo bench --bench accept              everything, about five minutes, as root for Postfix
//! cargo bench --bench accept -- --targets postmeter,sink --rounds 1 --json
//! cargo bench --bench accept -- --crowds  what slow clients cost: five minutes, 12 GB of disk
//! cargo bench --bench accept -- --batches how fast a deep queue leaves through Resend
//! cargo bench --bench accept -- --targets postmeter,postmeter-pg,postmeter-pg2
//! cargo bench --bench accept -- --targets postmeter,postmeter-pg --queued 1000000
//! cargo bench --bench accept -- --targets postmeter,postmeter-pg --leaving 1000000
//! ```
//!
//! Servers stand on loopback with the same certificate (ECDSA P-256):
//! * **postmeter**: `postmeter serve` as a child, a real store on the disk, a stand-in for
//!   Dodo, an SMTP upstream that swallows mail. It delivers and settles while it accepts.
//! * **postmeter-pg**, **postmeter-pg2**: the same on a PostgreSQL of the bench's own, with fsync
//!   and the settings that it has by default, one node or two; half of the connections each.
//! * **postfix**: a private instance of Debian's, STARTTLS and SASL required, fsync as by
//!   default, its mail put on hold so that it does nothing but accept (see `postfix.sh`).
//! * **sink**: this program again, as a child, which speaks the dialog and stores nothing: the
//!   ceiling that TLS, the generator and the machine set.
//!
//! One generator drives all of them: connections are opened, signed in (STARTTLS, AUTH PLAIN)
//! and warmed up first; then the clock runs and they share one number of messages, each a full
//! transaction from MAIL to the 250 after the final dot. MAIL, RCPT and DATA leave in one write
//! (RFC 2920) unless `--no-pipelining`. A run ends when 10,000 messages are accepted and three
//! seconds are over, and after `--max-seconds` in any case. New sessions are connect, STARTTLS with a full
//! handshake, AUTH and QUIT.
//!
//! A message is completed when the upstream has it and its credit is captured, in a commit; a
//! run's rate of completed messages goes by the time until all of them are.
//!
//! By default the comparison leans towards Postfix, which only files its mail while Postmeter
//! delivers and settles. `--upstream silent` compares acceptance with acceptance;
//! `--postfix-park defer` lets Postfix work as it is shipped, with a queue manager that looks
//! at each message and slows its clients down (`in_flow_delay`) when it falls behind.
//!
//! The machine may be noisy, so only ratios are worth keeping. Runs alternate between the
//! servers within a round; the table shows the medians of all rounds, and the ratios are
//! medians of each round's ratio. Everything is bounded in time, and every child ends with
//! this process.
//!
//! It knows SMTP, the command line and the configuration of Postmeter, and nothing inside it
//! but the stand-in for Dodo.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]

#[path = "accept/args.rs"]
mod args;
#[path = "accept/batches.rs"]
mod batches;
#[path = "accept/client.rs"]
mod client;
#[path = "accept/counters.rs"]
mod counters;
#[path = "crowd.rs"]
mod crowd;
#[path = "accept/crowds.rs"]
mod crowds;
#[path = "accept/database.rs"]
mod database;
#[path = "accept/dodo.rs"]
mod dodo;
#[path = "accept/fill.rs"]
mod fill;
// What tests make clusters with; the bench needs less of it.
#[allow(dead_code)]
#[path = "../integration/harness/postgres.rs"]
mod harness;
#[path = "accept/load.rs"]
mod load;
#[path = "accept/postmeter.rs"]
mod postmeter;
#[path = "accept/process.rs"]
mod process;
#[path = "accept/queued.rs"]
mod queued;
#[path = "accept/report.rs"]
mod report;
#[path = "accept/servers.rs"]
mod servers;
#[path = "accept/sink.rs"]
mod sink;
#[path = "accept/tls.rs"]
mod tls;
#[path = "accept/upstream.rs"]
mod upstream;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use args::Args;
use load::Load;
use report::Report;
use servers::Servers;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    allow_many_files()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if args.sink {
            return sink::child(args).await;
        }
        let limit = Duration::from_secs(args.max_minutes * 60);
        tokio::select! {
            done = tokio::time::timeout(limit, bench(args)) => match done {
                Ok(done) => done,
                Err(_) => bail!("not done after {} minutes", args.max_minutes),
            },
            stopped = stop_signal() => stopped,
        }
    })
}

/// Starts the servers, measures, stops them, prints. Dropping the future stops them too.
async fn bench(args: &Args) -> Result<()> {
    if args.crowds {
        return crowds::run(args).await;
    }
    if args.batches {
        return batches::run(args).await;
    }
    if let Some(count) = args.queued {
        return queued::waiting(count, args).await;
    }
    if let Some(count) = args.leaving {
        return queued::leaving(count, args).await;
    }
    let servers = Servers::start(args).await?;
    let mut report = Report::new(args);
    for server in servers.all() {
        let memory = load::idle_sessions(server, args).await.context(server.kind.name())?;
        report.memory(server.kind, memory);
    }
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        for server in servers.all() {
            let rate = load::new_sessions(server, args).await.context(server.kind.name())?;
            report.sessions(server.kind, rate);
        }
        for &connections in &args.connections {
            for server in servers.all() {
                let load = Load { connections, round };
                let figures = servers.run(server, &load, args).await.context(server.kind.name())?;
                eprintln!("  C={connections:<3} {:<13} {figures}", server.kind.name());
                report.messages(server.kind, connections, figures);
            }
        }
    }
    report.peak_memory(&servers);
    report.audits = servers.stop(args).await?;
    report.print(args.json)
}

/// Thousands of sessions need more than the 1,024 open files that many shells allow: starts
/// this program again with more, which its children inherit.
fn allow_many_files() -> Result<()> {
    const WANTED: u64 = 16_384;
    let limits = std::fs::read_to_string("/proc/self/limits").context("this bench needs Linux's /proc")?;
    let mut words =
        limits.lines().find_map(|l| l.strip_prefix("Max open files")).context("limits")?.split_whitespace();
    let (soft, hard) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let enough = |limit: &str| limit == "unlimited" || limit.parse::<u64>().is_ok_and(|n| n >= WANTED);
    if enough(soft) {
        return Ok(());
    }
    if !enough(hard) {
        bail!("{WANTED} open files are needed and at most {hard} are allowed");
    }
    let script = format!("ulimit -S -n {WANTED} && exec \"$0\" \"$@\"");
    let program = std::env::current_exe()?;
    Err(Command::new("sh").arg("-c").arg(script).arg(program).args(std::env::args_os().skip(1)).exec().into())
}

async fn stop_signal() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    bail!("stopped by a signal")
}
