//! A connection to the upstream server: TCP, TLS, EHLO, AUTH, and one command
//! after another.
//!
//! TLS is ours and lettre speaks SMTP inside it. lettre's own STARTTLS keeps
//! what it read before the handshake, so replies that somebody slipped in there
//! would count as the server's; here a server that says more than its `220`
//! before the handshake is not spoken to. Replies are shown to lettre as ASCII:
//! it takes one in another charset for a lost connection, and after the final
//! dot that would mean to send the mail again.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lettre::transport::smtp;
use lettre::transport::smtp::authentication::Mechanism;
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::url::{Security, SmtpUrl};
use crate::upstream::Answer;

/// Longest wait for the end of a message and the reply to it (RFC 5321 §4.5.3.2.6).
const FINAL_DOT_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest wait for a reply that changes nothing for the part.
const COURTESY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest reply before TLS, in octets.
const MAX_PLAIN_REPLY_OCTETS: usize = 8_192;
/// The most of a message that is dot-stuffed at a time, in octets.
const CHUNK_OCTETS: usize = 65_536;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unconnected {
    /// The server is away or asks to come back: the queue waits.
    NotNow(Answer),
    /// Only the operator can mend it: certificate, credentials, no TLS.
    Misconfigured(String),
}

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server said no.
    Reply {
        /// The reply code, 400 to 599.
        code: u16,
        /// The reply.
        answer: Answer,
    },
    /// It said nothing that can be understood; the connection is of no more use.
    Lost(Answer),
}

/// What the server offers in EHLO, as far as MAIL can use it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offered {
    /// RFC 6152.
    pub(super) eight_bit_mime: bool,
    /// RFC 6531.
    pub(super) smtputf8: bool,
    /// RFC 1870; a limit, if it names one, is told in the reply to MAIL.
    pub(super) size: bool,
}

/// A connection that is ready for MAIL.
pub(super) struct Connection {
    smtp: AsyncSmtpConnection,
    offered: Offered,
    timeout: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No transaction is open.
    Clean,
    /// MAIL was said.
    Open,
    /// Of no more use.
    Broken,
}

impl Connection {
    /// Connects, protects the way, signs in, and asks what is offered.
    pub(super) async fn open(url: &SmtpUrl, hostname: &str, wait: Duration) -> Result<Self, Unconnected> {
        let opened = timeout(wait, Self::open_unhurried(url, hostname, wait)).await;
        opened.unwrap_or_else(|_| Err(not_now("cannot connect: timed out")))
    }

    async fn open_unhurried(url: &SmtpUrl, hostname: &str, wait: Duration) -> Result<Self, Unconnected> {
        let wire = Wire::open(url, hostname).await?;
        let hello = ClientId::Domain(hostname.to_owned());
        let smtp = AsyncSmtpConnection::connect_with_transport(Box::new(wire), &hello);
        let smtp = smtp.await.map_err(|error| not_greeted(&trouble(&error)))?;
        let mut connection = Self { smtp, offered: Offered::default(), timeout: wait, state: State::Clean };
        if let Some(credentials) = &url.credentials {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            let signed_in = connection.smtp.auth(&mechanisms, credentials).await;
            signed_in.map_err(|error| not_signed_in(&error))?;
        }
        // lettre drops what it does not know, SIZE among it.
        let offers = connection.ask(&format!("EHLO {hello}\r\n")).await;
        connection.offered = Offered::read(&offers.map_err(|trouble| not_greeted(&trouble))?);
        Ok(connection)
    }

    /// What the server offers.
    pub(super) fn offered(&self) -> Offered {
        self.offered
    }

    /// Says `MAIL …`, which opens a transaction.
    pub(super) async fn mail(&mut self, command: &str) -> Result<Response, Trouble> {
        self.state = State::Open;
        self.ask(command).await
    }

    /// Says one command, with its CRLF, and waits for the reply.
    pub(super) async fn ask(&mut self, command: &str) -> Result<Response, Trouble> {
        self.ask_within(self.timeout, command).await
    }

    async fn ask_within(&mut self, wait: Duration, command: &str) -> Result<Response, Trouble> {
        let asked = timeout(wait, self.smtp.command(command)).await;
        self.heard(asked.map_err(|_| "timed out"))
    }

    /// Sends the message and its final dot. `Err(Lost)` is told apart by
    /// whether the final dot may have left: `true` if it may.
    pub(super) async fn message(&mut self, bytes: &[u8]) -> (Result<Response, Trouble>, bool) {
        let mut body = Body::new(bytes);
        let wait = self.timeout.max(FINAL_DOT_TIMEOUT);
        let sent = timeout(wait, self.smtp.message_iter(&mut body)).await;
        let heard = self.heard(sent.map_err(|_| "timed out"));
        // Any reply to the final dot ends the transaction.
        if body.is_exhausted && self.state == State::Open {
            self.state = State::Clean;
        }
        (heard, body.is_exhausted)
    }

    /// Makes it ready for the next part; `false` if it is of no more use.
    pub(super) async fn settle(&mut self) -> bool {
        if self.state == State::Open && self.ask_within(COURTESY_TIMEOUT, "RSET\r\n").await.is_ok() {
            self.state = State::Clean;
        }
        self.state == State::Clean
    }

    /// Takes leave.
    pub(super) async fn quit(&mut self) {
        // Whether the server says good-bye changes nothing.
        let _ = self.ask_within(COURTESY_TIMEOUT, "QUIT\r\n").await;
    }

    fn heard(
        &mut self,
        reply: Result<Result<Response, smtp::Error>, &'static str>,
    ) -> Result<Response, Trouble> {
        let heard = match reply {
            Ok(reply) => reply.map_err(|error| trouble(&error)),
            Err(reason) => Err(lost(reason)),
        };
        // After 421 the server closes (RFC 5321 §3.8).
        if matches!(heard, Err(Trouble::Lost(_) | Trouble::Reply { code: 421, .. })) {
            self.state = State::Broken;
        }
        heard
    }
}

impl Offered {
    fn read(reply: &Response) -> Self {
        let mut offered = Self::default();
        for line in reply.message().skip(1) {
            let keyword = line.split_ascii_whitespace().next().unwrap_or_default();
            offered.eight_bit_mime |= keyword.eq_ignore_ascii_case("8BITMIME");
            offered.smtputf8 |= keyword.eq_ignore_ascii_case("SMTPUTF8");
            offered.size |= keyword.eq_ignore_ascii_case("SIZE");
        }
        offered
    }
}

/// The message in pieces, without its last CRLF: lettre ends every message with
/// `CRLF . CRLF`, and would add an empty line to one that ends in CRLF itself.
/// When the last piece was taken, the dot follows.
struct Body<'a> {
    rest: &'a [u8],
    is_exhausted: bool,
}

impl<'a> Body<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes.strip_suffix(b"\r\n").unwrap_or(bytes), is_exhausted: false }
    }
}

impl<'a> Iterator for Body<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (chunk, rest) = self.rest.split_at_checked(CHUNK_OCTETS).unwrap_or((self.rest, &[]));
        self.rest = rest;
        self.is_exhausted = chunk.is_empty();
        (!chunk.is_empty()).then_some(chunk)
    }
}

fn trouble(error: &smtp::Error) -> Trouble {
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    match error.status() {
        Some(code) => {
            let code = u16::from(code);
            Trouble::Reply { code, answer: answer_of(code, &text) }
        }
        None => lost(if text.is_empty() { "no reply" } else { &text }),
    }
}

fn lost(reason: &str) -> Trouble {
    Trouble::Lost(Answer::new("4.4.2", &format!("the connection to the upstream was lost: {reason}")))
}

/// The enhanced status code in front of the text, if it agrees with the reply
/// code (RFC 2034 §4); otherwise the reply code's class with nothing known.
fn answer_of(code: u16, text: &str) -> Answer {
    let class = code / 100;
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    let mut fields = first.split('.');
    let sound = fields.next() == Some(class.to_string().as_str())
        && fields.clone().count() == 2
        && fields.all(|f| (1..=3).contains(&f.len()) && f.bytes().all(|b| b.is_ascii_digit()));
    let status = if sound { first.to_owned() } else { format!("{class}.0.0") };
    Answer::new(&status, &format!("{code} {text}"))
}

fn not_now(reason: &str) -> Unconnected {
    Unconnected::NotNow(Answer::new("4.4.1", &format!("the upstream: {reason}")))
}

fn not_greeted(trouble: &Trouble) -> Unconnected {
    match trouble {
        Trouble::Reply { code: 500.., answer } => {
            Unconnected::Misconfigured(format!("the upstream does not want us: {}", answer.text))
        }
        Trouble::Reply { answer, .. } | Trouble::Lost(answer) => Unconnected::NotNow(answer.clone()),
    }
}

fn not_signed_in(error: &smtp::Error) -> Unconnected {
    if error.is_client() {
        return Unconnected::Misconfigured("the upstream offers neither AUTH PLAIN nor LOGIN".to_owned());
    }
    match trouble(error) {
        Trouble::Reply { code: 500.., answer } => {
            Unconnected::Misconfigured(format!("the upstream refused the credentials: {}", answer.text))
        }
        Trouble::Reply { answer, .. } | Trouble::Lost(answer) => Unconnected::NotNow(answer),
    }
}

/// The octets under lettre.
struct Wire {
    stream: Stream,
    /// What lettre reads first: the greeting that was heard before STARTTLS.
    greeting: &'static [u8],
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    async fn open(url: &SmtpUrl, hostname: &str) -> Result<Self, Unconnected> {
        let unreachable = |error: io::Error| not_now(&format!("cannot connect: {error}"));
        let mut tcp = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        match &url.security {
            Security::Plaintext => Ok(Self { stream: Stream::Plain(tcp), greeting: b"" }),
            Security::Implicit(config) => {
                Ok(Self { stream: tls(&url.host, tcp, config).await?, greeting: b"" })
            }
            Security::StartTls(config) => {
                ask_for_tls(&mut tcp, hostname).await?;
                Ok(Self { stream: tls(&url.host, tcp, config).await?, greeting: b"220 TLS\r\n" })
            }
        }
    }
}

async fn tls(host: &str, tcp: TcpStream, config: &Arc<ClientConfig>) -> Result<Stream, Unconnected> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        Unconnected::Misconfigured("the upstream's name cannot stand in a certificate".into())
    })?;
    let connected = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await;
    let stream = connected.map_err(|error| {
        // A certificate or a server that does not speak TLS, rather than the network.
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            Unconnected::Misconfigured(format!("no TLS with the upstream: {error}"))
        } else {
            not_now(&format!("no TLS: {error}"))
        }
    })?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// Greeting, EHLO, STARTTLS, in the clear (RFC 3207 §4).
async fn ask_for_tls(tcp: &mut TcpStream, hostname: &str) -> Result<(), Unconnected> {
    plain_reply(tcp).await?;
    let ehlo = say(tcp, &format!("EHLO {hostname}\r\n")).await?;
    let offered = ehlo
        .lines()
        .any(|line| line.get(4..).is_some_and(|keyword| keyword.trim().eq_ignore_ascii_case("STARTTLS")));
    if !offered {
        let reason = "the upstream does not offer STARTTLS, and TLS is required";
        return Err(Unconnected::Misconfigured(reason.to_owned()));
    }
    say(tcp, "STARTTLS\r\n").await?;
    Ok(())
}

async fn say(tcp: &mut TcpStream, command: &str) -> Result<String, Unconnected> {
    tcp.write_all(command.as_bytes()).await.map_err(|error| not_now(&error.to_string()))?;
    plain_reply(tcp).await
}

/// One positive reply, and nothing after it.
async fn plain_reply(tcp: &mut TcpStream) -> Result<String, Unconnected> {
    let mut octets = Vec::new();
    while !is_whole_reply(&octets) {
        if octets.len() > MAX_PLAIN_REPLY_OCTETS {
            return Err(not_now("its reply has no end"));
        }
        let read = tcp.read_buf(&mut octets).await.map_err(|error| not_now(&error.to_string()))?;
        if read == 0 {
            return Err(not_now("it closed the connection before TLS"));
        }
    }
    let text = String::from_utf8_lossy(&octets).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let ends = lines.iter().filter(|line| line.as_bytes().get(3) != Some(&b'-')).count();
    if ends != 1 {
        return Err(Unconnected::Misconfigured("the upstream says too much before TLS".to_owned()));
    }
    match text.as_bytes().first() {
        Some(b'2') => Ok(text),
        Some(b'5') => {
            Err(Unconnected::Misconfigured(format!("the upstream does not want us: {}", text.trim())))
        }
        // What is no reply at all may be a proxy's word about a server that is away.
        _ => Err(not_now(text.trim())),
    }
}

/// Whether the last line is there with its end and is not to be continued.
fn is_whole_reply(octets: &[u8]) -> bool {
    let Some(lines) = octets.strip_suffix(b"\n") else {
        return false;
    };
    let last = lines.rsplit(|octet| *octet == b'\n').next().unwrap_or_default();
    last.get(3) != Some(&b'-')
}

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.stream {
            Stream::Plain(tcp) => tcp.peer_addr(),
            Stream::Tls(tls) => tls.get_ref().0.peer_addr(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.greeting.is_empty() {
            let room = buffer.remaining().min(self.greeting.len());
            let (now, later) = self.greeting.split_at_checked(room).unwrap_or((self.greeting, b""));
            buffer.put_slice(now);
            self.greeting = later;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Stream::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        })?;
        for octet in buffer.filled_mut().iter_mut().skip(before).filter(|octet| !octet.is_ascii()) {
            *octet = b'?';
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(context, octets),
            Stream::Tls(tls) => Pin::new(tls).poll_write(context, octets),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
