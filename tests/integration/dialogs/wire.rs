//! The client's end of a dialog: octets out, lines in, nothing added and nothing guessed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tokio::net::TcpSocket;

use crate::harness::RUNTIME;

/// No reply takes longer.
const TIMEOUT: Duration = Duration::from_secs(30);

static VISITORS: AtomicU32 = AtomicU32::new(0);

enum Socket {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Gone,
}

/// How a server goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// As it should: with the end of TLS where there is TLS, and the end of the stream.
    Close,
    /// The stream has ended and TLS has not.
    Cut,
    /// With a reset, which may take last words with it.
    Reset,
}

/// A connection.
pub(super) struct Wire {
    socket: Socket,
    heard: Vec<u8>,
    farewell: Option<Farewell>,
}

impl Wire {
    /// Connects from an address of loopback that nobody else has, so that what is
    /// counted by address concerns one dialog alone.
    pub(super) fn connect(to: SocketAddr) -> Self {
        let visitor = 1 + VISITORS.fetch_add(1, Ordering::Relaxed);
        let from = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + visitor);
        let tcp = RUNTIME.block_on(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            socket.connect(to).await.unwrap().into_std().unwrap()
        });
        tcp.set_nonblocking(false).unwrap();
        tcp.set_read_timeout(Some(TIMEOUT)).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self { socket: Socket::Plain(tcp), heard: Vec::new(), farewell: None }
    }

    /// Makes the handshake.
    pub(super) fn secure(&mut self, config: &Arc<ClientConfig>) -> Result<(), String> {
        let Socket::Plain(tcp) = std::mem::replace(&mut self.socket, Socket::Gone) else {
            return Err("is under TLS already".to_owned());
        };
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut tls = Box::new(StreamOwned::new(client, tcp));
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).map_err(|error| format!("no TLS handshake: {error}"))?;
        }
        self.socket = Socket::Tls(tls);
        Ok(())
    }

    /// Sends octets. A server that has gone shows in what is heard next.
    pub(super) fn send(&mut self, octets: &[u8], at_a_time: usize) {
        for piece in octets.chunks(at_a_time.max(1)) {
            let sent = match &mut self.socket {
                Socket::Plain(tcp) => tcp.write_all(piece),
                Socket::Tls(tls) => tls.write_all(piece).and_then(|()| tls.flush()),
                Socket::Gone => return,
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Goes away without a word.
    pub(super) fn hang_up(&mut self) {
        self.socket = Socket::Gone;
    }

    /// The next line without its CRLF, or how the server went away.
    pub(super) fn line(&mut self) -> Result<Result<String, Farewell>, String> {
        loop {
            if let Some(end) = self.heard.windows(2).position(|octets| octets == b"\r\n") {
                let line: Vec<u8> = self.heard.drain(..end + 2).collect();
                return Ok(Ok(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if let Some(farewell) = self.hear()? {
                return Ok(Err(farewell));
            }
        }
    }

    /// Everything until the server goes away, and how it does.
    pub(super) fn rest(&mut self) -> Result<(String, Farewell), String> {
        loop {
            if let Some(farewell) = self.hear()? {
                let rest = std::mem::take(&mut self.heard);
                return Ok((String::from_utf8_lossy(&rest).into_owned(), farewell));
            }
        }
    }

    /// Whether one of the two has gone.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.socket, Socket::Gone) || self.farewell.is_some()
    }

    fn hear(&mut self) -> Result<Option<Farewell>, String> {
        if self.farewell.is_some() {
            return Ok(self.farewell);
        }
        let mut chunk = [0; 4096];
        let read = match &mut self.socket {
            Socket::Plain(tcp) => tcp.read(&mut chunk),
            Socket::Tls(tls) => tls.read(&mut chunk),
            Socket::Gone => Ok(0),
        };
        self.farewell = match read {
            Ok(0) => Some(Farewell::Close),
            Ok(read) => {
                self.heard.extend_from_slice(&chunk[..read]);
                None
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    return Err(format!("nothing was said in {TIMEOUT:?}"));
                }
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Some(Farewell::Reset),
                // An alert of TLS, or no end of it.
                _ => Some(Farewell::Cut),
            },
        };
        Ok(self.farewell)
    }
}
