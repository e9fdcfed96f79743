//! Takes connections in: gives each a task of its own, and says how long one that
//! says nothing, or little, may stay. What comes through is not looked at here.
//!
//! Who may come in, and who it is, the [`Door`] says. One connection too many in all
//! waits in the kernel's queue; one too many of a client is closed. Whoever has not said
//! in any request who they are makes room where places are few. Tasks belong to a
//! tracker and hear a stop.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::{Shared, Site};
use crate::census::{Census, Counted};
use crate::domain::ids::CustomerId;
use crate::door::{self, Door, Network, Refused, Stranger};
use crate::telemetry::{self, Metrics, OpenConnection};

/// A connection on which not an octet moves for so long is closed.
const IDLE: Duration = Duration::from_secs(75);
/// Octets in memory of a connection's input, and so of a request's header.
const BUFFER_BYTES: usize = 32 << 10;
/// How long a stop waits for answers that are under way.
const GRACE: Duration = Duration::from_secs(20);

/// Takes connections in for some routes.
#[derive(Debug)]
pub struct Front {
    router: Router,
    door: Door,
    header_timeout: Duration,
    metrics: Metrics,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Front {
    /// A front that waits at most `header_timeout` for the header of a request.
    /// Connections become tasks of the tracker; at the stop they finish what is under
    /// way, within 20 seconds.
    pub fn new(
        router: Router,
        door: Door,
        header_timeout: Duration,
        metrics: Metrics,
        (tracker, stop): (TaskTracker, CancellationToken),
    ) -> Arc<Self> {
        Arc::new(Self { router, door, header_timeout, metrics, tracker, stop })
    }

    /// Accepts on one socket until the stop; run it as a task of the same tracker.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let next = async || (self.door.free_place().await, door::accept(&listener).await);
        while let Some((place, (socket, peer))) = self.stop.run_until_cancelled(next()).await {
            let front = Arc::clone(&self);
            self.tracker.spawn(async move {
                front.receive(socket, peer).await;
                drop(place);
            });
        }
    }

    async fn receive(&self, mut socket: TcpStream, peer: SocketAddr) {
        let came = Instant::now();
        let guest = match self.stop.run_until_cancelled(self.door.enter(&mut socket, peer)).await {
            Some(Ok(guest)) => guest,
            Some(Err(Refused::Crowded(peer))) => {
                tracing::debug!(%peer, "too many connections");
                return;
            }
            Some(Err(Refused::Unannounced(_))) | None => return,
        };
        let (peer, stranger) = (Peer(guest.address), self.door.stranger(came, &self.stop));
        let (leave, unknown) = (stranger.leave().clone(), Unknown::new(stranger));
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(unknown.clone());
            request.extensions_mut().insert(Stopping(self.stop.clone()));
            self.router.clone().oneshot(request)
        });
        let io = TokioIo::new(Connection {
            stream: socket,
            idle: Box::pin(tokio::time::sleep(IDLE)),
            _counted: self.metrics.connection(telemetry::Listener::Http),
        });
        let mut serving = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.header_timeout)
                .max_buf_size(BUFFER_BYTES)
                .serve_connection(io, service)
        );
        // How it ends is the client's business: it is gone, or silent, or has been answered.
        // A stranger who is to make room goes at once.
        if leave.run_until_cancelled(serving.as_mut()).await.is_none() && self.stop.is_cancelled() {
            serving.as_mut().graceful_shutdown();
            let _ = timeout(GRACE, serving).await;
        }
    }
}

/// A connection that ends when nothing moves on it.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
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

/// A connection that is a stranger's until a request on it proves who sends it: by a
/// credential, the cookie of a sign-in, the admin token, or the signature of a webhook.
/// A customer may have so many connections on which it is known; on more it is a stranger.
#[derive(Debug, Clone)]
pub(super) struct Unknown(Arc<Mutex<Sender>>);

#[derive(Debug)]
enum Sender {
    Stranger {
        _until_dropped: Stranger,
    },
    Customer {
        _seat: Counted<CustomerId>,
    },
    /// The operator, or a service.
    Trusted,
}

impl Unknown {
    fn new(stranger: Stranger) -> Self {
        Self(Arc::new(Mutex::new(Sender::Stranger { _until_dropped: stranger })))
    }

    /// Whoever sent this request is no stranger from now on: this customer, unless that
    /// has all its seats; or somebody whom the operator trusts.
    pub(super) fn is_known(
        extensions: &Extensions,
        who: Option<&CustomerId>,
        seats: &Arc<Census<CustomerId>>,
    ) {
        let Some(Self(sender)) = extensions.get() else { return };
        let mut sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*sender, Sender::Stranger { .. }) {
            return;
        }
        match who.map(|who| seats.count(who.clone())) {
            None => *sender = Sender::Trusted,
            Some(Some(seat)) => *sender = Sender::Customer { _seat: seat },
            Some(None) => {}
        }
    }
}

/// Hears that the server stops: an answer that would go on for ever ends then.
#[derive(Debug, Clone, Default)]
pub(super) struct Stopping(pub(super) CancellationToken);

/// The address at the other end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Peer {
    /// Who asks: the address at the other end, or the one for which a forwarding proxy asks.
    pub(super) fn find(parts: &Parts, site: &Site) -> Self {
        let connected = parts.extensions.get::<Self>();
        let connected = connected.map_or((Ipv6Addr::UNSPECIFIED, 0).into(), |Self(address)| *address);
        Self(behind_proxies(connected, &parts.headers, &site.settings.forwarding_proxies))
    }
}

/// The last address of `X-Forwarded-For` that is not a forwarding proxy's own: what stands
/// before it anybody may have written.
fn behind_proxies(connected: SocketAddr, headers: &HeaderMap, trusted: &[Network]) -> SocketAddr {
    let fields = headers.get_all("x-forwarded-for").iter();
    let hops: Vec<&str> =
        fields.flat_map(|field| field.to_str().unwrap_or_default().split(',').map(str::trim)).collect();
    let mut client = connected;
    for hop in hops.iter().rev() {
        if !trusted.iter().any(|network| network.contains(client.ip())) {
            break;
        }
        let Ok(ip) = hop.parse::<IpAddr>() else { break };
        client = SocketAddr::new(ip, 0);
    }
    client
}

impl FromRequestParts<Shared> for Peer {
    type Rejection = Infallible;

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
        let trusted = ["127.0.0.0/8", "10.0.0.1/32"].map(|text| Network::parse(text).unwrap());
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
