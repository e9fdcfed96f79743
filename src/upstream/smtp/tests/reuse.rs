//! One connection and many messages; many commands and one write.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::server::Server;
use super::*;

const PIPELINING: (&str, &str) = ("EHLO", "250-x\r\n250 PIPELINING");

#[tokio::test]
async fn a_connection_carries_so_many_messages_and_no_more() {
    let server = Server::start(&[]).await;
    let upstream = reusing(&server.url(), Reuse { max_messages: 3, ..REUSE });
    for _ in 0..7 {
        assert_eq!(told(&upstream.send(&part(&["b@y.example"], MESSAGE)).await), "accepted");
    }
    assert_eq!((server.messages().len(), server.connections()), (7, 3));
    // The first two took leave. The server may hear the last of them a little later.
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.said().iter().filter(|said| *said == "QUIT").count() < 2 {
        assert!(Instant::now() < deadline, "{:?}", server.said());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_that_may_not_wait_is_not_kept() {
    let server = Server::start(&[]).await;
    let upstream = reusing(&server.url(), Reuse { max_idle: Duration::ZERO, ..REUSE });
    for _ in 0..3 {
        assert_eq!(told(&upstream.send(&part(&["b@y.example"], MESSAGE)).await), "accepted");
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_server_that_has_had_enough_messages_is_connected_to_again() {
    // It takes every message and says so to the next MAIL.
    let server = Server::start(&[("SECOND MAIL", "421 4.7.0 too many messages")]).await;
    let upstream = client(&server.url());
    for _ in 0..3 {
        assert_eq!(told(&upstream.send(&part(&["b@y.example"], MESSAGE)).await), "accepted");
    }
    assert_eq!((server.messages().len(), server.connections()), (3, 3));
}

#[tokio::test]
async fn pipelined_or_not_every_reply_has_the_same_meaning() {
    let recipients = ["ok@y.example", "gone@y.example", "full@y.example", "last@y.example"];
    let rules: [&[(&str, &str)]; 9] = [
        &[],
        &[("RCPT TO:<gone@", "550 5.1.1 no such user"), ("RCPT TO:<full@", "452 4.2.2 full")],
        &[("MAIL", "550 5.7.1 not you"), ("RCPT", "503 5.5.1 MAIL first")],
        &[("MAIL", "451 4.3.0 later"), ("RCPT", "503 5.5.1 MAIL first")],
        &[("MAIL", "421 4.3.2 closing")],
        &[("RCPT TO:<full@", "421 4.3.2 closing")],
        &[("RCPT TO:<full@", "")],
        &[("RCPT TO:<gone@", "530 5.7.0 sign in")],
        &[("RCPT", "550 5.1.1 no such user")],
    ];
    for rules in rules {
        let plain = Server::start(rules).await;
        let rules = [rules, &[PIPELINING]].concat();
        let pipelined = Server::start(&rules).await;
        let (one, other) = (client(&plain.url()), client(&pipelined.url()));
        for _ in 0..2 {
            let one = one.send(&part(&recipients, MESSAGE)).await;
            let other = other.send(&part(&recipients, MESSAGE)).await;
            assert_eq!(one, other, "{rules:?}");
        }
        assert_eq!(plain.messages(), pipelined.messages(), "{rules:?}");
    }
}

#[tokio::test]
async fn mail_and_recipients_are_said_at_once_where_that_is_offered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(tcp);
        stream.write_all(b"220 x\r\n").await.unwrap();
        for reply in
            ["250-x\r\n250 PIPELINING\r\n", "", "", "250 MAIL\r\n550 RCPT\r\n250 RCPT\r\n", "451 DATA\r\n"]
        {
            // Nothing is answered before the last recipient was heard.
            stream.read_line(&mut String::new()).await.unwrap();
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
        stream.into_inner()
    });
    let outcome = client(&url).send(&part(&["b@y.example", "c@y.example"], MESSAGE)).await;
    assert_eq!(told(&outcome), "refused 5.0.0, deferred 4.0.0");
    server.await.unwrap();
}
