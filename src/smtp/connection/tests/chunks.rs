use super::*;

/// A client for which BDAT may come now.
async fn client(server: &Arc<Server>) -> Client {
    let mut client = client_after(&RECIPIENT, Arc::clone(server));
    assert!(reply(&mut client.socket).await.starts_with("250 2.1.5 "));
    client
}

/// Says all of it, reads the replies to it and returns their heads.
async fn heads(client: &mut Client, octets: &[u8], replies: usize) -> Vec<String> {
    client.send(octets).await;
    let mut heads = Vec::new();
    for _ in 0..replies {
        let said = reply(&mut client.socket).await;
        heads.push(said.split(' ').take(2).collect::<Vec<_>>().join(" "));
    }
    heads
}

#[tokio::test]
async fn p7_octets_of_a_chunk_are_never_obeyed_however_they_arrive() {
    let table: [(&[&'static str], &[u8], &[&str]); 5] = [
        // Out of turn, before a sign-in and after it.
        (&RECIPIENT[..1], b"BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n", &["503 5.5.1", "503 5.5.1"]),
        (&RECIPIENT[..2], b"BDAT 6\r\nQUIT\r\nBDAT 7 LAST\r\nQUIT\r\n.", &["503 5.5.1", "503 5.5.1"]),
        // A message, which has no From.
        (
            &RECIPIENT,
            b"BDAT 6\r\nQUIT\r\nBDAT 0\r\nBDAT 9 LAST\r\n.\r\nQUIT\r\n",
            &["250 2.0.0", "250 2.0.0", "554 5.6.0"],
        ),
        // One that is refused in the middle.
        (
            &RECIPIENT,
            b"BDAT 7\r\n\nQUIT\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n",
            &["554 5.6.0", "554 5.6.0", "554 5.6.0"],
        ),
        // A CR and its LF in two chunks.
        (
            &RECIPIENT,
            b"BDAT 5\r\nQUIT\rBDAT 1\r\n\nBDAT 0 LAST\r\n",
            &["250 2.0.0", "250 2.0.0", "554 5.6.0"],
        ),
    ];
    let server = server(&config());
    for (lines, stream, want) in table {
        let stream = [stream, b"NOOP\r\nQUIT\r\n"].concat();
        for step in [1, 2, 3, 7, 1_000] {
            let mut client = client_after(lines, Arc::clone(&server));
            reply(&mut client.socket).await;
            for piece in stream.chunks(step) {
                client.send(piece).await;
                tokio::task::yield_now().await;
            }
            let said = heads(&mut client, b"", want.len() + 2).await;
            let want = [want, &["250 2.0.0", "221 2.0.0"]].concat();
            assert_eq!(said, want, "{:?} by {step}", String::from_utf8_lossy(&stream));
            assert_eq!(client.end().await, End::Closed);
        }
    }
}

#[tokio::test]
async fn p7_a_malformed_bdat_ends_the_connection() {
    let server = server(&config());
    for line in ["BDAT", "BDAT -1", "BDAT 99999999999999999999", "BDAT 6\nx", "bdat 6 LAST x", "BDAT 6\0"] {
        for lines in [&RECIPIENT[..1], &RECIPIENT] {
            let mut client = client_after(lines, Arc::clone(&server));
            reply(&mut client.socket).await;
            client.send(format!("{line}\r\nNOOP\r\nNOOP\r\n").as_bytes()).await;
            let said = client.rest().await;
            assert_eq!(said, "501 5.5.4 Syntax: BDAT octets [LAST], closing the connection\r\n", "{line:?}");
        }
    }
}

#[tokio::test]
async fn p7_very_many_very_small_chunks_are_answered_one_by_one() {
    const CHUNKS: usize = 100_000;
    let client = client(&server(&config())).await;
    let (mut read, mut write) = tokio::io::split(client.socket);
    let writing = tokio::spawn(async move {
        let some = b"BDAT 1\r\nx".repeat(1_000);
        for _ in 0..CHUNKS / 1_000 {
            write.write_all(&some).await.unwrap();
        }
        write.write_all(b"BDAT 0 LAST\r\nQUIT\r\n").await.unwrap();
        write
    });
    let mut said = String::new();
    read.read_to_string(&mut said).await.unwrap();
    writing.await.unwrap();
    let (received, rest) = said.split_at("250 2.0.0 1 octets received\r\n".len() * CHUNKS);
    assert!(received.lines().all(|line| line == "250 2.0.0 1 octets received"));
    assert!(rest.starts_with("554 5.6.0 ") && rest.ends_with("221 2.0.0 Bye\r\n"), "{rest}");
}

#[tokio::test]
async fn p7_what_is_announced_and_not_sent_takes_no_memory() {
    let server = server(&Smtp { max_bytes_arriving: 64 << 10, ..config() });
    let mut announced = Vec::new();
    for _ in 0..10 {
        let mut client = client(&server).await;
        client.send(b"BDAT 20000000 LAST\r\nfirst words").await;
        announced.push(client);
    }
    let chunk = [b"BDAT 20000\r\n".as_slice(), &[b'x'; 20_000]].concat();
    let mut client = client(&server).await;
    assert_eq!(heads(&mut client, &chunk, 1).await, ["250 2.0.0"]);
}

#[tokio::test]
async fn memory_is_given_back_when_a_message_is_dropped_or_refused() {
    let server = server(&Smtp { max_bytes_arriving: 64 << 10, ..config() });
    let chunk = [b"BDAT 40000\r\n".as_slice(), &[b'x'; 40_000]].concat();
    let flawed = b"BDAT 1\r\n\n";
    for end in [b"RSET\r\n".as_slice(), b"EHLO c\r\n", b"BDAT 0 LAST\r\n", flawed] {
        let mut first = client(&server).await;
        assert_eq!(heads(&mut first, &chunk, 1).await, ["250 2.0.0"]);
        let mut second = client(&server).await;
        assert_eq!(heads(&mut second, &chunk, 1).await, ["452 4.3.1"], "the budget is one for all");
        heads(&mut first, end, 1).await;
        let mut third = client(&server).await;
        assert_eq!(heads(&mut third, &chunk, 1).await, ["250 2.0.0"], "{end:?}");
        for client in [first, second, third] {
            client.end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_has_one_deadline_for_all_its_chunks() {
    let config = Smtp { idle_timeout_s: 300, data_timeout_s: 600, min_bytes_per_s: 0, ..config() };
    let mut client = client(&server(&config)).await;
    let begun = Instant::now();
    let said = loop {
        client.send(b"BDAT 1\r\nx").await;
        let said = reply(&mut client.socket).await;
        if !said.starts_with("250 ") {
            break said;
        }
        if let Ok(said) = tokio::time::timeout(Duration::from_secs(100), reply(&mut client.socket)).await {
            break said;
        }
        assert!(begun.elapsed() < Duration::from_secs(700));
    };
    assert_eq!(said, "421 4.4.2 Timeout, closing the connection\r\n");
    assert_eq!(begun.elapsed().as_secs(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_within_a_message_is_told_to_go() {
    let config = Smtp { idle_timeout_s: 300, data_timeout_s: 600, min_bytes_per_s: 0, ..config() };
    let server = server(&config);
    // Announced and never sent; between two chunks; after a refusal; out of turn.
    let table: [(&[&'static str], &[u8], u64); 4] = [
        (&RECIPIENT, b"BDAT 20000000\r\nfirst words", 600),
        (&RECIPIENT, b"BDAT 1\r\nx", 300),
        (&RECIPIENT, b"BDAT 1\r\n\n", 300),
        (&RECIPIENT[..1], b"BDAT 1000\r\nx", 60),
    ];
    for (lines, octets, want) in table {
        let mut client = client_after(lines, Arc::clone(&server));
        reply(&mut client.socket).await;
        let begun = Instant::now();
        client.send(octets).await;
        let said = client.rest().await;
        assert!(said.ends_with("421 4.4.2 Timeout, closing the connection\r\n"), "{said}");
        assert_eq!(begun.elapsed().as_secs(), want, "{:?}", String::from_utf8_lossy(octets));
        assert_eq!(client.end().await, End::TimedOut);
    }
}

#[tokio::test]
async fn a_stop_lets_the_chunks_of_a_message_arrive() {
    // In the middle of a chunk; between two.
    let table: [(&[u8], &[u8]); 2] =
        [(b"BDAT 6\r\nsec", b"ondBDAT 2 LAST\r\n\r\n"), (b"", b"BDAT 2 LAST\r\n\r\n")];
    for (before, behind) in table {
        let mut client = client(&server(&config())).await;
        let begun = [b"BDAT 6\r\nfirst ", before].concat();
        assert_eq!(heads(&mut client, &begun, 1).await, ["250 2.0.0"]);
        client.stop.cancel();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let mut said = heads(&mut client, behind, 2).await;
        if !before.is_empty() {
            assert_eq!(said.remove(0), "250 2.0.0");
            said.extend(heads(&mut client, b"", 1).await);
        }
        assert_eq!(said, ["554 5.6.0", "421 4.3.2"]);
        assert_eq!(client.end().await, End::Stopped);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_chunks_for_ever() {
    for begun in [b"BDAT 6\r\nfirst BDAT 6\r\nsec".as_slice(), b"BDAT 6\r\nfirst "] {
        let mut client = client(&server(&config())).await;
        assert_eq!(heads(&mut client, begun, 1).await, ["250 2.0.0"]);
        client.stop.cancel();
        let said = tokio::time::timeout(STOP_GRACE * 2, client.rest()).await.unwrap();
        assert!(said.starts_with("421 4.3.2 "), "{said}");
    }
}

#[tokio::test]
async fn p7_oversize_chunks_are_read_to_their_end_and_no_further() {
    let server = server(&Smtp { max_message_bytes: 10_000, ..config() });
    let octets = b"QUIT\r\n".repeat(20_000);
    let chunk = [b"BDAT 120000\r\n".as_slice(), &octets].concat();
    let mut client = client(&server).await;
    for _ in 0..3 {
        assert_eq!(heads(&mut client, &chunk, 1).await, ["552 5.3.4"]);
    }
    assert_eq!(heads(&mut client, b"BDAT 0 LAST\r\nDATA\r\n", 2).await, ["552 5.3.4", "503 5.5.1"]);
    client.send(b"BDAT 999999999\r\nQUIT\r\n").await;
    let said = client.rest().await;
    assert_eq!(said, "421 4.7.0 Message goes on far beyond the size limit, closing the connection\r\n");
}
