//! An SMTP server upstream that says what it is told to say and keeps what it took.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::RUNTIME;

/// What the program signs in with here; any password would do.
pub(crate) const SINK_PASSWORD: &str = "relay-secret-4711";

/// In the place of a reply: the connection ends.
pub(crate) const CLOSE: &str = "close";
/// In the place of the reply to a message: it is taken, and then the connection ends.
pub(crate) const TAKE_AND_CLOSE: &str = "take and close";

/// How it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// In the clear.
    None,
    /// Under TLS after STARTTLS.
    StartTls,
    /// Under TLS from the first octet.
    Implicit,
}

/// A mail that it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SinkMail {
    /// The reverse-path, without its brackets.
    pub(crate) from: String,
    /// The recipients that it took.
    pub(crate) to: Vec<String>,
    /// The message, dots unstuffed.
    pub(crate) bytes: Vec<u8>,
}

/// A reply that is not the usual one.
#[derive(Debug)]
struct Rule {
    /// To a line that begins so; `BANNER` is the connection, `DOT` the end of a message.
    to: String,
    /// What is said; nothing: never anything.
    reply: String,
    times: usize,
    /// How long it takes to say it.
    late: Duration,
}

#[derive(Debug, Default)]
struct Heard {
    mails: Vec<SinkMail>,
    /// Every MAIL and RCPT.
    commands: Vec<String>,
    rules: Vec<Rule>,
    /// Lines that were answered with nothing.
    unanswered: usize,
    /// How long a message that was taken waits for its answer.
    pause: Duration,
}

/// The server. It ends with the test binary.
#[derive(Debug)]
pub(crate) struct Sink {
    url: String,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Clone)]
struct Door {
    heard: Arc<Mutex<Heard>>,
    security: Security,
    acceptor: Option<TlsAcceptor>,
}

impl Sink {
    /// Starts it; the certificate that it shows is written to `ca`.
    pub(crate) fn start(security: Security, ca: &Path) -> Self {
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port();
        let user = format!("relay:{SINK_PASSWORD}");
        let (url, acceptor) = match security {
            Security::None => (format!("smtp://{user}@127.0.0.1:{port}"), None),
            Security::StartTls => {
                let url = format!("smtp://{user}@localhost:{port}?tls=required&ca={}", ca.display());
                (url, Some(acceptor(ca)))
            }
            Security::Implicit => {
                (format!("smtps://{user}@localhost:{port}?ca={}", ca.display()), Some(acceptor(ca)))
            }
        };
        let heard = Arc::new(Mutex::new(Heard::default()));
        let door = Door { heard: Arc::clone(&heard), security, acceptor };
        RUNTIME.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                RUNTIME.spawn(door.clone().serve(tcp));
            }
        });
        Self { url, heard }
    }

    /// `UPSTREAM_SMTP_URL`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Says `reply` to every line that begins with `to`.
    pub(crate) fn reply(&self, to: &str, reply: &str) {
        self.reply_times(usize::MAX, to, reply);
    }

    /// The same, so many times.
    pub(crate) fn reply_times(&self, times: usize, to: &str, reply: &str) {
        let rule = Rule { to: to.to_owned(), reply: reply.to_owned(), times, late: Duration::ZERO };
        self.heard.lock().unwrap().rules.push(rule);
    }

    /// Says what it is to say to the next line that begins so, but late.
    pub(crate) fn reply_late(&self, late: Duration, to: &str, reply: &str) {
        let rule = Rule { to: to.to_owned(), reply: reply.to_owned(), times: 1, late };
        self.heard.lock().unwrap().rules.push(rule);
    }

    /// Says nothing more to a line that begins with `to`.
    pub(crate) fn hang(&self, to: &str) {
        self.reply(to, "");
    }

    /// Takes its time between a message that it took and the answer.
    pub(crate) fn pause(&self, pause: Duration) {
        self.heard.lock().unwrap().pause = pause;
    }

    /// Is its usual self again.
    pub(crate) fn behave(&self) {
        let mut heard = self.heard.lock().unwrap();
        heard.rules.clear();
        heard.pause = Duration::ZERO;
    }

    /// How many rules have yet to be followed.
    pub(crate) fn pending(&self) -> usize {
        self.heard.lock().unwrap().rules.iter().filter(|rule| rule.times > 0).count()
    }

    /// How many lines it has left without an answer.
    pub(crate) fn unanswered(&self) -> usize {
        self.heard.lock().unwrap().unanswered
    }

    /// Every MAIL and RCPT as it was said.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.heard.lock().unwrap().commands.clone()
    }

    /// The mails that it took, oldest first.
    pub(crate) fn mails(&self) -> Vec<SinkMail> {
        self.heard.lock().unwrap().mails.clone()
    }
}

fn acceptor(ca: &Path) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(ca, made.cert.pem()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

impl Door {
    async fn serve(self, mut tcp: TcpStream) -> Option<()> {
        match (self.security, self.acceptor.clone()) {
            (Security::Implicit, Some(acceptor)) => {
                self.talk(&mut acceptor.accept(tcp).await.ok()?, true).await
            }
            (Security::StartTls, Some(acceptor)) => {
                self.talk(&mut tcp, true).await?;
                self.talk(&mut acceptor.accept(tcp).await.ok()?, false).await
            }
            _ => self.talk(&mut tcp, true).await,
        }
    }

    /// `Some`: STARTTLS was asked for.
    async fn talk(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), greet: bool) -> Option<()> {
        let may_upgrade = greet && self.security == Security::StartTls;
        let mut stream = BufReader::new(stream);
        if greet {
            self.say(&mut stream, "BANNER", "220 sink.example ESMTP").await?;
        }
        let mut mail = SinkMail { from: String::new(), to: Vec::new(), bytes: Vec::new() };
        loop {
            let line = line(&mut stream).await?;
            let line = String::from_utf8(line).ok()?.trim_end().to_owned();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            if matches!(verb.as_str(), "MAIL" | "RCPT") {
                self.heard.lock().unwrap().commands.push(line.clone());
            }
            let offered = if may_upgrade { "250-STARTTLS\r\n" } else { "" };
            let usual = match verb.as_str() {
                "EHLO" => format!(
                    "250-sink.example\r\n{offered}250-8BITMIME\r\n250-AUTH PLAIN LOGIN\r\n250 SMTPUTF8"
                ),
                "AUTH" => "235 2.7.0 welcome".to_owned(),
                "STARTTLS" => "220 2.0.0 go".to_owned(),
                "MAIL" | "RSET" | "NOOP" => "250 2.1.0 ok".to_owned(),
                "RCPT" => "250 2.1.5 ok".to_owned(),
                "DATA" => "354 go on".to_owned(),
                "QUIT" => "221 2.0.0 bye".to_owned(),
                _ => "500 5.5.2 what?".to_owned(),
            };
            let reply = self.say(&mut stream, &line, &usual).await?;
            let is_taken = reply.starts_with('2') || reply.starts_with('3');
            match verb.as_str() {
                "STARTTLS" if is_taken => return Some(()),
                "MAIL" => mail = SinkMail { from: path(&line), to: Vec::new(), bytes: Vec::new() },
                "RCPT" if is_taken => mail.to.push(path(&line)),
                "DATA" if is_taken => {
                    mail.bytes = message(&mut stream).await?;
                    let rule = self.rule("DOT").await;
                    if rule.as_deref().is_none_or(|reply| reply == TAKE_AND_CLOSE || reply.starts_with('2')) {
                        // Kept before it is said: whoever hears of it finds it.
                        self.heard.lock().unwrap().mails.push(mail.clone());
                    }
                    let pause = self.heard.lock().unwrap().pause;
                    tokio::time::sleep(pause).await;
                    let reply = rule.unwrap_or_else(|| "250 2.0.0 queued as 42".to_owned());
                    self.answer(&mut stream, &reply).await?;
                }
                _ => {}
            }
        }
    }

    async fn say(&self, stream: &mut (impl AsyncWrite + Unpin), line: &str, usual: &str) -> Option<String> {
        let reply = self.rule(line).await.unwrap_or_else(|| usual.to_owned());
        self.answer(stream, &reply).await?;
        Some(reply)
    }

    async fn answer(&self, stream: &mut (impl AsyncWrite + Unpin), reply: &str) -> Option<()> {
        if reply == CLOSE || reply == TAKE_AND_CLOSE {
            return None;
        }
        if reply.is_empty() {
            self.heard.lock().unwrap().unanswered += 1;
            std::future::pending::<()>().await;
        }
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
        stream.flush().await.ok()
    }

    /// What is to be said to this line, when it is time.
    async fn rule(&self, line: &str) -> Option<String> {
        let (reply, late) = {
            let mut heard = self.heard.lock().unwrap();
            let found = heard.rules.iter_mut().find(|rule| rule.times > 0 && line.starts_with(&rule.to))?;
            found.times = found.times.saturating_sub(1);
            (found.reply.clone(), found.late)
        };
        tokio::time::sleep(late).await;
        Some(reply)
    }
}

/// What stands between the brackets.
fn path(line: &str) -> String {
    let path = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    path.map(|(path, _)| path.to_owned()).unwrap_or_default()
}

async fn line(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    (stream.read_until(b'\n', &mut line).await.ok()? > 0).then_some(line)
}

async fn message(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let line = line(stream).await?;
        if line == b".\r\n" {
            return Some(message);
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}
