//! Takes connections in: gives each a task of its own, turns away what is too much.
//!
//! Sockets are bound elsewhere and handed in; who may come in, and who it is, the
//! [`Door`] says. Tasks belong to a tracker and hear a stop; nothing outlives both.
//! What this must not know: what is said on a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::door::{self, Door, Refused};
use crate::telemetry::{self, Metrics};

use super::connection::{self, Opening, Server, Summary};
use super::reply::Reply;

/// Longest wait for a client to take its refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes connections in for a server.
#[derive(Debug)]
pub struct Front {
    server: Arc<Server>,
    door: Door,
    metrics: Metrics,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Front {
    /// A front whose listeners have one door. Connections become tasks of `tracker`
    /// and end with `stop`.
    pub fn new(
        server: Arc<Server>,
        door: Door,
        metrics: Metrics,
        (tracker, stop): (TaskTracker, CancellationToken),
    ) -> Arc<Self> {
        Arc::new(Self { server, door, metrics, tracker, stop })
    }

    /// Accepts on one socket until the stop; run it as a task of the same tracker.
    pub async fn run(self: Arc<Self>, listener: TcpListener, opening: Opening) {
        while let Some((socket, peer)) = self.stop.run_until_cancelled(door::accept(&listener)).await {
            self.admit(socket, peer, &opening);
        }
    }

    fn admit(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr, opening: &Opening) {
        let (front, opening, came) = (Arc::clone(self), opening.clone(), Instant::now());
        let Some(place) = self.door.place() else {
            tracing::debug!(%peer, "too many connections");
            self.tracker.spawn(async move { turn_away(socket, &opening).await });
            return;
        };
        self.tracker.spawn(async move {
            if let Some(socket) = front.receive(socket, (peer, came), opening.clone()).await {
                // Whoever is turned away keeps nobody out.
                drop(place);
                turn_away(socket, &opening).await;
            }
        });
    }

    /// Serves a connection to its end, or gives back one that is too much.
    async fn receive(
        &self,
        mut socket: TcpStream,
        (peer, came): (SocketAddr, Instant),
        opening: Opening,
    ) -> Option<TcpStream> {
        let guest = match self.stop.run_until_cancelled(self.door.enter(&mut socket, peer)).await? {
            Ok(guest) => guest,
            Err(Refused::Crowded(peer)) => {
                tracing::debug!(%peer, "too many connections");
                return Some(socket);
            }
            Err(Refused::Unannounced(_)) => return None,
        };
        let _counted = self.metrics.connection(match opening {
            Opening::StartTls(_) => telemetry::Listener::Submission,
            Opening::Implicit(_) => telemetry::Listener::Submissions,
        });
        let (peer, stranger) = (guest.address, self.door.stranger(came, &self.stop));
        let serving = connection::serve(&self.server, socket, peer, opening, stranger);
        let summary = Box::pin(serving).await;
        told(peer, &summary);
        None
    }
}

/// One line for all that a customer was refused on a connection, however much that was.
fn told(peer: SocketAddr, summary: &Summary) {
    let Summary { customer_id, accepted, refused, last_refusal, end } = summary;
    match (customer_id, last_refusal) {
        (Some(customer_id), Some(last)) => {
            tracing::info!(%customer_id, %peer, accepted, refused, %last, ?end, "a session with refusals ended");
        }
        _ => tracing::debug!(%peer, accepted, refused, ?end, "connection ended"),
    }
}

/// Under implicit TLS there is no word that would be understood.
async fn turn_away(mut socket: TcpStream, opening: &Opening) {
    if matches!(opening, Opening::StartTls(_)) {
        let mut words = Vec::new();
        Reply::too_many_connections().render(&mut words);
        let _ = timeout(REFUSAL_TIMEOUT, socket.write_all(&words)).await;
    }
}
