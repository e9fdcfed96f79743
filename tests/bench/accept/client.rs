//! A small SMTP client: connect, STARTTLS, AUTH PLAIN, messages, QUIT. It is the same for every
//! server and spends as little as it can, so that what is measured is the server.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where to submit, and as whom.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    pub(crate) username: String,
    pub(crate) secret: String,
    pub(crate) connector: TlsConnector,
}

/// A signed-in session.
pub(crate) struct Session {
    wire: Wire<TlsStream<TcpStream>>,
}

impl Session {
    /// Banner, EHLO, STARTTLS, EHLO, AUTH PLAIN with its initial response (RFC 4954 §4).
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Self> {
        let stream = TcpStream::connect(endpoint.addr).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let mut plain = Wire::new(stream);
        plain.expect(220).await.context("banner")?;
        plain.ask(b"EHLO client.bench.example\r\n", 250).await.context("EHLO")?;
        plain.ask(b"STARTTLS\r\n", 220).await.context("STARTTLS")?;
        let name = ServerName::try_from("localhost")?;
        let stream = endpoint.connector.connect(name, plain.stream).await.context("TLS handshake")?;

        let mut wire = Wire::new(stream);
        wire.ask(b"EHLO client.bench.example\r\n", 250).await.context("EHLO under TLS")?;
        let token = STANDARD.encode(format!("\0{}\0{}", endpoint.username, endpoint.secret));
        wire.ask(format!("AUTH PLAIN {token}\r\n").as_bytes(), 235).await.context("AUTH")?;
        Ok(Self { wire })
    }

    /// One transaction, from MAIL to the 250 after the final dot. `message` ends with it.
    pub(crate) async fn send(&mut self, message: &[u8], pipelining: bool) -> Result<()> {
        const MAIL: &[u8] = b"MAIL FROM:<app@bench.example>\r\n";
        const RCPT: &[u8] = b"RCPT TO:<someone@elsewhere.example>\r\n";
        const DATA: &[u8] = b"DATA\r\n";
        if pipelining {
            self.wire.write(&[MAIL, RCPT, DATA].concat()).await?;
            self.wire.expect(250).await.context("MAIL")?;
            self.wire.expect(250).await.context("RCPT")?;
            self.wire.expect(354).await.context("DATA")?;
        } else {
            self.wire.ask(MAIL, 250).await.context("MAIL")?;
            self.wire.ask(RCPT, 250).await.context("RCPT")?;
            self.wire.ask(DATA, 354).await.context("DATA")?;
        }
        self.wire.ask(message, 250).await.context("end of data")
    }

    /// Begins a message.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.wire.ask(b"MAIL FROM:<app@bench.example>\r\n", 250).await.context("MAIL")?;
        self.wire.ask(b"RCPT TO:<someone@elsewhere.example>\r\n", 250).await.context("RCPT")?;
        self.wire.ask(b"DATA\r\n", 354).await.context("DATA")
    }

    /// Sends more of it.
    pub(crate) async fn more(&mut self, piece: &[u8]) -> Result<()> {
        self.wire.write(piece).await
    }

    /// Hears what becomes of it.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        self.wire.expect(250).await.context("end of data")
    }

    /// Proves that the session still stands.
    pub(crate) async fn noop(&mut self) -> Result<()> {
        self.wire.ask(b"NOOP\r\n", 250).await.context("NOOP")
    }

    pub(crate) async fn quit(mut self) -> Result<()> {
        self.wire.ask(b"QUIT\r\n", 221).await.context("QUIT")
    }
}

struct Wire<S> {
    stream: S,
    /// Octets read and not yet used begin at `start`.
    buffer: Vec<u8>,
    start: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::with_capacity(1_024), start: 0 }
    }

    async fn ask(&mut self, request: &[u8], code: u16) -> Result<()> {
        self.write(request).await?;
        self.expect(code).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Reads one reply, all its lines, and fails with its last line if the code is another.
    async fn expect(&mut self, code: u16) -> Result<()> {
        loop {
            let line = self.line().await?;
            if self.buffer[line.clone()].get(3) == Some(&b'-') {
                continue;
            }
            let line = &self.buffer[line];
            if line.starts_with(code.to_string().as_bytes()) {
                return Ok(());
            }
            bail!("wanted {code}, got {}", String::from_utf8_lossy(line).trim_end());
        }
    }

    async fn line(&mut self) -> Result<std::ops::Range<usize>> {
        loop {
            if let Some(length) = self.buffer[self.start..].iter().position(|&b| b == b'\n') {
                let line = self.start..self.start + length + 1;
                self.start = line.end;
                return Ok(line);
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection");
            }
        }
    }
}

/// A message of `size` octets, the final dot not counted, and the place of its number in it.
pub(crate) struct Message {
    bytes: Vec<u8>,
    number: std::ops::Range<usize>,
}

impl Message {
    pub(crate) fn new(run: &str, size: usize) -> Self {
        const NUMBER: &str = "0000000000000000";
        let head = format!("Message-ID: <{NUMBER}");
        let mut bytes = format!(
            "{head}.{run}@bench.example>\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n\
             From: App <app@bench.example>\r\n\
             To: someone@elsewhere.example\r\n\
             Subject: A message of the bench\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\r\n"
        )
        .into_bytes();
        // Letters in no order, as in mail that is coded: a database that packs what it keeps gains little.
        let mut state = 1_u32;
        let mut letters = std::iter::from_fn(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[state as usize >> 26])
        });
        while bytes.len() + 2 < size {
            let line = (size - bytes.len() - 2).min(72);
            bytes.extend(letters.by_ref().take(line));
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b".\r\n");
        Self { bytes, number: head.len() - NUMBER.len()..head.len() }
    }

    /// The bytes to write after the 354, with this number in the Message-ID.
    pub(crate) fn numbered(&mut self, number: u64) -> &[u8] {
        let digits = format!("{number:016x}");
        self.bytes[self.number.clone()].copy_from_slice(digits.as_bytes());
        &self.bytes
    }
}
