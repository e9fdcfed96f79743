use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;

use super::*;

const PROXY: &str = "[::ffff:10.0.0.1]:50000";
const STRANGER: &str = "192.0.2.66:50000";

fn door() -> Door {
    Door::new(Limits {
        max_connections: 2,
        max_connections_per_ip: 1,
        forwarding_proxies: Vec::new(),
        trusted_proxies: vec![Network::parse("10.0.0.0/8").unwrap()],
        proxy_header_timeout: Duration::from_secs(15),
    })
}

async fn sent(octets: &[u8]) -> (DuplexStream, DuplexStream) {
    let (mut theirs, ours) = duplex(4_096);
    theirs.write_all(octets).await.unwrap();
    (theirs, ours)
}

async fn enter(door: &Door, octets: &[u8], peer: &str) -> Result<Guest, Refused> {
    let (_theirs, mut ours) = sent(octets).await;
    door.enter(&mut ours, peer.parse().unwrap()).await
}

#[tokio::test]
async fn only_the_header_of_a_proxy_is_read() {
    let door = door();
    let table = [
        (PROXY, "PROXY TCP4 192.0.2.1 10.0.0.1 4660 587\r\n", "192.0.2.1:4660", "EHLO c\r\n"),
        (PROXY, "PROXY UNKNOWN\r\n", "10.0.0.1:50000", "\x16\x03\x01"),
        (PROXY, "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "10.0.0.1:50000", "PROXY TCP4"),
        (STRANGER, "", STRANGER, "PROXY TCP4 192.0.2.1 10.0.0.1 4660 587\r\n"),
        ("[::ffff:192.0.2.66]:1", "", "192.0.2.66:1", "EHLO c\r\n"),
    ];
    for (peer, header, address, rest) in table {
        let (mut theirs, mut ours) = sent(header.as_bytes()).await;
        theirs.write_all(rest.as_bytes()).await.unwrap();
        drop(theirs);
        let guest = door.enter(&mut ours, peer.parse().unwrap()).await.unwrap();
        assert_eq!(guest.address, address.parse().unwrap(), "{header}");
        let mut left = String::new();
        ours.read_to_string(&mut left).await.unwrap();
        assert_eq!(left, rest);
    }
}

#[tokio::test]
async fn a_proxys_clients_are_counted_and_the_proxy_is_not() {
    let door = door();
    let header = b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n";
    let first = enter(&door, header, PROXY).await.unwrap();
    let crowded = enter(&door, header, PROXY).await.unwrap_err();
    assert_eq!(crowded.to_string(), "too many connections of 192.0.2.1:1");
    assert!(enter(&door, b"", "192.0.2.1:2").await.is_err(), "however it comes");
    let _second = enter(&door, b"PROXY TCP4 192.0.2.2 10.0.0.1 1 2\r\n", PROXY).await.unwrap();
    let own = [
        enter(&door, b"PROXY UNKNOWN\r\n", PROXY).await,
        enter(&door, b"PROXY UNKNOWN\r\n", PROXY).await,
        enter(&door, b"PROXY UNKNOWN\r\n", PROXY).await,
    ];
    assert!(own.iter().all(Result::is_ok), "{own:?}");
    drop(first);
    assert!(enter(&door, header, PROXY).await.is_ok());
}

#[tokio::test]
async fn few_do_not_take_all_places() {
    let limits = Limits {
        max_connections: 32,
        max_connections_per_ip: 2,
        forwarding_proxies: vec![Network::LOOPBACK_V4],
        trusted_proxies: Vec::new(),
        proxy_header_timeout: Duration::from_secs(15),
    };
    let door = Door::new(limits.clone());
    let mut inside = Vec::new();
    let mut come = async |peer: &str| enter(&door, b"", peer).await.map(|guest| inside.push(guest)).is_ok();
    for (peer, want) in [
        ("192.0.2.1:1", true),
        ("192.0.2.1:2", true),
        ("192.0.2.1:3", false),
        ("192.0.2.2:1", true),
        ("[2001:db8:1:1::1]:1", true),
        ("[2001:db8:1:1::2]:1", true),
        ("[2001:db8:1:1::3]:1", false),
        ("[2001:db8:1:2::1]:1", true),
        ("[2001:db8:1:3::1]:1", true),
        ("[2001:db8:1:4::1]:1", false),
        ("[2001:db8:2:1::1]:1", true),
        ("127.0.0.1:1", true),
        ("127.0.0.1:2", true),
        ("127.0.0.1:3", true),
    ] {
        assert_eq!(come(peer).await, want, "{peer}");
    }
    inside.clear();
    assert!(enter(&door, b"", "[2001:db8:1:4::1]:1").await.is_ok(), "each gives back what it had");

    let door = Door::new(Limits { max_connections_per_ip: 20, ..limits });
    let mut inside = Vec::new();
    for _ in 0..20 {
        inside.push(enter(&door, b"", "[2001:db8:1:1::1]:1").await.unwrap());
    }
    assert!(enter(&door, b"", "[2001:db8:1:1::1]:1").await.is_err());
}

#[tokio::test]
async fn strangers_leave_places_for_those_who_come() {
    let door = Door::new(Limits {
        max_connections: 8,
        max_connections_per_ip: 8,
        forwarding_proxies: Vec::new(),
        trusted_proxies: Vec::new(),
        proxy_header_timeout: Duration::from_secs(15),
    });
    let stop = CancellationToken::new();
    let mut strangers = Vec::new();
    // Each who is told to go does so.
    for n in 0..100 {
        strangers.push((door.place().unwrap(), door.stranger(Instant::now(), &stop)));
        strangers.retain(|(_, stranger)| !stranger.makes_room());
        assert_eq!(strangers.len(), (n + 1).min(6));
    }
    // Who signs in is no stranger any more, and keeps the place.
    let mut signed_in: Vec<Place> = strangers.drain(..4).map(|(place, _)| place).collect();
    for _ in 0..100 {
        strangers.push((door.place().unwrap(), door.stranger(Instant::now(), &stop)));
        strangers.retain(|(_, stranger)| !stranger.makes_room());
    }
    assert_eq!(strangers.len(), 3, "of the four places that are left");
    signed_in.extend(strangers.drain(..).map(|(place, _)| place));
    signed_in.push(door.place().unwrap());
    assert!(door.place().is_none());
}

#[tokio::test]
async fn places_are_counted_in_all() {
    let door = door();
    let (first, _second) = (door.place().unwrap(), door.place().unwrap());
    assert!(door.place().is_none());
    drop(first);
    assert!(door.free_place().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_come_is_not_waited_for() {
    for octets in ["", "PROXY TCP4 192.0", "\r\n\r\n\0\r\nQUIT\n\x21\x11\x02\0"] {
        let begun = Instant::now();
        let refused = enter(&door(), octets.as_bytes(), PROXY).await.unwrap_err();
        assert!(matches!(refused, Refused::Unannounced(Unannounced::TimedOut)), "{refused:?}");
        assert_eq!(begun.elapsed().as_secs(), 15, "{octets}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_drips_has_no_more_time() {
    let (mut theirs, mut ours) = duplex(4_096);
    let door = door();
    let begun = Instant::now();
    let drip = async {
        for octet in b"PROXY UNKNOWN ".iter().chain(std::iter::repeat(&b'x')) {
            theirs.write_all(&[*octet]).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = drip => {}
        refused = door.enter(&mut ours, PROXY.parse().unwrap()) => {
            assert!(matches!(refused, Err(Refused::Unannounced(Unannounced::TimedOut))), "{refused:?}");
        }
    }
    assert_eq!(begun.elapsed().as_secs(), 15);
}

#[tokio::test]
async fn a_proxy_that_says_something_else_is_refused_at_once() {
    let refused = enter(&door(), b"EHLO c\r\n", PROXY).await.unwrap_err();
    assert!(
        matches!(refused, Refused::Unannounced(Unannounced::Malformed(Malformed::NotOne))),
        "{refused:?}"
    );
    for (octets, begun) in [(b"".as_slice(), false), (b"PROXY ", true)] {
        let (theirs, mut ours) = sent(octets).await;
        drop(theirs);
        let refused = door().enter(&mut ours, PROXY.parse().unwrap()).await.unwrap_err();
        let ended =
            matches!(refused, Refused::Unannounced(Unannounced::Ended { had_begun }) if had_begun == begun);
        assert!(ended, "{refused:?}");
    }
}
