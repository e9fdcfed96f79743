//! Very many clients that take their time, from very many addresses, do not keep an
//! ordinary one waiting. `POSTMETER_SLOW_CLIENTS=5000` makes it that many; open files
//! must be allowed for twice as many (`ulimit -n`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;

use crate::harness::wait::until_is;
use crate::harness::{Meter, RUNTIME, letter};

/// How many, unless the environment says otherwise: both ends within 1,024 open files.
const CLIENTS: usize = 300;
/// How long a stranger may stay.
const STRANGER_S: usize = 25;
/// How many come at the same time: the kernel's queue is not what is measured.
const COMING: usize = 200;
/// How long each is silent between two octets.
const PAUSE: Duration = Duration::from_secs(3);
const ROUNDS: usize = 9;

#[derive(Debug)]
struct Counts {
    coming: Semaphore,
    there: AtomicUsize,
    sent_away: AtomicUsize,
}

/// What a slow client says again and again: half a command in the clear, a command, or a
/// piece of a TLS handshake. It stays until it is sent away.
async fn linger(number: usize, smtp: SocketAddr, smtps: SocketAddr, counts: Arc<Counts>) {
    let source = Ipv4Addr::from_bits(0x7f01_0000 + u32::try_from(number).unwrap());
    let (address, piece): (_, &[u8]) = match number % 4 {
        0 => (smtp, b"N"),
        1 => (smtp, b""),
        2 => (smtp, b"NOOP\r\n"),
        _ => (smtps, b"\x16"),
    };
    let coming = counts.coming.acquire().await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::V4(source), 0).into()).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let mut said = [0; 512];
    if address == smtp {
        let octets = stream.read(&mut said).await.unwrap();
        assert!(said[..octets].starts_with(b"220 "), "{:?}", String::from_utf8_lossy(&said[..octets]));
    }
    drop(coming);
    counts.there.fetch_add(1, Relaxed);
    let mut has_begun = false;
    loop {
        // Once where more would be no TLS.
        let written = if address == smtps && has_begun { Ok(()) } else { stream.write_all(piece).await };
        has_begun = true;
        let heard = tokio::time::timeout(PAUSE, stream.read(&mut said)).await;
        if written.is_err() || matches!(heard, Ok(Ok(0) | Err(_))) {
            counts.sent_away.fetch_add(1, Relaxed);
            return;
        }
    }
}

#[test]
fn slow_clients_from_everywhere_do_not_keep_an_ordinary_one_waiting() {
    let clients = std::env::var("POSTMETER_SLOW_CLIENTS").map_or(CLIENTS, |text| text.parse().unwrap());
    let meter = Meter::resend()
        .credits(100)
        .set("smtp", &format!("unauthenticated_timeout_s = {STRANGER_S}"))
        .set("smtp", &format!("handshake_timeout_s = {STRANGER_S}"))
        .start();
    let (smtp, smtps) = (meter.process().smtp, meter.process().smtps);
    let counts = Arc::new(Counts { coming: Semaphore::new(COMING), there: 0.into(), sent_away: 0.into() });
    let begun = Instant::now();
    for number in 0..clients {
        RUNTIME.spawn(linger(number, smtp, smtps, Arc::clone(&counts)));
    }
    until_is("slow clients that are there", clients, || counts.there.load(Relaxed));
    let opened = begun.elapsed();
    let mut took: Vec<Duration> = (0..ROUNDS)
        .map(|n| {
            let begun = Instant::now();
            assert!(meter.signed_in().deliver(&letter(&format!("n{n}"))).starts_with("250 2.0.0 "));
            begun.elapsed()
        })
        .collect();
    took.sort();
    let stayed = clients - counts.sent_away.load(Relaxed);
    println!("{clients} slow clients in {opened:?}, {stayed} still there; an ordinary one took {took:?}");
    assert!(stayed * 10 >= clients * 9, "the others left before it was measured: {stayed} of {clients}");
    assert!(took[ROUNDS / 2] < Duration::from_secs(1), "{took:?}");
    until_is("slow clients that were sent away", clients, || counts.sent_away.load(Relaxed));
}
