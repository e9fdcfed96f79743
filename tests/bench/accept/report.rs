//! Medians and ratios, as a table for people or as JSON with every figure.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::args::{Args, Kind};
use crate::load::{Figures, Memory, memory_kib};
use crate::servers::Servers;

/// What this bench asks of Postmeter, at 64 connections and with 1,000 idle sessions.
const TIMES_POSTFIX: f64 = 10.0;
const PART_OF_SINK: f64 = 0.25;
const IDLE_KIB: u64 = 64 * 1_024;
/// Whose figures are divided by whose, where both were measured.
const RATIOS: [(Kind, Kind); 4] = [
    (Kind::Postmeter, Kind::Postfix),
    (Kind::Postmeter, Kind::Sink),
    (Kind::PostmeterPg, Kind::Postmeter),
    (Kind::PostmeterPg2, Kind::PostmeterPg),
];

/// Everything measured, by server and in the order of the rounds.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: String,
    load_average_before: String,
    messages: u64,
    message_bytes: usize,
    pipelining: bool,
    upstream: &'static str,
    postfix_park: &'static str,
    idle: usize,
    #[serde(skip)]
    kinds: Vec<Kind>,
    servers: BTreeMap<Kind, Measured>,
    /// What `postmeter audit` printed afterwards.
    pub(crate) audits: BTreeMap<Kind, String>,
}

#[derive(Default, Serialize)]
struct Measured {
    runs: BTreeMap<usize, Vec<Figures>>,
    sessions_per_s: Vec<f64>,
    memory: Option<Memory>,
    peak_kib: Option<u64>,
}

impl Report {
    pub(crate) fn new(args: &Args) -> Self {
        Self {
            machine: machine(),
            load_average_before: std::fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            messages: args.messages,
            message_bytes: args.message_bytes,
            pipelining: !args.no_pipelining,
            upstream: args.upstream.name(),
            postfix_park: args.postfix_park.name(),
            idle: args.idle,
            kinds: args.targets.clone(),
            servers: BTreeMap::new(),
            audits: BTreeMap::new(),
        }
    }

    pub(crate) fn messages(&mut self, kind: Kind, connections: usize, figures: Figures) {
        self.servers.entry(kind).or_default().runs.entry(connections).or_default().push(figures);
    }

    pub(crate) fn sessions(&mut self, kind: Kind, per_s: f64) {
        self.servers.entry(kind).or_default().sessions_per_s.push(per_s);
    }

    pub(crate) fn memory(&mut self, kind: Kind, memory: Option<Memory>) {
        self.servers.entry(kind).or_default().memory = memory;
    }

    /// The most that each process ever had, after all the load.
    pub(crate) fn peak_memory(&mut self, servers: &Servers) {
        for server in servers.all() {
            let peak = server.pid.and_then(|pid| memory_kib(pid, "VmHWM:").ok());
            self.servers.entry(server.kind).or_default().peak_kib = peak;
        }
    }

    pub(crate) fn print(&self, json: bool) -> Result<()> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
            return Ok(());
        }
        println!("machine: {}; load average before: {}", self.machine, self.load_average_before);
        let how = if self.pipelining { "MAIL, RCPT and DATA in one write" } else { "one command at a time" };
        println!(
            "{} messages of {} octets a run at least, {how}; medians",
            self.messages, self.message_bytes
        );
        println!("postmeter's upstream: {}; postfix's mail: {}\n", self.upstream, self.postfix_park);
        let divided = self.ratios().map(|(ours, other)| Some(format!("{}/{}", short(ours), short(other))));
        self.row("", |kind| Some(kind.name().to_owned()), divided.collect());
        let connections: Vec<usize> =
            self.servers.values().next().map(|m| m.runs.keys().copied().collect()).unwrap_or_default();
        for c in connections {
            self.figures(&format!("C={c} messages/s"), 0, |m| m.series(c, |f| f.per_s));
            self.figures(&format!("C={c} p50 ms"), 2, |m| m.series(c, |f| f.p50_ms));
            self.figures(&format!("C={c} p99 ms"), 2, |m| m.series(c, |f| f.p99_ms));
            self.figures(&format!("C={c} completed/s"), 0, |m| m.some(c, |f| f.completed_per_s));
            self.figures(&format!("C={c} commits/s"), 0, |m| {
                m.some(c, |f| Some(f.work.as_ref()?.commits_per_s))
            });
            self.figures(&format!("C={c} writes a commit"), 1, |m| {
                m.some(c, |f| Some(f.work.as_ref()?.writes_per_commit))
            });
            self.figures(&format!("C={c} ms a commit"), 2, |m| {
                m.some(c, |f| Some(f.work.as_ref()?.ms_per_commit))
            });
            self.figures(&format!("C={c} log a message"), 0, |m| {
                m.some(c, |f| f.work.as_ref()?.wal_per_message)
            });
        }
        self.figures("new sessions/s, C=8", 0, |m| m.sessions_per_s.clone());
        self.memory_row("memory before, MiB", |m| m.memory.map(|m| m.before_kib));
        self.memory_row(&format!("with {} idle, MiB", self.idle), |m| m.memory.map(|m| m.with_idle_kib));
        self.memory_row("peak after load, MiB", |m| m.peak_kib);
        println!();
        self.verdicts();
        for (kind, audit) in &self.audits {
            println!("{} audit: {audit}", kind.name());
        }
        Ok(())
    }

    fn verdicts(&self) {
        let of = |other| self.ratio(Kind::Postmeter, other, &|m: &Measured| m.series(64, |f| f.per_s));
        let verdict =
            |what: String, met: bool| println!("{}  {what}", if met { "met    " } else { "NOT MET" });
        if let Some(times) = of(Kind::Postfix) {
            let what = format!("{times:.1} times Postfix at 64 connections (required: {TIMES_POSTFIX})");
            verdict(what, times >= TIMES_POSTFIX);
        }
        if let Some(part) = of(Kind::Sink) {
            let what = format!("{part:.2} of the sink at 64 connections (required: {PART_OF_SINK})");
            verdict(what, part >= PART_OF_SINK);
        }
        if let Some(memory) = self.servers.get(&Kind::Postmeter).and_then(|m| m.memory) {
            let (now, limit) = (memory.with_idle_kib / 1_024, IDLE_KIB / 1_024);
            let what = format!("{now} MiB with {} idle sessions (required: under {limit})", self.idle);
            verdict(what, memory.with_idle_kib < IDLE_KIB);
        }
    }

    fn figures(&self, label: &str, digits: usize, series: impl Fn(&Measured) -> Vec<f64>) {
        let ratios = self.ratios().map(|(ours, other)| {
            let ratio = self.ratio(ours, other, &series)?;
            Some(format!("{ratio:.2}"))
        });
        let ratios = ratios.collect();
        let cell = |kind| {
            let value = median(series(self.servers.get(&kind)?))?;
            Some(format!("{value:.digits$}"))
        };
        if !self.kinds.iter().any(|kind| cell(*kind).is_some()) {
            return;
        }
        self.row(label, cell, ratios);
    }

    fn memory_row(&self, label: &str, kib: impl Fn(&Measured) -> Option<u64>) {
        let cell = |kind| {
            let kib = kib(self.servers.get(&kind)?)?;
            Some(format!("{:.1}", kib as f64 / 1_024.0))
        };
        self.row(label, cell, Vec::new());
    }

    fn row(&self, label: &str, cell: impl Fn(Kind) -> Option<String>, ratios: Vec<Option<String>>) {
        let cells = self.kinds.iter().map(|kind| cell(*kind));
        let line: String = cells
            .chain(ratios)
            .map(|cell| format!("{:>15}", cell.unwrap_or_else(|| "-".to_owned())))
            .collect();
        println!("{label:<21}{line}");
    }

    fn ratios(&self) -> impl Iterator<Item = (Kind, Kind)> {
        RATIOS.into_iter().filter(|(ours, other)| self.kinds.contains(ours) && self.kinds.contains(other))
    }

    /// The median of each round's ratio: the two figures of a round are seconds apart.
    fn ratio(&self, ours: Kind, other: Kind, series: &impl Fn(&Measured) -> Vec<f64>) -> Option<f64> {
        let (ours, other) = (series(self.servers.get(&ours)?), series(self.servers.get(&other)?));
        median(ours.into_iter().zip(other).map(|(a, b)| a / b).collect())
    }
}

impl Measured {
    fn series(&self, connections: usize, pick: impl Fn(&Figures) -> f64) -> Vec<f64> {
        self.some(connections, |figures| Some(pick(figures)))
    }

    /// What each run has; a ratio needs it of every run.
    fn some(&self, connections: usize, pick: impl Fn(&Figures) -> Option<f64>) -> Vec<f64> {
        self.runs.get(&connections).into_iter().flatten().filter_map(pick).collect()
    }
}

/// A name that fits a column with another.
fn short(kind: Kind) -> &'static str {
    kind.name().trim_start_matches("postmeter-")
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    format!("{cores} cores of {model}")
}
