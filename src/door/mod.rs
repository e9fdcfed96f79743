//! The door: how connections come in, on whichever port. How many there may be in
//! all, who is at the other end, and how many each client may have.
//!
//! Where a proxy stands in front, it begins each connection with a PROXY header
//! ([`header`]) that names the client. From the proxies of the configuration one is
//! demanded, never guessed; from anybody else none is looked for, since whoever may
//! send one may claim any address. Exactly the header is read: the next octet
//! belongs to TLS, SMTP or HTTP. The address that comes out of here is the client's
//! in every log line, limit and trace header.
//!
//! Few shall not keep everybody else out: an address has so many places, a network
//! that one site is given has more, and where strangers sit on most of the places the
//! first of them makes room ([`Stranger`]).
//!
//! Whoever accepts takes a place first and asks for the rest in the connection's own
//! task, so that nobody waits for a header that does not come. What this must not
//! know: what is said on a connection.

pub mod header;
mod network;
mod strangers;
#[cfg(test)]
mod tests;

pub use network::{InvalidNetwork, Network};
pub use strangers::Stranger;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use header::{Header, Malformed, Parsed};
use strangers::Strangers;

use crate::census::{Census, Counted};
use crate::throttle::{network_of, site_of};

/// Wait after an accept that failed for a reason of ours: no descriptor, no memory.
const BACK_OFF: Duration = Duration::from_millis(200);
/// Of all places one site (an IPv6 /48) may have one in so many, or as many as one address.
const SITES_AT_LEAST: usize = 8;

/// Who may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time.
    pub max_connections: usize,
    /// Connections of one client at the same time; for IPv6 of one /64, and of one /48 an
    /// eighth of all.
    pub max_connections_per_ip: usize,
    /// Who asks for others and says so later: their connections are not limited by address.
    pub forwarding_proxies: Vec<Network>,
    /// Who must begin with a PROXY header.
    pub trusted_proxies: Vec<Network>,
    /// Longest wait for that header.
    pub proxy_header_timeout: Duration,
}

/// The door of one or several listeners, which count together.
#[derive(Debug)]
pub struct Door {
    places: Arc<Semaphore>,
    by_address: Arc<Census<IpAddr>>,
    by_site: Arc<Census<IpAddr>>,
    strangers: Arc<Strangers>,
    forwarding_proxies: Vec<Network>,
    trusted_proxies: Vec<Network>,
    proxy_header_timeout: Duration,
}

/// One of the connections that there may be; given back when dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A connection whose other end is known, counted until this is dropped.
#[derive(Debug)]
pub struct Guest {
    /// The client's address, an IPv4 address never in its IPv6 form.
    pub address: SocketAddr,
    /// By address and by site; a proxy's own connections are limited by neither.
    _counted: [Option<Counted<IpAddr>>; 2],
}

/// Why somebody does not come in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Enough connections of this client are there.
    #[error("too many connections of {0}")]
    Crowded(SocketAddr),
    /// A proxy did not say for whom it connects. Logged already.
    #[error(transparent)]
    Unannounced(#[from] Unannounced),
}

/// Why there is no PROXY header.
#[derive(Debug, thiserror::Error)]
pub enum Unannounced {
    /// Something else was sent.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The connection ended before.
    #[error("it closed before its PROXY header was whole")]
    Ended {
        /// Whether part of it had arrived.
        had_begun: bool,
    },
    /// It took too long.
    #[error("its PROXY header did not come in time")]
    TimedOut,
}

impl Door {
    /// A door at which nobody is yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS))),
            by_address: Census::new(limits.max_connections_per_ip),
            by_site: Census::new(limits.max_connections_per_ip.max(limits.max_connections / SITES_AT_LEAST)),
            strangers: Arc::default(),
            forwarding_proxies: limits.forwarding_proxies,
            trusted_proxies: limits.trusted_proxies,
            proxy_header_timeout: limits.proxy_header_timeout,
        }
    }

    /// A place, if there is one.
    pub fn place(&self) -> Option<Place> {
        Some(Place { _permit: Arc::clone(&self.places).try_acquire_owned().ok()? })
    }

    /// A place, as soon as there is one.
    pub async fn free_place(&self) -> Option<Place> {
        // The semaphore is never closed, so there is one in the end.
        Some(Place { _permit: Arc::clone(&self.places).acquire_owned().await.ok()? })
    }

    /// Whoever was accepted then, has a place and has come in is a stranger until a
    /// sign-in; perhaps another one has to go for it.
    pub fn stranger(&self, came: Instant, stop: &CancellationToken) -> Stranger {
        self.strangers.add(self.places.available_permits(), came, stop)
    }

    /// Finds out who is at the other end of a fresh connection from `peer`, and counts
    /// it. Nothing is read but a proxy's header.
    ///
    /// # Errors
    /// The connection is to be closed.
    pub async fn enter<S>(&self, socket: &mut S, peer: SocketAddr) -> Result<Guest, Refused>
    where
        S: AsyncRead + Unpin,
    {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if !is_one_of(&self.trusted_proxies, peer) {
            return self.counted(peer);
        }
        let announced = timeout(self.proxy_header_timeout, announced(socket)).await;
        match announced.unwrap_or(Err(Unannounced::TimedOut)) {
            Ok(Header { source: Some(client), .. }) => self.counted(client),
            Ok(Header { source: None, .. }) => Ok(Guest { address: peer, _counted: [None, None] }),
            Err(error) => {
                told(peer, &error);
                Err(error.into())
            }
        }
    }

    fn counted(&self, client: SocketAddr) -> Result<Guest, Refused> {
        if is_one_of(&self.forwarding_proxies, client) {
            return Ok(Guest { address: client, _counted: [None, None] });
        }
        let address = self.by_address.count(network_of(client.ip())).ok_or(Refused::Crowded(client))?;
        let site = match site_of(client.ip()) {
            Some(site) => Some(self.by_site.count(site).ok_or(Refused::Crowded(client))?),
            None => None,
        };
        Ok(Guest { address: client, _counted: [Some(address), site] })
    }
}

fn is_one_of(networks: &[Network], client: SocketAddr) -> bool {
    networks.iter().any(|network| network.contains(client.ip()))
}

/// Reads the header, and not an octet more.
async fn announced<S: AsyncRead + Unpin>(socket: &mut S) -> Result<Header, Unannounced> {
    let mut octets = BytesMut::new();
    loop {
        let missing = match header::parse(&octets)? {
            Parsed::Whole(header) => return Ok(header),
            Parsed::Partial { missing } => missing,
        };
        octets.reserve(missing);
        let had_begun = !octets.is_empty();
        match socket.read_buf(&mut (&mut octets).limit(missing)).await {
            Ok(0) | Err(_) => return Err(Unannounced::Ended { had_begun }),
            Ok(_) => {}
        }
    }
}

/// A proxy that connects and goes again looks whether the port is open.
fn told(peer: SocketAddr, error: &Unannounced) {
    if matches!(error, Unannounced::Ended { had_begun: false }) {
        tracing::debug!(%peer, %error, "a trusted proxy was closed");
    } else {
        tracing::warn!(%peer, %error, "a trusted proxy was closed: it must begin with a PROXY header");
    }
}

/// The next connection. What is wrong on our side is logged and waited out.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                // Answers are whole batches already; waiting for more only delays them.
                let _ = socket.set_nodelay(true);
                return (socket, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted now; raise the limit of open files?");
                sleep(BACK_OFF).await;
            }
        }
    }
}
