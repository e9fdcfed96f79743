//! What Postmeter delivers to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;

use crate::args::Upstream;
use crate::sink;

/// How long a mail may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How exactly it is known when one has come.
const LOOK: Duration = Duration::from_micros(100);

/// The server, with a thread and a runtime of its own so that the generator's latencies do not
/// include it.
pub(crate) struct UpstreamServer {
    pub(crate) addr: SocketAddr,
    /// Messages taken; none where it never answers.
    messages: Option<Arc<AtomicU64>>,
    /// Keeps the silent one listening: the kernel accepts, and nobody greets.
    _silent: Option<TcpListener>,
}

impl UpstreamServer {
    pub(crate) async fn start(kind: Upstream) -> Result<Self> {
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

    /// How many messages it has taken; none where it takes none.
    pub(crate) fn taken(&self) -> Option<u64> {
        self.messages.as_ref().map(|messages| messages.load(Ordering::Relaxed))
    }

    /// When it has taken more than so many.
    pub(crate) async fn more_than(&self, before: u64) -> Result<Instant> {
        let messages = Arc::clone(self.messages.as_ref().context("the upstream takes no mail")?);
        let begin = Instant::now();
        let looked = tokio::task::spawn_blocking(move || {
            while messages.load(Ordering::Relaxed) <= before && begin.elapsed() < PATIENCE {
                std::thread::sleep(LOOK);
            }
            (Instant::now(), messages.load(Ordering::Relaxed) > before)
        });
        let (at, has_come) = looked.await?;
        ensure!(has_come, "a message did not come in {PATIENCE:?}");
        Ok(at)
    }
}
