//! An SMTP server for tests: says what it was told to say, keeps what it heard.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What it says to a line that begins so, before [`USUAL`]; nothing means that
/// it closes the connection.
type Replies = &'static [(&'static str, &'static str)];

/// What a server says. `GREETING` is the beginning, `DOT` the end of a message;
/// `BODY` and `AFTER MESSAGE` are moments at which it may close; `SECOND MAIL` is
/// the second of a connection.
const USUAL: Replies = &[
    ("GREETING", "220 test ESMTP"),
    ("EHLO", "250-test\r\n250-SIZE 50000000\r\n250-8bitmime\r\n250 SMTPUTF8"),
    ("AUTH", "235 2.7.0 ok"),
    ("MAIL", "250 2.1.0 ok"),
    ("RCPT", "250 2.1.5 ok"),
    ("DATA", "354 go on"),
    ("BODY", "go on"),
    ("DOT", "250 2.0.0 queued as 42"),
    ("AFTER MESSAGE", "go on"),
    ("RSET", "250 2.0.0 ok"),
    ("QUIT", "221 2.0.0 bye"),
    ("STARTTLS", "220 2.0.0 go"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    Implicit,
    StartTls,
}

#[derive(Debug, Default)]
struct Heard {
    connections: usize,
    lines: Vec<String>,
    messages: Vec<Vec<u8>>,
}

/// The running server; it ends with the test's runtime.
pub(super) struct Server {
    url: String,
    heard: Arc<Mutex<Heard>>,
    ca_file: Option<PathBuf>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.ca_file {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[derive(Clone)]
struct Session {
    replies: Vec<(&'static str, &'static str)>,
    heard: Arc<Mutex<Heard>>,
    tls: Option<(Tls, TlsAcceptor)>,
}

impl Server {
    pub(super) async fn start(replies: &[(&'static str, &'static str)]) -> Self {
        Self::serve(None, replies).await
    }

    /// With a certificate for `localhost`, whose file the URL names.
    pub(super) async fn start_tls(tls: Tls, replies: &[(&'static str, &'static str)]) -> Self {
        Self::serve(Some(tls), replies).await
    }

    async fn serve(tls: Option<Tls>, replies: &[(&'static str, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (mut url, mut ca_file, mut acceptor) = (format!("smtp://127.0.0.1:{port}"), None, None);
        if let Some(tls) = tls {
            let (path, made) = certificate(port);
            url = match tls {
                Tls::Implicit => format!("smtps://localhost:{port}?ca={}", path.display()),
                Tls::StartTls => format!("smtp://localhost:{port}?tls=required&ca={}", path.display()),
            };
            (ca_file, acceptor) = (Some(path), Some((tls, made)));
        }
        let mut replies = replies.to_vec();
        if tls == Some(Tls::StartTls) {
            replies.push(("EHLO", "250-test\r\n250 STARTTLS"));
        }
        replies.extend(USUAL);
        let session = Session { replies, heard: Arc::clone(&heard), tls: acceptor };
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // Replies to commands that came at once must not wait for one another.
                tcp.set_nodelay(true).unwrap();
                session.heard.lock().unwrap().connections += 1;
                tokio::spawn(session.clone().run(tcp));
            }
        });
        Self { url, heard, ca_file }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.heard.lock().unwrap().connections
    }

    pub(super) fn said(&self) -> Vec<String> {
        self.heard.lock().unwrap().lines.clone()
    }

    pub(super) fn messages(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().messages.clone()
    }
}

/// A certificate of its own making, its file, and a server that shows it.
fn certificate(port: u16) -> (PathBuf, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = std::env::temp_dir().join(format!("postmeter-ca-{}-{port}.pem", std::process::id()));
    std::fs::write(&path, made.cert.pem()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
    (path, TlsAcceptor::from(Arc::new(config)))
}

impl Session {
    async fn run(self, mut tcp: TcpStream) -> Option<()> {
        match self.tls.clone() {
            None => self.talk(&mut tcp, true).await.map(|_| ()),
            Some((Tls::Implicit, acceptor)) => {
                self.talk(&mut acceptor.accept(tcp).await.ok()?, true).await.map(|_| ())
            }
            Some((Tls::StartTls, acceptor)) => {
                self.talk(&mut tcp, true).await?;
                self.talk(&mut acceptor.accept(tcp).await.ok()?, false).await.map(|_| ())
            }
        }
    }

    /// Talks until STARTTLS (`Some`) or the end (`None`).
    async fn talk(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), greet: bool) -> Option<()> {
        let mut stream = BufReader::new(stream);
        if greet {
            self.say(&mut stream, "GREETING").await?;
        }
        let mut mails = 0;
        loop {
            let mut line = Vec::new();
            if stream.read_until(b'\n', &mut line).await.ok()? == 0 {
                return None;
            }
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r\n")?).into_owned();
            self.heard.lock().unwrap().lines.push(line.clone());
            mails += usize::from(line.starts_with("MAIL"));
            let is_special = line.starts_with("MAIL") && mails == 2 && self.reply_to("SECOND MAIL").is_some();
            let reply = self.say(&mut stream, if is_special { "SECOND MAIL" } else { &line }).await?;
            match line.as_str() {
                "STARTTLS" if reply.starts_with("220") => return Some(()),
                "DATA" if reply.starts_with("354") => {
                    self.reply_to("BODY")?;
                    let message = message(&mut stream).await?;
                    self.heard.lock().unwrap().messages.push(message);
                    self.say(&mut stream, "DOT").await?;
                    self.reply_to("AFTER MESSAGE")?;
                }
                _ => {}
            }
        }
    }

    fn reply_to(&self, line: &str) -> Option<&'static str> {
        let found = self.replies.iter().find(|(start, _)| line.starts_with(start));
        found.map(|(_, reply)| *reply).filter(|reply| !reply.is_empty())
    }

    async fn say(&self, stream: &mut (impl AsyncWrite + Unpin), line: &str) -> Option<&'static str> {
        let reply = self.reply_to(line)?;
        // As ISO-8859-1, which is what a server in another charset would send.
        let octets: Vec<u8> = format!("{reply}\r\n").chars().map(|c| u8::try_from(c).unwrap()).collect();
        stream.write_all(&octets).await.ok()?;
        stream.flush().await.ok()?;
        Some(reply)
    }
}

/// A message up to its final dot, unstuffed.
async fn message(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await.ok()? == 0 {
            return None;
        }
        if line == b".\r\n" {
            return Some(message);
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}
