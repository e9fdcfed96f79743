mod chunks;
mod slow;
mod strangers;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::ids::{CustomerId, Username};
use crate::submission::{Begun, SignedIn, stand_in};
use crate::telemetry::Metrics;
use crate::tls::{CertificateStore, ensure_development};

use super::super::listener::Front;
use super::body::STOP_GRACE;
use super::*;
use crate::door::{Door, Limits};

/// What sits behind the connection; these tests never get as far as a message
/// that it would take.
fn submission() -> Submission {
    // It lives in a runtime of its own, to the end of the tests: the clock of some of them stands still.
    let (opened, submission) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (submission, _, _directory) = stand_in::submission(&crate::config::Config::default()).await;
            opened.send(submission).unwrap();
            std::future::pending::<()>().await;
        });
    });
    submission.recv().unwrap()
}

fn server(config: &Smtp) -> Arc<Server> {
    let (all, each) = (config.max_bytes_arriving, config.max_bytes_arriving_per_customer);
    Server::new(config, OutOfCreditReply::Temporary, submission(), Allowance::new("arriving", all, each))
}

fn config() -> Smtp {
    Smtp { hostname: "mx.example".to_owned(), ..Smtp::default() }
}

fn door(config: &Smtp) -> Door {
    Door::new(Limits {
        max_connections: config.max_connections,
        max_connections_per_ip: config.max_connections_per_ip,
        forwarding_proxies: Vec::new(),
        trusted_proxies: config.trusted_proxies.clone(),
        proxy_header_timeout: Duration::from_secs(config.handshake_timeout_s),
    })
}

/// A development certificate on disk, for both ends.
struct Certificate(PathBuf);

impl Certificate {
    /// One in a directory of its own, whoever else asks by this name at the same time.
    fn new(name: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (process, nth) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(format!("postmeter-smtp-{process}-{nth}-{name}"));
        let made = Self(directory);
        ensure_development(&made.cert(), &made.key()).unwrap();
        made
    }

    fn cert(&self) -> PathBuf {
        self.0.join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    fn acceptor(&self) -> TlsAcceptor {
        let store = CertificateStore::load(&self.cert(), &self.key()).unwrap();
        TlsAcceptor::from(store.server_config().unwrap())
    }

    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.cert()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The client's side of a connection that is being served.
struct Client {
    socket: DuplexStream,
    stop: CancellationToken,
    serving: JoinHandle<Summary>,
}

impl Client {
    fn connect(test: &str, config: &Smtp) -> Self {
        Self::connect_through(test, config, 64 << 10)
    }

    fn connect_through(test: &str, config: &Smtp, pipe: usize) -> Self {
        let acceptor = Certificate::new(test).acceptor();
        Self::open(config, Opening::StartTls(acceptor), pipe)
    }

    fn open(config: &Smtp, opening: Opening, pipe: usize) -> Self {
        let (socket, theirs) = duplex(pipe);
        let stop = CancellationToken::new();
        let (server, stranger) = (server(config), door(config).stranger(Instant::now(), &stop));
        let peer = SocketAddr::from(([192, 0, 2, 1], 4_711));
        let serving = tokio::spawn(async move { serve(&server, theirs, peer, opening, stranger).await });
        Self { socket, stop, serving }
    }

    async fn send(&mut self, octets: &[u8]) {
        self.socket.write_all(octets).await.unwrap();
    }

    /// Everything until the server closes its side.
    async fn rest(&mut self) -> String {
        let mut said = String::new();
        self.socket.read_to_string(&mut said).await.unwrap();
        said
    }

    async fn end(self) -> End {
        drop(self.socket);
        self.serving.await.unwrap().end
    }
}

/// Reads until the last line of a reply is complete.
async fn reply<S: AsyncRead + Unpin>(socket: &mut S) -> String {
    let mut said = String::new();
    loop {
        let octet = socket.read_u8().await.unwrap();
        said.push(char::from(octet));
        let last = said.lines().last().unwrap_or_default();
        if octet == b'\n' && last.as_bytes().get(3) == Some(&b' ') {
            return said;
        }
    }
}

/// A session after these lines.
fn after(lines: &[&str], rules: &Rules) -> Step {
    let who = SignedIn {
        customer_id: CustomerId::parse("cus_1").unwrap(),
        username: Some(Username::parse("pm-1").unwrap()),
    };
    let mut step = Session::open(Security::Tls, rules);
    for line in lines {
        let Next::Command(session) = step.next else { panic!("{line}: {:?}", step.next) };
        step = session.command(line.as_bytes(), rules);
        step = match step.next {
            Next::SignIn(signing_in) => signing_in.answered(Ok((who.clone(), None)), rules),
            Next::Begin(beginning) => beginning.answered(Ok(Begun::default()), rules),
            Next::Check(checking) => checking.answered(Ok(None), rules),
            next => Step { next, ..step },
        };
    }
    step
}

const RECIPIENT: [&str; 4] =
    ["EHLO c", "AUTH PLAIN AHVzZXIAc2VjcmV0", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>"];

/// A client that has just sent these lines; the reply to the last is due.
fn client_after(lines: &[&'static str], server: Arc<Server>) -> Client {
    let (socket, theirs) = duplex(64 << 10);
    let stop = CancellationToken::new();
    let token = stop.clone();
    let step = after(lines, &server.rules);
    let serving = tokio::spawn(async move {
        let peer = SocketAddr::from(([192, 0, 2, 1], 4_711));
        let born = Instant::now();
        let mut visit =
            Visit { server: &server, peer, stranger: None, tls: None, born, summary: Summary::default() };
        let mut conversation = Conversation::new(&mut visit, theirs, Alarm::new(&token, None));
        conversation.seat = server.sessions.count(CustomerId::parse("cus_1").unwrap());
        let outcome = conversation.run(step).await;
        let Outcome::Ended(end) = outcome else { panic!("no handshake is due") };
        Summary { end, ..visit.summary }
    });
    Client { socket, stop, serving }
}

/// A client that has just sent DATA.
fn client_in_data(config: &Smtp) -> Client {
    client_after(&[&RECIPIENT[..], &["DATA"]].concat(), server(config))
}

#[tokio::test]
async fn a_pipelined_batch_is_answered_in_order() {
    let mut client = Client::connect("batch", &config());
    client.send(b"EHLO c\r\nNOOP\r\nX\r\nMAIL FROM:<a@b.example>\r\nQUIT\r\n").await;
    let said = client.rest().await;
    assert!(said.starts_with("220 mx.example ESMTP Postmeter\r\n250-mx.example\r\n"), "{said}");
    let tail = "250 STARTTLS\r\n250 2.0.0 OK\r\n500 5.5.2 Command not recognized\r\n\
                530 5.7.0 Send STARTTLS, then authenticate\r\n221 2.0.0 Bye\r\n";
    assert!(said.ends_with(tail), "{said}");
    assert_eq!(client.end().await, End::Closed);
}

#[tokio::test]
async fn p7_what_is_injected_behind_starttls_is_never_obeyed() {
    let mut client = Client::connect("injected", &config());
    client.send(b"EHLO c\r\nSTARTTLS\r\nNOOP\r\n").await;
    let said = client.rest().await;
    assert!(
        said.ends_with("250 STARTTLS\r\n503 5.5.1 Nothing may follow STARTTLS before the TLS handshake\r\n")
    );
}

#[tokio::test]
async fn auth_is_offered_after_starttls_and_a_stranger_is_refused() {
    let certificate = Certificate::new("starttls");
    let mut client = Client::open(&config(), Opening::StartTls(certificate.acceptor()), 64 << 10);
    reply(&mut client.socket).await;
    client.send(b"EHLO c\r\n").await;
    assert!(!reply(&mut client.socket).await.contains("AUTH"));
    client.send(b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n").await;
    assert!(reply(&mut client.socket).await.starts_with("538 5.7.11 "));
    client.send(b"STARTTLS\r\n").await;
    assert!(reply(&mut client.socket).await.starts_with("220 2.0.0 "));
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = certificate.connector().connect(name, &mut client.socket).await.unwrap();
    tls.write_all(b"EHLO c\r\nSTARTTLS\r\n").await.unwrap();
    assert!(reply(&mut tls).await.ends_with("250 AUTH PLAIN LOGIN\r\n"));
    assert!(reply(&mut tls).await.starts_with("503 5.5.1 TLS is active"));
    tls.write_all(b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n").await.unwrap();
    assert!(reply(&mut tls).await.starts_with("535 5.7.8 "));
}

#[tokio::test]
async fn the_implicit_port_greets_under_tls() {
    let certificate = Certificate::new("implicit");
    let mut client = Client::open(&config(), Opening::Implicit(certificate.acceptor()), 64 << 10);
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = certificate.connector().connect(name, &mut client.socket).await.unwrap();
    assert_eq!(reply(&mut tls).await, "220 mx.example ESMTP Postmeter\r\n");
    tls.write_all(b"QUIT\r\n").await.unwrap();
    assert_eq!(reply(&mut tls).await, "221 2.0.0 Bye\r\n");
}

#[tokio::test]
async fn other_protocols_are_turned_away() {
    for (octets, want) in [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(), "521 5.5.1 This is an SMTP server\r\n"),
        (b"\x16\x03\x01\x02\x00".as_slice(), ""),
    ] {
        let mut client = Client::connect("protocols", &config());
        reply(&mut client.socket).await;
        client.send(octets).await;
        assert_eq!(client.rest().await, want);
    }
}

#[tokio::test]
async fn one_connection_too_many_is_turned_away_and_the_others_hear_a_stop() {
    let config = Smtp { max_connections_per_ip: 1, ..config() };
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let (metrics, tasks) = (Metrics::new(), (tracker.clone(), stop.clone()));
    let front = Front::new(server(&config), door(&config), metrics.clone(), tasks);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let opening = Opening::StartTls(Certificate::new("crowd").acceptor());
    tracker.spawn(front.run(listener, opening));
    let mut first = TcpStream::connect(address).await.unwrap();
    assert!(reply(&mut first).await.starts_with("220 "));
    let mut second = TcpStream::connect(address).await.unwrap();
    assert!(reply(&mut second).await.starts_with("421 4.7.0 Too many connections"));
    let open = "postmeter_connections{listener=\"submission\"} 1\n";
    assert!(metrics.encode().contains(open), "{}", metrics.encode());
    stop.cancel();
    assert!(reply(&mut first).await.starts_with("421 4.3.2 "));
    drop((first, second));
    tracker.close();
    tracker.wait().await;
    assert!(metrics.encode().contains("postmeter_connections{listener=\"submission\"} 0\n"));
}

#[tokio::test]
async fn a_stranger_whose_place_is_needed_is_told_to_come_again() {
    let config = Smtp { max_connections: 4, ..config() };
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let tasks = (tracker.clone(), stop.clone());
    let front = Front::new(server(&config), door(&config), Metrics::new(), tasks);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tracker.spawn(front.run(listener, Opening::StartTls(Certificate::new("room").acceptor())));
    let mut strangers = Vec::new();
    for n in 0..10 {
        let mut stranger = TcpStream::connect(address).await.unwrap();
        assert!(reply(&mut stranger).await.starts_with("220 "), "{n}");
        strangers.push(stranger);
        if strangers.len() > 3 {
            let mut first = strangers.remove(0);
            let told = "421 4.7.0 Too many connections, try again later\r\n";
            assert_eq!(reply(&mut first).await, told, "{n}");
            drop(first);
            // Its place is free once more before another comes.
            tokio::time::timeout(Duration::from_secs(10), async {
                while tracker.len() > 4 {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .unwrap();
        }
    }
    stop.cancel();
    for mut stranger in strangers {
        assert!(reply(&mut stranger).await.starts_with("421 4.3.2 "));
    }
    tracker.close();
    tracker.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_drips_is_told_to_go_when_its_minute_is_over() {
    let begun = Instant::now();
    let mut client = Client::connect("drips", &config());
    reply(&mut client.socket).await;
    let said = loop {
        client.send(b"N").await;
        match tokio::time::timeout(Duration::from_secs(7), reply(&mut client.socket)).await {
            Ok(said) => break said,
            Err(_) => assert!(begun.elapsed() < Duration::from_secs(70)),
        }
    };
    assert_eq!(said, "421 4.4.2 Timeout, closing the connection\r\n");
    assert_eq!(client.end().await, End::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_dropped() {
    let mut client = Client::connect_through("deaf", &config(), 64);
    let flood = async { while client.socket.write_all(b"NOOP\r\n").await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(59), flood).await.unwrap();
    assert_eq!(client.end().await, End::Gone);
}

#[tokio::test]
async fn a_stop_is_told_between_commands() {
    let mut client = Client::connect("stop", &config());
    reply(&mut client.socket).await;
    client.stop.cancel();
    assert!(client.rest().await.starts_with("421 4.3.2 "));
    assert_eq!(client.end().await, End::Stopped);
}

#[tokio::test]
async fn a_stop_lets_a_message_be_addressed_and_sent() {
    for lines in [&RECIPIENT[..3], &RECIPIENT] {
        let mut client = client_after(lines, server(&config()));
        assert!(reply(&mut client.socket).await.starts_with("250 2.1."));
        client.stop.cancel();
        tokio::task::yield_now().await;
        client.send(b"NOOP\r\n").await;
        assert!(reply(&mut client.socket).await.starts_with("250 2.0.0 "));
        tokio::task::yield_now().await;
        let (ends_it, said) = if lines.len() == 3 { ("RSET", "250 2.0.0 ") } else { ("DATA\r\n.", "354 ") };
        client.send(format!("{ends_it}\r\n").as_bytes()).await;
        assert!(reply(&mut client.socket).await.starts_with(said));
        assert!(client.rest().await.ends_with("421 4.3.2 Shutting down, try again in a moment\r\n"));
        assert_eq!(client.end().await, End::Stopped);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_recipients_for_ever() {
    let mut client = client_after(&RECIPIENT, server(&config()));
    reply(&mut client.socket).await;
    client.stop.cancel();
    let said = tokio::time::timeout(ADDRESSING_GRACE * 2, client.rest()).await.unwrap();
    assert!(said.starts_with("421 4.3.2 "), "{said}");
}

#[tokio::test]
async fn a_stop_lets_a_body_arrive_to_its_end() {
    let mut client = client_in_data(&config());
    assert!(reply(&mut client.socket).await.starts_with("354 "));
    client.send(b"first half\n").await;
    client.stop.cancel();
    tokio::task::yield_now().await;
    client.send(b"second half\r\n.\r\n").await;
    assert!(reply(&mut client.socket).await.starts_with("554 5.6.0 "));
    assert!(reply(&mut client.socket).await.starts_with("421 4.3.2 "));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_body_for_ever() {
    let mut client = client_in_data(&config());
    reply(&mut client.socket).await;
    client.send(b"half\r\n").await;
    client.stop.cancel();
    let said = tokio::time::timeout(STOP_GRACE * 2, client.rest()).await.unwrap();
    assert!(said.starts_with("421 4.3.2 "));
}

#[tokio::test]
async fn p7_a_body_that_is_refused_is_never_parsed_as_commands() {
    let oversize = Smtp { max_message_bytes: 10_000, ..config() };
    let no_room = Smtp { max_bytes_arriving: 4 << 10, ..config() };
    let line = [b"QUIT ".as_slice(), &[b'x'; 70], b"\r\n"].concat();
    for (config, want) in [(oversize, "552 5.3.4 "), (no_room, "452 4.3.1 ")] {
        let mut client = client_in_data(&config);
        reply(&mut client.socket).await;
        for _ in 0..2_000 {
            client.send(&line).await;
        }
        client.send(b".\r\nDATA\r\n").await;
        assert!(reply(&mut client.socket).await.starts_with(want));
        assert!(reply(&mut client.socket).await.starts_with("503 5.5.1 "));
    }
}

#[tokio::test(start_paused = true)]
async fn p7_a_doubtful_end_is_refused_and_nothing_after_it_is_obeyed() {
    let mut client = client_in_data(&config());
    reply(&mut client.socket).await;
    client.send(b"text\r\r\n.\r\n").await;
    assert!(client.rest().await.starts_with("554 5.6.0 "));

    let mut client = client_in_data(&config());
    reply(&mut client.socket).await;
    client.send(b"text\r\r\n.\r\nMAIL FROM:<x@y.example>\r\n.\r\nQUIT\r\n").await;
    assert!(reply(&mut client.socket).await.starts_with("554 5.6.0 "));
    assert!(reply(&mut client.socket).await.starts_with("221 2.0.0 "));
}

#[tokio::test]
async fn who_is_idle_keeps_no_room_for_what_they_might_do() {
    // And as much again for each of the two boxes in it.
    const MOST: usize = 16 << 10;
    let config = Smtp::default();
    let (_socket, theirs) = duplex(1);
    let (server, stranger) =
        (server(&config), door(&config).stranger(Instant::now(), &CancellationToken::new()));
    let peer = SocketAddr::from(([192, 0, 2, 1], 4_711));
    let opening = Opening::StartTls(Certificate::new("idle").acceptor());
    let size = size_of_val(&serve(&server, theirs, peer, opening, stranger));
    assert!(size < MOST, "{size} octets a connection");
}
