//! Takes connections in: counts them, turns away what is too much, gives each a
//! task of its own.
//!
//! Sockets are bound elsewhere and handed in. Tasks belong to a tracker and hear a
//! stop; nothing outlives both. What this must not know: what is said on a
//! connection.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Smtp;

use super::connection::{self, Opening, Server};
use super::reply::Reply;

/// Wait after an accept that failed for a reason of ours: no descriptor, no memory.
const BACK_OFF: Duration = Duration::from_millis(200);
/// Longest wait for a client to take its refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes connections in for a server.
#[derive(Debug)]
pub struct Front {
    server: Arc<Server>,
    census: Arc<Census>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Front {
    /// A front that counts the connections of all its listeners together.
    /// Connections become tasks of `tracker` and end with `stop`.
    pub fn new(
        server: Arc<Server>,
        config: &Smtp,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let census = Arc::new(Census {
            max: config.max_connections,
            max_per_ip: config.max_connections_per_ip,
            present: Mutex::default(),
        });
        Arc::new(Self { server, census, tracker, stop })
    }

    /// Accepts on one socket until the stop; run it as a task of the same tracker.
    pub async fn run(self: Arc<Self>, listener: TcpListener, opening: Opening) {
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, _)) => self.admit(socket, &opening),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted now; raise the limit of open files?");
                    self.stop.run_until_cancelled(sleep(BACK_OFF)).await;
                }
            }
        }
    }

    fn admit(&self, socket: TcpStream, opening: &Opening) {
        let Ok(peer) = socket.peer_addr() else {
            return;
        };
        let Some(guest) = self.census.enter(peer.ip()) else {
            tracing::debug!(%peer, "too many connections");
            if matches!(opening, Opening::StartTls(_)) {
                self.tracker.spawn(turn_away(socket));
            }
            return;
        };
        // Replies are whole batches already; waiting for more only delays them.
        let _ = socket.set_nodelay(true);
        let (server, opening, stop) = (Arc::clone(&self.server), opening.clone(), self.stop.clone());
        self.tracker.spawn(async move {
            let summary = connection::serve(&server, socket, peer, opening, &stop).await;
            drop(guest);
            tracing::debug!(%peer, accepted = summary.accepted, end = ?summary.end, "connection ended");
        });
    }
}

async fn turn_away(mut socket: TcpStream) {
    let mut words = Vec::new();
    Reply::too_many_connections().render(&mut words);
    let _ = timeout(REFUSAL_TIMEOUT, socket.write_all(&words)).await;
}

/// Who is connected.
#[derive(Debug)]
struct Census {
    max: usize,
    max_per_ip: usize,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    total: usize,
    by_origin: HashMap<IpAddr, usize>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
struct Guest {
    census: Arc<Census>,
    origin: IpAddr,
}

impl Census {
    fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Guest> {
        let origin = origin(ip);
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let here = present.by_origin.get(&origin).copied().unwrap_or(0);
        if present.total >= self.max || here >= self.max_per_ip {
            return None;
        }
        present.total += 1;
        present.by_origin.insert(origin, here + 1);
        Some(Guest { census: Arc::clone(self), origin })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut present = self.census.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.total = present.total.saturating_sub(1);
        let left = present.by_origin.get(&self.origin).copied().unwrap_or(0).saturating_sub(1);
        if left == 0 {
            present.by_origin.remove(&self.origin);
        } else {
            present.by_origin.insert(self.origin, left);
        }
    }
}

/// What counts as one address: for IPv6 the /64, which is what one host is given.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_in_all_and_by_origin() {
        let census = Arc::new(Census { max: 4, max_per_ip: 2, present: Mutex::default() });
        let enter = |ip: &str| census.enter(ip.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let _third = enter("2001:db8::1").unwrap();
        let _fourth = enter("2001:db8::2").unwrap();
        assert!(enter("2001:db8:0:1::1").is_none(), "four are here in all");
        drop(first);
        assert!(enter("2001:db8::3").is_none());
        assert!(enter("192.0.2.1").is_some());
        assert_eq!(census.present.lock().unwrap().total, 3);
    }
}
