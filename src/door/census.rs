//! How many connections each client has at the same time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::throttle::network_of;

/// Who is connected.
#[derive(Debug)]
pub(super) struct Census {
    max_per_ip: usize,
    present: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection that is counted; not any more when dropped.
#[derive(Debug)]
pub(super) struct Counted {
    census: Arc<Census>,
    network: IpAddr,
}

impl Census {
    pub(super) fn new(max_per_ip: usize) -> Arc<Self> {
        Arc::new(Self { max_per_ip, present: Mutex::default() })
    }

    /// Counts one more from this address; `None`: it has as many as it may.
    pub(super) fn count(self: &Arc<Self>, ip: IpAddr) -> Option<Counted> {
        let network = network_of(ip);
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let here = present.get(&network).copied().unwrap_or(0);
        if here >= self.max_per_ip {
            return None;
        }
        present.insert(network, here + 1);
        Some(Counted { census: Arc::clone(self), network })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut present = self.census.present.lock().unwrap_or_else(PoisonError::into_inner);
        let left = present.get(&self.network).copied().unwrap_or(0).saturating_sub(1);
        if left == 0 {
            present.remove(&self.network);
        } else {
            present.insert(self.network, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_network() {
        let census = Census::new(2);
        let count = |ip: &str| census.count(ip.parse().unwrap());
        let first = count("192.0.2.1").unwrap();
        let second = count("::ffff:192.0.2.1").unwrap();
        assert!(count("192.0.2.1").is_none());
        let third = count("2001:db8::1").unwrap();
        let fourth = count("2001:db8::2").unwrap();
        assert!(count("2001:db8::3").is_none());
        assert!(count("2001:db8:0:1::1").is_some());
        drop(first);
        assert!(count("192.0.2.1").is_some());
        drop((second, third, fourth));
        assert!(census.present.lock().unwrap().is_empty(), "nobody is remembered");
    }
}
