//! What a server says that it has done: its metrics, and the log that its database wrote.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::within;

/// How long a server may take to say it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Since its start, all nodes together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Credits captured: messages that were sent, since each costs one.
    pub(crate) captured: f64,
    /// Gathered commits, the writes in them and the seconds that they took.
    commits: f64,
    writes: f64,
    commit_s: f64,
    /// Octets of PostgreSQL's write-ahead log.
    pub(crate) wal: Option<f64>,
}

/// What the store did in a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Work {
    pub(crate) commits_per_s: f64,
    pub(crate) writes_per_commit: f64,
    pub(crate) ms_per_commit: f64,
    pub(crate) wal_per_message: Option<f64>,
}

impl Counters {
    /// Reads them from each node's `/metrics`.
    pub(crate) async fn of(nodes: impl Iterator<Item = SocketAddr>) -> Result<Self> {
        let mut all = Self::default();
        for node in nodes {
            let metrics = within(PATIENCE, metrics(node)).await.context("its metrics")?;
            all.captured += sum(&metrics, "postmeter_credits_captured_total")?;
            all.commits += sum(&metrics, "postmeter_store_commit_seconds_count")?;
            all.commit_s += sum(&metrics, "postmeter_store_commit_seconds_sum")?;
            all.writes += sum(&metrics, "postmeter_store_batch_size_sum")?;
        }
        Ok(all)
    }

    /// What was done since then, for so many messages, in so many seconds.
    pub(crate) fn since(&self, before: &Self, messages: u64, seconds: f64) -> Work {
        let commits = self.commits - before.commits;
        Work {
            commits_per_s: commits / seconds,
            writes_per_commit: (self.writes - before.writes) / commits,
            ms_per_commit: (self.commit_s - before.commit_s) / commits * 1e3,
            wal_per_message: self.wal.zip(before.wal).map(|(now, then)| (now - then) / messages as f64),
        }
    }
}

async fn metrics(node: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(node).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// All series of that name.
fn sum(metrics: &str, name: &str) -> Result<f64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next())?
    });
    let values: Vec<&str> = values.collect();
    anyhow::ensure!(!values.is_empty(), "{name} is missing");
    values.into_iter().map(|value| Ok(value.parse::<f64>()?)).sum()
}
