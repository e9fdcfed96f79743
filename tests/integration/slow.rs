//! Very many clients that take their time, from very many addresses, do not keep an
//! ordinary one waiting: it is served while every one of them is still there. How long
//! it takes then is what `cargo bench --bench accept -- --crowds` measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsConnector;

use crate::harness::smtp::trusting;
use crate::harness::wait::until_is;
use crate::harness::{Meter, RUNTIME, letter};

#[path = "../bench/crowd.rs"]
mod crowd;

use crowd::{Host, PROXIES, Slow};

/// How many: both ends within 1,024 open files.
const CLIENTS: usize = 300;
/// How many come at the same time.
const COMING: usize = 50;
/// How often each says a little more, and an ordinary client comes and sends.
const ROUNDS: usize = 9;
/// No slow client is let go while the test runs: it would be kept for so long.
const LONG_S: usize = 3_600;

#[derive(Debug)]
struct Counts {
    coming: Semaphore,
    /// What each has said since it sat down, all together.
    drips: AtomicUsize,
    there: AtomicUsize,
    let_go: AtomicUsize,
}

/// Sits down, and says a little more each time when the round is another.
async fn linger(number: usize, host: Host, counts: Arc<Counts>, mut round: watch::Receiver<usize>) {
    let coming = counts.coming.acquire().await.unwrap();
    let mut slow = Slow::open(number, &host).await.unwrap_or_else(|error| panic!("{number}: {error}"));
    drop(coming);
    counts.there.fetch_add(1, Relaxed);
    loop {
        tokio::select! {
            () = slow.let_go() => break,
            next = round.changed() => match next {
                Ok(()) if slow.drip().await.is_ok() => drop(counts.drips.fetch_add(1, Relaxed)),
                Ok(()) => break,
                // The test is over.
                Err(_) => return,
            },
        }
    }
    counts.let_go.fetch_add(1, Relaxed);
}

#[test]
fn an_ordinary_client_is_served_while_slow_ones_from_everywhere_are_all_still_there() {
    let mut plan = Meter::smtp().credits(100).set("smtp", &format!("trusted_proxies = [\"{PROXIES}\"]"));
    for deadline in [
        "unauthenticated_timeout_s",
        "handshake_timeout_s",
        "idle_timeout_s",
        "write_timeout_s",
        "data_timeout_s",
        "min_bytes_grace_s",
    ] {
        plan = plan.set("smtp", &format!("{deadline} = {LONG_S}"));
    }
    let meter = plan.start();
    let credential = &meter.credential;
    let host = Host {
        smtp: meter.process().smtp,
        smtps: meter.process().smtps,
        connector: TlsConnector::from(trusting(&meter.certificate())),
        token: STANDARD.encode(format!("\0{}\0{}", credential.username, credential.secret)),
        sender: "ann@example.com",
    };
    let zero = AtomicUsize::default;
    let coming = Semaphore::new(COMING);
    let counts = Arc::new(Counts { coming, drips: zero(), there: zero(), let_go: zero() });
    let (round, rounds) = watch::channel(0);
    for number in 0..CLIENTS {
        RUNTIME.spawn(linger(number, host.clone(), Arc::clone(&counts), rounds.clone()));
    }
    drop(rounds);
    until_is("slow clients that have sat down", CLIENTS, || counts.there.load(Relaxed));
    for n in 1..=ROUNDS {
        round.send(n).unwrap();
        let mut ordinary = if n % 2 == 0 { meter.signed_in() } else { meter.signed_in_implicitly() };
        let reply = ordinary.deliver(&letter(&format!("n{n}")));
        assert!(reply.starts_with("250 2.0.0 "), "{reply}");
        assert_eq!(counts.let_go.load(Relaxed), 0, "the slow ones were not there any more");
        until_is("drips", n * CLIENTS, || counts.drips.load(Relaxed));
    }
    // Whoever was gone would have been told when it said something.
    assert_eq!(counts.let_go.load(Relaxed), 0, "the slow ones were not there any more");
    drop(round);
}
