//! Starts and stops what is measured. Every server is a child of the bench, on loopback, with
//! its files in one directory that goes when the bench does.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_rustls::TlsConnector;

use crate::args::{Args, Kind, Park};
use crate::client::{Endpoint, Session};
use crate::load::{Figures, Load};
use crate::postmeter::Postmeter;
use crate::process::{PATIENCE, Process};
use crate::tls;

/// One server and where to submit.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    /// Of each node.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Whose memory is read; none where sessions are processes.
    pub(crate) pid: Option<u32>,
    /// Messages that it said 250 to.
    pub(crate) accepted: AtomicU64,
}

/// All that run. Dropping it stops them.
pub(crate) struct Servers {
    servers: Vec<Server>,
    // Fields drop in this order: the processes first, then their files.
    postmeters: BTreeMap<Kind, Postmeter>,
    postfix: Option<Postfix>,
    _sink: Option<Process>,
    _ground: Ground,
}

impl Servers {
    /// Starts what `--targets` names; fails with what to do where something is missing.
    pub(crate) async fn start(args: &Args) -> Result<Self> {
        let ground = Ground::new(args)?;
        let connector = tls::connector()?;
        let (mut postmeters, mut postfix, mut sink) = (BTreeMap::new(), None, None);
        let mut servers = Vec::new();
        for &kind in &args.targets {
            let (endpoint, pid) = match kind {
                Kind::Postmeter | Kind::PostmeterPg | Kind::PostmeterPg2 => {
                    let started = Postmeter::start(args, &ground, &connector, kind).await;
                    let started = started.context(kind.name())?;
                    servers.push(started.server());
                    postmeters.insert(kind, started);
                    continue;
                }
                Kind::Postfix => {
                    let (started, endpoint) = Postfix::start(args.postfix_park, &ground, &connector).await?;
                    postfix = Some(started);
                    (endpoint, None)
                }
                Kind::Sink => {
                    let (child, endpoint) = start_sink(&ground, &connector).await.context("sink")?;
                    let pid = Some(child.id());
                    sink = Some(child);
                    (endpoint, pid)
                }
            };
            servers.push(Server { kind, endpoints: vec![endpoint], pid, accepted: AtomicU64::new(0) });
        }
        Ok(Self { servers, postmeters, postfix, _sink: sink, _ground: ground })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter()
    }

    /// A run of messages, and then a wait until the server has done what it still owes for them,
    /// so that the next run, of whatever server, has the machine to itself.
    pub(crate) async fn run(&self, server: &Server, load: &Load, args: &Args) -> Result<Figures> {
        if let Some(postmeter) = self.postmeters.get(&server.kind) {
            return postmeter.run(server, load, args).await;
        }
        let figures = load.run(server, args).await?;
        let begin = Instant::now();
        while !self.postfix.as_ref().map_or(Ok(true), Postfix::is_idle)? && begin.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(figures)
    }

    /// Stops every Postmeter the gentle way and returns what its audit said of the books.
    pub(crate) async fn stop(self, args: &Args) -> Result<BTreeMap<Kind, String>> {
        let mut audits = BTreeMap::new();
        for (kind, postmeter) in self.postmeters {
            if args.tables {
                eprintln!("{}:\n{}", kind.name(), postmeter.database.tables()?);
            }
            audits.insert(kind, postmeter.stop_and_audit().await?);
        }
        Ok(audits)
    }
}

/// The directory of this run, with the certificate that all servers show.
pub(crate) struct Ground {
    pub(crate) dir: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    keep: bool,
}

impl Ground {
    pub(crate) fn new(args: &Args) -> Result<Self> {
        let dir = args.dir.join(format!("accept-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let dir = dir.canonicalize()?;
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        let ground = Self { dir, cert, key, keep: args.keep };
        tls::make_certificate(&ground.cert, &ground.key)?;
        Ok(ground)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept: {}", self.dir.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("{}: {error}", self.dir.display());
        }
    }
}

async fn start_sink(ground: &Ground, connector: &TlsConnector) -> Result<(Process, Endpoint)> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("--sink")
        .args([Path::new("--cert"), &ground.cert, Path::new("--key"), &ground.key])
        .stdin(Stdio::piped());
    let (process, addr) = Process::serve(&mut command).await?;
    let (username, secret) = ("bench".to_owned(), "bench-secret".to_owned());
    let endpoint = Endpoint { addr: addr.parse()?, username, secret, connector: connector.clone() };
    Ok((process, endpoint))
}

/// The private instance that `postfix.sh` starts; dropping it stops it.
struct Postfix {
    dir: PathBuf,
}

impl Postfix {
    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/postfix.sh");

    async fn start(park: Park, ground: &Ground, connector: &TlsConnector) -> Result<(Self, Endpoint)> {
        let addr = free_address()?;
        let (username, secret) = ("bench".to_owned(), "bench-secret".to_owned());
        let this = Self { dir: ground.dir.join("postfix") };
        let mut command = Command::new(Self::SCRIPT);
        command
            .arg("start")
            .arg(&this.dir)
            .arg(addr.port().to_string())
            .args([&ground.cert, &ground.key])
            .args([&username, &secret])
            .env("PARK", park.name())
            .stderr(std::fs::File::create(ground.dir.join("postfix.log"))?);
        let (started, _) = Process::run(&mut command, PATIENCE).await.context("starting postfix")?;
        if !started.success() {
            let log = std::fs::read_to_string(ground.dir.join("postfix.log"))?;
            bail!(
                "postfix did not start: {log}\nrun as root `tests/bench/postfix.sh install`, \
                 or leave it out: --targets postmeter,sink"
            );
        }
        let endpoint = Endpoint { addr, username, secret, connector: connector.clone() };
        let begin = Instant::now();
        while let Err(error) = Session::open(&endpoint).await {
            if begin.elapsed() > PATIENCE {
                return Err(error.context("postfix does not answer"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok((this, endpoint))
    }
}

impl Postfix {
    /// Nothing waits for the queue manager or is in its hands.
    fn is_idle(&self) -> Result<bool> {
        let queue = self.dir.join("queue");
        Ok(std::fs::read_dir(queue.join("incoming"))?.next().is_none()
            && std::fs::read_dir(queue.join("active"))?.next().is_none())
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let stopped = Command::new(Self::SCRIPT)
            .arg("stop")
            .arg(&self.dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("postfix may still run: {} stop {}", Self::SCRIPT, self.dir.display());
        }
    }
}

/// A port that was free a moment ago, for a server that cannot choose one by itself.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
