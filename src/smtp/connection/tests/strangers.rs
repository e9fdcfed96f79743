//! Strangers who are told to go, or whose minute is over: none stays for what it does not read.

use tokio::net::TcpSocket;

use super::*;

/// Octets that a connection holds of replies which nobody reads.
const PIPE: usize = 64;

/// A connection whose client has said this and reads nothing, once the server waits for it.
async fn deaf(config: &Smtp, came: Instant, said: &[u8]) -> (DuplexStream, Door, JoinHandle<Summary>) {
    let (mut socket, theirs) = duplex(PIPE);
    let (server, door, stop) = (server(config), door(config), CancellationToken::new());
    let stranger = door.stranger(came, &stop);
    let opening = Opening::StartTls(Certificate::new("deaf-stranger").acceptor());
    let peer = SocketAddr::from(([192, 0, 2, 1], 4_711));
    let serving = tokio::spawn(async move { serve(&server, theirs, peer, opening, stranger).await });
    // Whatever is not taken any more is not sent.
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.write_all(said)).await;
    (socket, door, serving)
}

fn beginning(said: &[u8]) -> String {
    said.iter().take(20).copied().map(char::from).collect()
}

#[tokio::test(start_paused = true)]
async fn who_is_to_make_room_and_reads_nothing_is_gone_at_once() {
    let config = Smtp { max_connections: 1, ..config() };
    for said in [&b"EHLO c\r\n".repeat(500)[..], b"EHLO c\r\nQUIT\r\n", b"BDAT 99999\r\n", b"DATA\r\n", b""] {
        let (_socket, door, serving) = deaf(&config, Instant::now(), said).await;
        // The one place is taken.
        let _place = door.place().unwrap();
        let told = Instant::now();
        let _next = door.stranger(Instant::now(), &CancellationToken::new());
        let summary = serving.await.unwrap();
        assert_eq!(told.elapsed(), Duration::ZERO, "{}", beginning(said));
        let is_told = summary.end == End::MadeRoom || said.ends_with(b"QUIT\r\n");
        assert!(is_told, "{}: {summary:?}", beginning(said));
    }
}

#[tokio::test(start_paused = true)]
async fn a_minute_is_a_minute_from_the_acceptance_to_the_end() {
    for said in [&b"EHLO c\r\n".repeat(500)[..], b"BDAT 99999\r\n", b"STARTTLS\r\n", b"NOOP", b""] {
        let config = Smtp { write_timeout_s: 1_000, handshake_timeout_s: 1_000, ..config() };
        let came = Instant::now();
        // A header of a proxy came first.
        tokio::time::sleep(Duration::from_secs(14)).await;
        let (_socket, _door, serving) = deaf(&config, came, said).await;
        serving.await.unwrap();
        assert_eq!(came.elapsed().as_secs(), 60, "{}", beginning(said));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stranger_has_not_taken_goes_on_where_it_stopped() {
    let (mut socket, _door, serving) = deaf(&config(), Instant::now(), b"NOOP\r\nNOOP\r\nQUIT\r\n").await;
    let mut said = String::new();
    socket.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "220 mx.example ESMTP Postmeter\r\n250 2.0.0 OK\r\n250 2.0.0 OK\r\n221 2.0.0 Bye\r\n");
    drop(socket);
    assert_eq!(serving.await.unwrap().end, End::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_wait_is_obeyed_in_nothing_whenever_it_comes() {
    // In the same segment, in the next one, and after the answer.
    for wait in [0, 20, 1_000] {
        let mut client = client_after(&RECIPIENT[..3], server(&config()));
        reply(&mut client.socket).await;
        client.send(b"DATA\r\n").await;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let _ = client.socket.write_all(b"From: a@b.example\r\n\r\nRCPT TO:<c@d.example>\r\n.\r\n").await;
        let said = client.rest().await;
        let refused = "503 5.5.1 No valid recipients, send RCPT first\r\n";
        let is_late = wait > 100;
        let also = if is_late { "500 5.5.2 Command not recognized\r\n" } else { "" };
        assert_eq!(said, format!("{refused}{also}"), "{wait} ms");
        assert_eq!(client.end().await, End::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_refusal_of_data_goes_on() {
    for (line, want) in [
        ("RSET", "250 "),
        ("MAIL FROM:<a@b.example>", "503 "),
        ("RCPT TO:<c@d@e>", "501 "),
        ("DATA", "503 "),
        ("EHLO c", "250-"),
    ] {
        let mut client = client_after(&RECIPIENT[..3], server(&config()));
        reply(&mut client.socket).await;
        client.send(b"DATA\r\n").await;
        assert!(reply(&mut client.socket).await.starts_with("503 "));
        client.send(format!("{line}\r\n").as_bytes()).await;
        assert!(reply(&mut client.socket).await.starts_with(want), "{line}");
        client.send(b"NOOP\r\n").await;
        assert!(reply(&mut client.socket).await.starts_with("250 2.0.0 OK"), "{line}");
    }
}

#[tokio::test]
async fn however_many_read_nothing_whoever_comes_finds_a_place() {
    let config = Smtp { max_connections: 4, write_timeout_s: 1_000, ..config() };
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let tasks = (tracker.clone(), stop.clone());
    let front = Front::new(server(&config), door(&config), Metrics::new(), tasks);
    // So little room for replies as small packets leave.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(1).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(64).unwrap();
    let address = listener.local_addr().unwrap();
    tracker.spawn(front.run(listener, Opening::StartTls(Certificate::new("deaf-crowd").acceptor())));
    let (mut deaf, in_time) = (Vec::new(), Duration::from_secs(100));
    for n in 0..10 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        let mut client = socket.connect(address).await.unwrap();
        let mut banner = [0; 4];
        client.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"220 ", "{n}");
        client.write_all(&b"EHLO c\r\n".repeat(900)).await.unwrap();
        deaf.push(client);
        // The front itself and three of them: a place is free.
        let free = async {
            while tracker.len() > 4 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(in_time, free).await.unwrap_or_else(|_| panic!("{n}: nobody has gone"));
    }
    stop.cancel();
    tracker.close();
    tokio::time::timeout(in_time, tracker.wait()).await.unwrap();
}
