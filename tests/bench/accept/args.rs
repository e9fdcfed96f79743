//! The options of the bench.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

/// Measures how fast mail is accepted, beside Postfix and beside a sink.
#[derive(Debug, Parser)]
#[command(name = "accept", about, long_about = None)]
pub(crate) struct Args {
    /// Servers to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "postmeter,postfix,sink")]
    pub(crate) targets: Vec<Kind>,
    /// How often everything is measured
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Connections of each run
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    pub(crate) connections: Vec<usize>,
    /// Messages of each run, at least
    #[arg(long, default_value_t = 10_000)]
    pub(crate) messages: u64,
    /// Octets of each message
    #[arg(long, default_value_t = 2_048)]
    pub(crate) message_bytes: usize,
    /// A run goes on for this time even if its messages are done: a shorter one says little
    #[arg(long, default_value_t = 3)]
    pub(crate) min_seconds: u64,
    /// A run ends after this time even if messages are left
    #[arg(long, default_value_t = 20)]
    pub(crate) max_seconds: u64,
    /// New sessions of each run, at least (8 at a time)
    #[arg(long, default_value_t = 2_000)]
    pub(crate) sessions: u64,
    /// Idle signed-in sessions while memory is read
    #[arg(long, default_value_t = 1_000)]
    pub(crate) idle: usize,
    /// One command at a time instead of MAIL, RCPT and DATA in one write
    #[arg(long)]
    pub(crate) no_pipelining: bool,
    /// What Postmeter delivers to
    #[arg(long, value_enum, default_value = "sink")]
    pub(crate) upstream: Upstream,
    /// How Postfix keeps its mail; see postfix.sh
    #[arg(long, value_enum, default_value = "hold")]
    pub(crate) postfix_park: Park,
    /// The program to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_postmeter"))]
    pub(crate) postmeter: PathBuf,
    /// Where queues and databases go: a real disk, since fsync is what is measured
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub(crate) dir: PathBuf,
    /// Leaves the directory with Postmeter's database and log
    #[arg(long)]
    pub(crate) keep: bool,
    /// Instead of all that: what very many slow clients cost Postmeter, in time and memory
    #[arg(long)]
    pub(crate) crowds: bool,
    /// Instead of all that: how fast a deep queue leaves through Resend's API, ten calls a second
    #[arg(long)]
    pub(crate) batches: bool,
    /// Instead of all that: what it costs the newest message that so many wait before it, beside
    /// the same on an empty database
    #[arg(long)]
    pub(crate) queued: Option<u64>,
    /// Instead of all that: what it costs mail that so many old messages leave the log meanwhile
    #[arg(long)]
    pub(crate) leaving: Option<u64>,
    /// Messages of those runs that are followed, one after the other, until the upstream has them
    #[arg(long, default_value_t = 300)]
    pub(crate) followed: u64,
    /// Shows what the tables have come to in the end
    #[arg(long)]
    pub(crate) tables: bool,
    /// Statements that PostgreSQL runs once its tables are there: other storage parameters, say
    #[arg(long)]
    pub(crate) database_sql: Option<String>,
    /// How long Resend's stand-in takes over each call then
    #[arg(long, default_value_t = 300)]
    pub(crate) resend_ms: u64,
    /// Slow clients of every kind, each from an address of its own
    #[arg(long, default_value_t = 5_000)]
    pub(crate) slow: usize,
    /// Messages of an ordinary client while they are there, each with a session of its own
    #[arg(long, default_value_t = 200)]
    pub(crate) mails: u64,
    /// Sessions that each send a large message slowly
    #[arg(long, default_value_t = 1_000)]
    pub(crate) large: usize,
    /// Octets of each of these
    #[arg(long, default_value_t = 10_000_000)]
    pub(crate) large_bytes: usize,
    /// How long each takes over it, if the server keeps up
    #[arg(long, default_value_t = 60)]
    pub(crate) large_seconds: u64,
    /// The whole bench ends after this time
    #[arg(long, default_value_t = 30)]
    pub(crate) max_minutes: u64,
    /// Prints every figure of every round as JSON instead of the table
    #[arg(long)]
    pub(crate) json: bool,

    /// Runs as the sink, until standard input ends
    #[arg(long, hide = true)]
    pub(crate) sink: bool,
    #[arg(long, hide = true, required_if_eq("sink", "true"))]
    pub(crate) cert: Option<PathBuf>,
    #[arg(long, hide = true, required_if_eq("sink", "true"))]
    pub(crate) key: Option<PathBuf>,
    /// `cargo bench` adds it
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Args {
    /// The kinds of Postmeter among the targets.
    pub(crate) fn postmeters(&self) -> impl Iterator<Item = Kind> {
        self.targets.iter().copied().filter(|kind| kind.nodes() > 0)
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Postmeter,
    /// On PostgreSQL
    PostmeterPg,
    /// Two nodes on one PostgreSQL
    PostmeterPg2,
    Postfix,
    Sink,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postmeter => "postmeter",
            Self::PostmeterPg => "postmeter-pg",
            Self::PostmeterPg2 => "postmeter-pg2",
            Self::Postfix => "postfix",
            Self::Sink => "sink",
        }
    }

    /// How many of Postmeter's nodes it is.
    pub(crate) fn nodes(self) -> usize {
        match self {
            Self::Postmeter | Self::PostmeterPg => 1,
            Self::PostmeterPg2 => 2,
            Self::Postfix | Self::Sink => 0,
        }
    }

    pub(crate) fn is_on_postgres(self) -> bool {
        matches!(self, Self::PostmeterPg | Self::PostmeterPg2)
    }
}

/// Where Postmeter's mail goes while it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Upstream {
    /// A server that accepts everything: acceptance, delivery and settlement at once
    Sink,
    /// A server that never answers: acceptance alone, as Postfix does with its mail on hold
    Silent,
}

impl Upstream {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Silent => "silent",
        }
    }
}

/// What Postfix does with what it accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Park {
    /// Straight into the hold queue
    Hold,
    /// Read by the queue manager and deferred
    Defer,
}

impl Park {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Defer => "defer",
        }
    }
}
