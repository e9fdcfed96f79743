//! The door of the HTTP side: how many come in at once, and how long one that
//! says nothing may stay, and who is at the other end. What comes through it is not
//! looked at here.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::serve::{IncomingStream, Listener};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::{Shared, Site};
use crate::telemetry::{self, Metrics, OpenConnection};

/// Connections at the same time; the next waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 4_096;
/// A connection on which not an octet moves for so long is closed.
const IDLE: Duration = Duration::from_secs(75);

/// A listener that counts and bounds what it lets in.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    metrics: Metrics,
}

impl Door {
    pub(super) fn new(listener: TcpListener, metrics: Metrics) -> Self {
        Self { listener, permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)), metrics }
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed, so there is always a permit in the end.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        // Only speed is at stake.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            stream,
            idle: Box::pin(tokio::time::sleep(IDLE)),
            _permit: permit,
            _counted: self.metrics.connection(telemetry::Listener::Http),
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing moves on it.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
    _counted: OpenConnection,
}

impl Connection {
    /// What moves starts the clock again; what waits too long is an error.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, step: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if step.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return step;
        }
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.bounded(cx, step)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, step)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, step)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The address at the other end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Peer {
    /// Who asks: the address at the other end, or the one for which a trusted proxy asks.
    pub(super) fn find(parts: &Parts, site: &Site) -> Self {
        let info = parts.extensions.get::<ConnectInfo<Self>>();
        let Self(connected) = info.map_or(Self((Ipv6Addr::UNSPECIFIED, 0).into()), |ConnectInfo(peer)| *peer);
        Self(behind_proxies(connected, &parts.headers, &site.settings.trusted_proxies))
    }
}

/// The last address of `X-Forwarded-For` that is not a trusted proxy's own: what stands
/// before it anybody may have written.
fn behind_proxies(connected: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> SocketAddr {
    let fields = headers.get_all("x-forwarded-for").iter();
    let hops: Vec<&str> =
        fields.flat_map(|field| field.to_str().unwrap_or_default().split(',').map(str::trim)).collect();
    let mut client = connected;
    for hop in hops.iter().rev() {
        let ip = client.ip().to_canonical();
        if !trusted.iter().any(|net| net.contains(&ip)) {
            break;
        }
        let Ok(ip) = hop.parse::<IpAddr>() else { break };
        client = SocketAddr::new(ip, 0);
    }
    client
}

impl FromRequestParts<Shared> for Peer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, site: &Shared) -> Result<Self, Self::Rejection> {
        Ok(Self::find(parts, site))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_about_the_last_hop() {
        let trusted = ["127.0.0.0/8".parse().unwrap(), "10.0.0.1/32".parse().unwrap()];
        let table: [(&str, &[&str], &str); 8] = [
            ("127.0.0.1:7", &[], "127.0.0.1:7"),
            ("127.0.0.1:7", &["192.0.2.1"], "192.0.2.1:0"),
            ("[::ffff:127.0.0.1]:7", &["192.0.2.1"], "192.0.2.1:0"),
            ("203.0.113.9:7", &["192.0.2.1"], "203.0.113.9:7"),
            ("127.0.0.1:7", &["198.51.100.1, 2001:db8::1"], "[2001:db8::1]:0"),
            ("127.0.0.1:7", &["198.51.100.1", "192.0.2.1,10.0.0.1"], "192.0.2.1:0"),
            ("127.0.0.1:7", &["192.0.2.1, unknown"], "127.0.0.1:7"),
            ("127.0.0.1:7", &["192.0.2.1, \u{e4}"], "127.0.0.1:7"),
        ];
        for (connected, fields, want) in table {
            let named = |field: &&str| {
                ("x-forwarded-for".parse().unwrap(), HeaderValue::from_bytes(field.as_bytes()).unwrap())
            };
            let headers: HeaderMap = fields.iter().map(named).collect();
            let client = behind_proxies(connected.parse().unwrap(), &headers, &trusted);
            assert_eq!(client, want.parse().unwrap(), "{connected} {fields:?}");
        }
    }
}
