//! Postmeter as an operator would run it: a configuration file, the command line for a customer
//! with its credential and sender, then `serve`, on a file or on a PostgreSQL of the bench's own,
//! which two nodes may share. Around it stand an upstream that swallows mail and a stand-in for
//! Dodo with plenty of credits.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use postmeter::sandbox::resend::ResendStandIn;
use tokio_rustls::TlsConnector;

use crate::args::{Args, Kind};
use crate::client::Endpoint;
use crate::counters::Counters;
use crate::crowd::PROXIES;
use crate::database::Database;
use crate::dodo::{self, Dodo};
use crate::fill::Fill;
use crate::load::{Figures, Load};
use crate::process::{PATIENCE, Process};
use crate::servers::{Ground, Server};
use crate::upstream::UpstreamServer;

const CUSTOMER: &str = "cus_bench";
/// How long the audit of a full database may take.
const AUDIT: Duration = Duration::from_secs(1_200);

/// What is to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    /// What stands in its database before.
    pub(crate) fill: Option<Fill>,
}

impl From<Kind> for Setup {
    fn from(kind: Kind) -> Self {
        Self { kind, fill: None }
    }
}

/// `postmeter serve`, once or several times, and what stands around it. Dropping it kills the
/// children.
pub(crate) struct Postmeter {
    pub(crate) endpoint: Endpoint,
    /// Implicit TLS.
    pub(crate) smtps: SocketAddr,
    kind: Kind,
    /// One at least.
    nodes: Vec<Node>,
    pub(crate) database: Database,
    pub(crate) upstream: UpstreamServer,
    dodo: Dodo,
}

struct Node {
    process: Process,
    program: Program,
    smtp: SocketAddr,
    smtps: SocketAddr,
    http: SocketAddr,
}

impl Postmeter {
    pub(crate) async fn start(
        args: &Args,
        ground: &Ground,
        connector: &TlsConnector,
        setup: impl Into<Setup>,
    ) -> Result<Self> {
        let Setup { kind, fill } = setup.into();
        let name = format!("{}{}", kind.name(), if fill.is_some() { "-full" } else { "" });
        let upstream = UpstreamServer::start(args.upstream).await?;
        let dodo = dodo::start(CUSTOMER).await.context("the stand-in for Dodo")?;
        let database = Database::start(kind, ground.dir.join(format!("{name}-data-1")))?;
        let mut environment = dodo.environment.clone();
        environment.push(("UPSTREAM_SMTP_URL".into(), format!("smtp://{}", upstream.addr)));
        environment.push(("BASE_URL".into(), "http://127.0.0.1:3000".into()));
        environment.extend(database.url().map(|url| ("DATABASE_URL".into(), url)));
        let mut programs = Vec::new();
        for number in 1..=kind.nodes() {
            let config = ground.dir.join(format!("{name}-{number}.toml"));
            let data = ground.dir.join(format!("{name}-data-{number}"));
            std::fs::write(&config, configuration(ground, &data, args.batches))?;
            let log = ground.dir.join(format!("{name}-{number}.log"));
            programs.push(Program {
                path: args.postmeter.clone(),
                config,
                environment: environment.clone(),
                log,
            });
        }
        let (username, secret) = programs[0].sign_up().await?;
        if let Some(statements) = &args.database_sql {
            database.run(statements);
        }
        if let Some(fill) = fill {
            database.fill(fill).await.context("filling the database")?;
        }
        let mut nodes = Vec::new();
        for program in programs {
            nodes.push(Node::start(program).await?);
        }
        let (addr, smtps) = (nodes[0].smtp, nodes[0].smtps);
        let endpoint = Endpoint { addr, username, secret, connector: connector.clone() };
        Ok(Self { endpoint, smtps, kind, nodes, database, upstream, dodo })
    }

    /// Where to submit, and whose memory is read: the first node's, where there are several.
    pub(crate) fn server(&self) -> Server {
        let endpoint = |node: &Node| Endpoint { addr: node.smtp, ..self.endpoint.clone() };
        Server {
            kind: self.kind,
            endpoints: self.nodes.iter().map(endpoint).collect(),
            pid: Some(self.pid()),
            accepted: AtomicU64::new(0),
        }
    }

    /// Where mail leaves that goes by Resend's API.
    pub(crate) fn resend(&self) -> &ResendStandIn {
        &self.dodo.stand_ins.resend
    }

    pub(crate) fn pid(&self) -> u32 {
        self.nodes[0].process.id()
    }

    /// A run of messages, until all of them are sent and captured, unless the upstream takes none.
    pub(crate) async fn run(&self, server: &Server, load: &Load, args: &Args) -> Result<Figures> {
        let before = self.counters().await?;
        let mut figures = load.run(server, args).await?;
        if self.upstream.taken().is_some() {
            figures.completed_per_s = self.rest(server).await?.map(|at| figures.per_s_until(at));
        }
        let seconds = figures.began.elapsed().as_secs_f64();
        let work = self.counters().await?.since(&before, figures.messages, seconds);
        figures.work = Some(work);
        Ok(figures)
    }

    /// When everything that was accepted has been sent and captured; nothing, if that takes too long.
    async fn rest(&self, server: &Server) -> Result<Option<Instant>> {
        let accepted = server.accepted.load(Ordering::Relaxed);
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if self.upstream.taken().is_none_or(|taken| taken >= accepted)
                && self.counters().await?.captured >= accepted as f64
            {
                return Ok(Some(Instant::now()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eprintln!("    still at work; the next run shares the machine");
        Ok(None)
    }

    async fn counters(&self) -> Result<Counters> {
        let mut counters = Counters::of(self.nodes.iter().map(|node| node.http)).await?;
        counters.wal = self.database.wal();
        Ok(counters)
    }

    /// SIGTERM, then `audit` on the database that is left.
    pub(crate) async fn stop_and_audit(mut self) -> Result<String> {
        for node in &mut self.nodes {
            node.stop().await?;
        }
        self.nodes[0].program.run_for(&["audit"], AUDIT).await
    }
}

impl Node {
    async fn start(program: Program) -> Result<Self> {
        let serve = Process::serve(&mut program.command(&["serve"])?).await;
        let (process, ready) = serve.with_context(|| program.log_tail())?;
        let address = |name: &str| -> Result<SocketAddr> {
            let found = ready.split(' ').find_map(|word| word.strip_prefix(name));
            Ok(found.with_context(|| ready.clone())?.parse()?)
        };
        let (smtp, smtps, http) = (address("smtp=")?, address("smtps=")?, address("http=")?);
        Ok(Self { process, program, smtp, smtps, http })
    }

    async fn stop(&mut self) -> Result<()> {
        let pid = self.process.id().to_string();
        Process::run(Command::new("kill").args(["-TERM", &pid]), PATIENCE).await?;
        let ended = self.process.wait(PATIENCE).await?;
        if !ended.success() {
            bail!("it stopped with {ended}\n{}", self.program.log_tail());
        }
        Ok(())
    }
}

fn configuration(ground: &Ground, data: &Path, by_resend: bool) -> String {
    // A JSON string is a TOML basic string too.
    let path = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
    format!(
        "data_dir = {data}\n\
         [smtp]\n\
         hostname = \"postmeter.bench.example\"\n\
         submission = [\"127.0.0.1:0\"]\n\
         submissions = [\"127.0.0.1:0\"]\n\
         tls_cert = {cert}\n\
         tls_key = {key}\n\
         max_connections_per_ip = 10000\n\
         max_bytes_arriving_per_customer = 536870912\n\
         max_bytes_spooled = 1000000000000\n\
         max_bytes_spooled_per_customer = 1000000000000\n\
         max_sessions_per_customer = 10000\n\
         trusted_proxies = [\"{PROXIES}\"]\n\
         [http]\n\
         listen = \"127.0.0.1:0\"\n\
         [upstream]\n\
         kind = \"{kind}\"\n\
         allow_plaintext = true\n\
         [notices]\n\
         from = \"Postmeter <postmaster@bench.example>\"\n",
        kind = if by_resend { "resend" } else { "smtp" },
        data = path(data),
        cert = path(&ground.cert),
        key = path(&ground.key),
    )
}

/// The program under test, always with the same configuration and environment, its log in a
/// file, and nothing of the caller's environment but PATH.
struct Program {
    path: PathBuf,
    config: PathBuf,
    environment: Vec<(String, String)>,
    log: PathBuf,
}

impl Program {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.path);
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stderr(log);
        Ok(command)
    }

    /// A customer who may send: its username and secret.
    async fn sign_up(&self) -> Result<(String, String)> {
        self.run(&["customer", "add", CUSTOMER]).await?;
        self.run(&["sender", "allow", CUSTOMER, "bench.example"]).await?;
        let created = self.run(&["credential", "create", "--customer", CUSTOMER, "--json"]).await?;
        let created: serde_json::Value =
            serde_json::from_str(&created).context("credential create --json")?;
        let field = |name: &str| created[name].as_str().map(str::to_owned).context(name.to_owned());
        Ok((field("username")?, field("secret")?))
    }

    /// Runs a command to its end and returns what it printed.
    async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_for(arguments, PATIENCE).await
    }

    async fn run_for(&self, arguments: &[&str], patience: Duration) -> Result<String> {
        let what = arguments.join(" ");
        let ran = Process::run(&mut self.command(arguments)?, patience).await;
        let (status, printed) = ran.context(what.clone())?;
        if !status.success() {
            bail!("{what}: {status}\n{printed}\n{}", self.log_tail());
        }
        Ok(printed)
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
