//! Clients that take their time, each from an address of its own: it goes as far as its
//! seat in the protocol, and from there it says an octet now and then, and is never done.
//! The bench and a test of the running program sit with the same crowd.

use std::io::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

/// From here come those who owe a PROXY header: it must be among `smtp.trusted_proxies`.
pub(crate) const PROXIES: &str = "127.3.0.0/16";

/// The server, and whoever may sign in there.
#[derive(Clone)]
pub(crate) struct Host {
    /// STARTTLS.
    pub(crate) smtp: SocketAddr,
    /// Implicit TLS.
    pub(crate) smtps: SocketAddr,
    pub(crate) connector: TlsConnector,
    /// The initial response of AUTH PLAIN.
    pub(crate) token: String,
    /// A sender that the customer may use.
    pub(crate) sender: &'static str,
}

/// So many commands a client that does not read says at once: fewer than end a session.
const UNREAD: usize = 900;
/// What it has room for, in octets; the system makes the least that it knows of it.
const NO_ROOM: u32 = 1;

/// Where in the protocol a client sits.
#[derive(Debug, Clone, Copy)]
enum Seat {
    /// It has heard the banner and is silent.
    Banner,
    /// In the middle of a command, in the clear.
    Line,
    /// Behind very many commands, of whose replies it takes none. On loopback the system keeps
    /// them for it; where packets are small the server waits until it may write.
    Deaf,
    /// In the middle of its first TLS record.
    Handshake,
    /// In the middle of a PROXY header.
    ProxyHeader,
    /// In the middle of its answer to AUTH's challenge.
    SignIn,
    /// Signed in, between one command and the next.
    Commands,
    /// In a body after DATA.
    Data,
    /// In a chunk that it has announced.
    Chunk,
}

impl Seat {
    const ALL: [Self; 9] = [
        Self::Banner,
        Self::Line,
        Self::Deaf,
        Self::Handshake,
        Self::ProxyHeader,
        Self::SignIn,
        Self::Commands,
        Self::Data,
        Self::Chunk,
    ];

    /// What it says now and then.
    fn drop(self) -> &'static [u8] {
        match self {
            Self::Banner => b"",
            Self::Handshake => b"\x01",
            Self::ProxyHeader => b"1",
            Self::Deaf | Self::Commands => b"NOOP\r\n",
            Self::Line | Self::SignIn | Self::Data | Self::Chunk => b"x",
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// One of the crowd, in its seat.
pub(crate) struct Slow {
    stream: Box<dyn Duplex>,
    seat: Seat,
}

impl Slow {
    /// Takes its seat: they go round by number, which is below 65,535.
    pub(crate) async fn open(number: usize, host: &Host) -> Result<Self> {
        let seat = Seat::ALL[number % Seat::ALL.len()];
        let network = if matches!(seat, Seat::ProxyHeader) { 3 } else { 1 };
        let [high, low] = u16::try_from(number + 1).map_err(Error::other)?.to_be_bytes();
        let socket = TcpSocket::new_v4()?;
        socket.bind((IpAddr::V4(Ipv4Addr::new(127, network, high, low)), 0).into())?;
        if matches!(seat, Seat::Deaf) {
            socket.set_recv_buffer_size(NO_ROOM)?;
        }
        let address = if matches!(seat, Seat::Handshake) { host.smtps } else { host.smtp };
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let mut slow = Self { stream: Box::new(stream), seat };
        slow.sit(host).await?;
        Ok(slow)
    }

    async fn sit(&mut self, host: &Host) -> Result<()> {
        let seat = self.seat;
        match seat {
            Seat::Deaf => return self.say(&b"EHLO slow.example\r\n".repeat(UNREAD)).await,
            // A record of 512 octets is to follow.
            Seat::Handshake => return self.say(b"\x16\x03\x01\x02\x00").await,
            Seat::ProxyHeader => return self.say(b"PROXY TCP4 ").await,
            _ => self.hear("220 ").await?,
        }
        match seat {
            Seat::Line => return self.say(b"NOOP ").await,
            Seat::SignIn | Seat::Commands | Seat::Data | Seat::Chunk => {}
            _ => return Ok(()),
        }
        self.ask("EHLO slow.example", "250").await?;
        self.ask("STARTTLS", "220 ").await?;
        let clear = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let name = ServerName::try_from("localhost").map_err(Error::other)?;
        self.stream = Box::new(host.connector.connect(name, clear).await?);
        self.ask("EHLO slow.example", "250").await?;
        if matches!(seat, Seat::SignIn) {
            return self.ask("AUTH PLAIN", "334 ").await;
        }
        self.ask(&format!("AUTH PLAIN {}", host.token), "235 ").await?;
        if matches!(seat, Seat::Commands) {
            return Ok(());
        }
        self.ask(&format!("MAIL FROM:<{}>", host.sender), "250 ").await?;
        self.ask("RCPT TO:<someone@elsewhere.example>", "250 ").await?;
        match seat {
            Seat::Data => self.ask("DATA", "354 ").await,
            _ => self.say(b"BDAT 100000 LAST\r\n").await,
        }
    }

    /// Says a little more of what never ends.
    pub(crate) async fn drip(&mut self) -> Result<()> {
        self.say(self.seat.drop()).await
    }

    /// Waits until the server has let it go, which a client that does not read hears when it
    /// says something. Whoever waits no longer has lost nothing.
    pub(crate) async fn let_go(&mut self) {
        if matches!(self.seat, Seat::Deaf) {
            return std::future::pending().await;
        }
        let mut heard = [0; 512];
        while self.stream.read(&mut heard).await.is_ok_and(|octets| octets > 0) {}
    }

    async fn say(&mut self, octets: &[u8]) -> Result<()> {
        self.stream.write_all(octets).await?;
        self.stream.flush().await
    }

    async fn ask(&mut self, line: &str, reply: &str) -> Result<()> {
        self.say(format!("{line}\r\n").as_bytes()).await?;
        self.hear(reply).await
    }

    /// Hears one reply, all its lines: nothing is said before it has come.
    async fn hear(&mut self, reply: &str) -> Result<()> {
        let mut heard = Vec::new();
        while !is_whole(&heard) {
            if self.stream.read_buf(&mut heard).await? == 0 {
                return Err(Error::other(format!("let go instead of hearing {reply}")));
            }
        }
        match heard.starts_with(reply.as_bytes()) {
            true => Ok(()),
            false => Err(Error::other(format!("{} instead of {reply}", heard.escape_ascii()))),
        }
    }
}

/// Whether its last line is there, the one whose code a space follows (RFC 5321 §4.2.1).
fn is_whole(reply: &[u8]) -> bool {
    let last = reply.split_inclusive(|octet| *octet == b'\n').next_back();
    last.is_some_and(|line| line.ends_with(b"\r\n") && line.get(3) == Some(&b' '))
}
