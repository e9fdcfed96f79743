//! Clients that take their time, on a clock that stands still until all wait.

use super::*;

/// A client that sends `piece` every second until the server has had enough; when, and
/// what was said.
async fn drip(client: &mut Client, piece: &[u8]) -> (u64, String) {
    let begun = Instant::now();
    loop {
        client.send(piece).await;
        let next = Instant::now() + Duration::from_secs(1);
        while let Ok(said) = tokio::time::timeout_at(next, reply(&mut client.socket)).await {
            if said.starts_with("421 ") {
                return (begun.elapsed().as_secs(), said);
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(10_000));
    }
}

const TOO_SLOW: &str =
    "421 4.4.2 Message arrives too slowly, closing the connection; try again on a better line\r\n";
const TIMEOUT: &str = "421 4.4.2 Timeout, closing the connection\r\n";

#[tokio::test(start_paused = true)]
async fn a_message_that_drips_ends_when_its_average_is_too_low() {
    // Nothing grows so large that it goes to disk: a clock that stands still does not stand for that.
    let config = Smtp { min_bytes_per_s: 1_000, min_bytes_grace_s: 60, data_timeout_s: 200, ..config() };
    let line = |octets: usize| [&vec![b'x'; octets - 2], b"\r\n".as_slice()].concat();
    // 100 a second: 66 s x 100 octets last for 6.6 s beyond the grace.
    let table = [(2, 60, TOO_SLOW), (100, 66, TOO_SLOW), (500, 120, TOO_SLOW), (1_000, 200, TIMEOUT)];
    for (octets, seconds, want) in table {
        let mut client = client_in_data(&config);
        reply(&mut client.socket).await;
        assert_eq!(drip(&mut client, &line(octets)).await, (seconds, want.to_owned()), "{octets}");
        assert_eq!(client.end().await, End::TimedOut);
        let mut client = client_after(&RECIPIENT, server(&config));
        reply(&mut client.socket).await;
        client.send(b"BDAT 9999999 LAST\r\n").await;
        assert_eq!(drip(&mut client, &line(octets)).await, (seconds, want.to_owned()), "BDAT {octets}");
        assert_eq!(client.end().await, End::TimedOut);
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_stands_still_for_a_while_does_no_harm() {
    let config = Smtp { min_bytes_per_s: 1_000, min_bytes_grace_s: 60, data_timeout_s: 600, ..config() };
    let mut client = client_in_data(&config);
    reply(&mut client.socket).await;
    client.send(&b"0123456789abcd\r\n".repeat(5_000)).await;
    tokio::time::sleep(Duration::from_secs(130)).await;
    client.send(b".\r\n").await;
    assert!(reply(&mut client.socket).await.starts_with("554 5.6.0 "), "taken whole, though it has no From");
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_has_the_time_that_the_largest_message_needs() {
    // As ADSL sends; the NUL spares the disk, since what is refused is read and not kept.
    let config = config();
    let (second, most) =
        ([&[b'x'; 998 - 2], b"\r\n".as_slice()].concat().repeat(20), config.max_message_bytes);
    for (begin, end) in
        [("DATA\r\n".to_owned(), ".\r\n"), (format!("BDAT {} LAST\r\n", most - most % 19_960), "")]
    {
        let mut client = client_after(&RECIPIENT, server(&config));
        reply(&mut client.socket).await;
        client.send(begin.as_bytes()).await;
        if !end.is_empty() {
            reply(&mut client.socket).await;
        }
        let mut line = second.clone();
        line[0] = 0;
        for _ in 0..most / second.len() {
            client.send(&line).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            line.clone_from(&second);
        }
        client.send(end.as_bytes()).await;
        assert_eq!(reply(&mut client.socket).await, "554 5.6.0 Message holds a NUL octet\r\n");
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_that_drip_are_one_message() {
    let config = Smtp { min_bytes_per_s: 1_000, min_bytes_grace_s: 60, ..config() };
    let mut client = client_after(&RECIPIENT, server(&config));
    reply(&mut client.socket).await;
    let (seconds, said) = drip(&mut client, b"BDAT 2\r\n\r\n").await;
    assert_eq!((seconds, said.as_str()), (60, TOO_SLOW));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_a_deadline_of_its_own_within_the_minute_of_a_stranger() {
    let certificate = Certificate::new("handshake");
    for (handshake_timeout_s, want) in [(15, 15), (100, 60)] {
        let config = Smtp { handshake_timeout_s, unauthenticated_timeout_s: 60, ..config() };
        for octets in [b"".as_slice(), b"\x16\x03\x01\x02\x00\x01"] {
            let begun = Instant::now();
            let mut client = Client::open(&config, Opening::Implicit(certificate.acceptor()), 64 << 10);
            client.send(octets).await;
            assert_eq!(client.rest().await, "");
            assert_eq!(begun.elapsed().as_secs(), want);
            assert_eq!(client.end().await, End::TimedOut);
        }
    }
    let begun = Instant::now();
    let mut client = Client::open(&config(), Opening::StartTls(certificate.acceptor()), 64 << 10);
    reply(&mut client.socket).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    client.send(b"STARTTLS\r\n").await;
    assert!(reply(&mut client.socket).await.starts_with("220 "));
    assert_eq!(client.rest().await, "");
    assert_eq!(begun.elapsed().as_secs(), 60, "the minute began with the connection");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_who_is_never_silent_stays_a_minute_at_most() {
    // One for each way of saying nothing.
    for piece in [b"NOOP\r\n".as_slice(), b"EHLO c\r\n", b"x"] {
        let mut client = Client::connect("stranger", &config());
        reply(&mut client.socket).await;
        let (seconds, said) = drip(&mut client, piece).await;
        assert_eq!((seconds, said.as_str()), (60, TIMEOUT), "{}", String::from_utf8_lossy(piece));
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_take_a_reply_in_time_is_dropped() {
    for write_timeout_s in [1, 20] {
        let config = Smtp { write_timeout_s, ..config() };
        let mut client = Client::connect_through("deaf-banner", &config, 16);
        let begun = Instant::now();
        // The banner does not fit, and nobody reads it.
        let gone = async { while client.socket.write_all(b"NOOP\r\n").await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(100), gone).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), write_timeout_s);
        assert_eq!(client.end().await, End::Gone);
    }
}

#[tokio::test]
async fn a_flood_of_empty_commands_ends() {
    let config = Smtp { max_idle_commands: 50, ..config() };
    for command in ["NOOP", "RSET", "VRFY x", "HELP", "EHLO c"] {
        let mut client = Client::connect("flood", &config);
        client.send(format!("{command}\r\n").repeat(60).as_bytes()).await;
        let said = client.rest().await;
        let end = "421 4.7.0 Too many commands without a message, closing the connection\r\n";
        assert!(said.ends_with(end), "{command}: {said}");
        assert_eq!(client.end().await, End::Closed);
    }
}
