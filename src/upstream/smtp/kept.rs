//! Connections that wait for the next part, and how long they may be used.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Connection;

/// Connections kept open to one host between parts.
const MAX_KEPT: usize = 16;

/// How long a connection is used (`[upstream]`).
#[derive(Debug, Clone, Copy)]
pub struct Reuse {
    /// `max_messages_per_connection`.
    pub max_messages: u32,
    /// `max_connection_age_s`: no message begins on an older one.
    pub max_age: Duration,
    /// `max_connection_idle_s`: how long one waits for the next message.
    pub max_idle: Duration,
}

/// What has become of a connection.
#[derive(Debug, Clone, Copy)]
struct Used {
    messages: u32,
    age: Duration,
    idle: Duration,
}

impl Reuse {
    /// Whether another message may go over it.
    fn allows(&self, used: Used) -> bool {
        used.messages < self.max_messages && used.age < self.max_age && used.idle < self.max_idle
    }
}

/// The connections to one host that nobody uses now.
pub(super) struct Kept {
    reuse: Reuse,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Idle {
    fn used(&self) -> Used {
        let Self { connection, since } = self;
        Used { messages: connection.transactions(), age: connection.age(), idle: since.elapsed() }
    }
}

impl Kept {
    /// None yet.
    pub(super) fn new(reuse: Reuse) -> Self {
        Self { reuse, idle: Mutex::default() }
    }

    /// The connection used last: the others grow old, and those that are too old take leave.
    pub(super) async fn take(&self) -> Option<Connection> {
        let (young, old) = {
            let mut idle = self.idle();
            let old: Vec<Idle> = idle.extract_if(.., |idle| !self.reuse.allows(idle.used())).collect();
            (idle.pop(), old)
        };
        for idle in old {
            idle.connection.leave().await;
        }
        young.map(|idle| idle.connection)
    }

    /// Keeps it for the next part, if it may be used again.
    pub(super) async fn keep(&self, connection: Connection) {
        let back = Idle { connection, since: Instant::now() };
        let spent = {
            let mut idle = self.idle();
            if self.reuse.allows(back.used()) && idle.len() < MAX_KEPT {
                idle.push(back);
                return;
            }
            back
        };
        spent.connection.leave().await;
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_used_so_often_and_so_long() {
        let second = Duration::from_secs(1);
        let reuse = Reuse { max_messages: 3, max_age: second * 300, max_idle: second * 60 };
        let table =
            [(1, 0, 0, true), (2, 299, 59, true), (3, 0, 0, false), (0, 300, 0, false), (0, 60, 60, false)];
        for (messages, age, idle, want) in table {
            let used = Used { messages, age: second * age, idle: second * idle };
            assert_eq!(reuse.allows(used), want, "{used:?}");
        }
    }
}
