//! Postmeter as an operator would run it: a configuration file, the command line for a customer
//! with its credential and sender, then `serve`. Around it stand an upstream that swallows mail
//! and a stand-in for Dodo with plenty of credits.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use postmeter::sandbox::resend::ResendStandIn;
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use crate::args::{Args, Upstream};
use crate::client::Endpoint;
use crate::crowd::PROXIES;
use crate::dodo::{self, Dodo};
use crate::process::Process;
use crate::servers::Ground;
use crate::sink;

const CUSTOMER: &str = "cus_bench";

/// `postmeter serve` and what stands around it. Dropping it kills the child.
pub(crate) struct Postmeter {
    pub(crate) endpoint: Endpoint,
    /// Implicit TLS.
    pub(crate) smtps: SocketAddr,
    process: Process,
    program: Program,
    upstream: UpstreamServer,
    dodo: Dodo,
}

impl Postmeter {
    pub(crate) async fn start(args: &Args, ground: &Ground, connector: &TlsConnector) -> Result<Self> {
        let upstream = UpstreamServer::start(args.upstream).await?;
        let dodo = dodo::start(CUSTOMER).await.context("the stand-in for Dodo")?;
        let config = ground.dir.join("postmeter.toml");
        std::fs::write(&config, configuration(ground, args.batches))?;
        let mut environment = dodo.environment.clone();
        environment.push(("UPSTREAM_SMTP_URL".into(), format!("smtp://{}", upstream.addr)));
        environment.push(("BASE_URL".into(), "http://127.0.0.1:3000".into()));
        let program = Program {
            path: args.postmeter.clone(),
            config,
            environment,
            log: ground.dir.join("postmeter.log"),
        };

        program.run(&["customer", "add", CUSTOMER]).await?;
        program.run(&["sender", "allow", CUSTOMER, "bench.example"]).await?;
        let created = program.run(&["credential", "create", "--customer", CUSTOMER, "--json"]).await?;
        let created: serde_json::Value =
            serde_json::from_str(&created).context("credential create --json")?;
        let field = |name: &str| created[name].as_str().map(str::to_owned).context(name.to_owned());
        let (username, secret) = (field("username")?, field("secret")?);

        let serve = Process::serve(&mut program.command(&["serve"])?).await;
        let (process, ready) = serve.with_context(|| program.log_tail())?;
        let address = |name: &str| -> Result<SocketAddr> {
            let found = ready.split(' ').find_map(|word| word.strip_prefix(name));
            Ok(found.with_context(|| ready.clone())?.parse()?)
        };
        let (addr, smtps) = (address("smtp=")?, address("smtps=")?);
        let endpoint = Endpoint { addr, username, secret, connector: connector.clone() };
        Ok(Self { endpoint, smtps, process, program, upstream, dodo })
    }

    /// Where mail leaves that goes by Resend's API.
    pub(crate) fn resend(&self) -> &ResendStandIn {
        &self.dodo.stand_ins.resend
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether the upstream has got as many messages; true if it takes none.
    pub(crate) fn has_delivered(&self, accepted: u64) -> bool {
        self.upstream.messages.as_ref().is_none_or(|taken| taken.load(Ordering::Relaxed) >= accepted)
    }

    /// SIGTERM, then `audit` on the database that is left.
    pub(crate) async fn stop_and_audit(mut self) -> Result<String> {
        let pid = self.process.id().to_string();
        Process::run(Command::new("kill").args(["-TERM", &pid])).await?;
        let ended = self.process.wait().await?;
        if !ended.success() {
            bail!("it stopped with {ended}\n{}", self.program.log_tail());
        }
        self.program.run(&["audit"]).await
    }
}

fn configuration(ground: &Ground, by_resend: bool) -> String {
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
        data = path(&ground.dir.join("postmeter-data")),
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

    /// Runs a command to its end and returns what it printed.
    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let what = arguments.join(" ");
        let (status, printed) = Process::run(&mut self.command(arguments)?).await.context(what.clone())?;
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

/// What Postmeter delivers to, with a thread and a runtime of its own so that the generator's
/// latencies do not include it.
struct UpstreamServer {
    addr: SocketAddr,
    /// Messages taken; none where it never answers.
    messages: Option<Arc<AtomicU64>>,
    /// Keeps the silent one listening: the kernel accepts, and nobody greets.
    _silent: Option<TcpListener>,
}

impl UpstreamServer {
    async fn start(kind: Upstream) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        if kind == Upstream::Silent {
            return Ok(Self { addr, messages: None, _silent: Some(listener) });
        }
        let messages = Arc::new(AtomicU64::new(0));
        let (listener, counter) = (listener.into_std()?, Arc::clone(&messages));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async { sink::serve(TcpListener::from_std(listener)?, None, counter).await })
        });
        Ok(Self { addr, messages: Some(messages), _silent: None })
    }
}
