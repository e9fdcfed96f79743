//! The way to one server: its addresses, TCP, TLS, and the replies that come back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::connection::Unconnected;
use super::reply::{Line, Reply};
use crate::domain::closure::Closure;
use crate::upstream::Answer;

/// Longest wait for one address of several to let us in.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest line of a reply, in octets; RFC 5321 §4.5.3.1.5 has 512.
const MAX_LINE_OCTETS: u64 = 8_192;
/// Most lines of a reply.
const MAX_LINES: usize = 256;

/// A stream to the server, with what was read of it ahead.
pub(super) struct Wire(BufReader<Either<TcpStream, Box<TlsStream<TcpStream>>>>);

impl Wire {
    /// Connects to the first address of the host that lets us in.
    pub(super) async fn connect(host: &str, port: u16) -> Result<Self, Unconnected> {
        let addresses = lookup_host((host, port)).await.map_err(|error| unreachable(&error))?;
        let tcp = first_of(addresses).await.map_err(|error| unreachable(&error))?;
        Ok(Self(BufReader::new(Either::Left(tcp))))
    }

    /// Shakes hands. Whatever the server said before that and was not asked for
    /// is nobody's word: it could come from whoever sits in between.
    pub(super) async fn secured(self, host: &str, config: &Arc<ClientConfig>) -> Result<Self, Unconnected> {
        if !self.0.buffer().is_empty() {
            return Err(Unconnected::Misconfigured(Closure::SmtpTls.because("it says too much before")));
        }
        match self.0.into_inner() {
            Either::Left(tcp) => Ok(Self(BufReader::new(Either::Right(tls(host, tcp, config).await?)))),
            secured => Ok(Self(BufReader::new(secured))),
        }
    }

    /// Writes the octets and lets them go.
    pub(super) async fn say(&mut self, octets: &[u8]) -> io::Result<()> {
        self.0.write_all(octets).await?;
        self.0.flush().await
    }

    /// The next reply; an error says what came instead.
    pub(super) async fn reply(&mut self) -> Result<Reply, String> {
        let mut lines = Vec::new();
        let mut known = None;
        while lines.len() < MAX_LINES {
            let mut octets = Vec::new();
            let mut rest = (&mut self.0).take(MAX_LINE_OCTETS);
            let read = rest.read_until(b'\n', &mut octets).await.map_err(|error| error.to_string())?;
            if read == 0 {
                return Err("the server closed it".to_owned());
            }
            let line = Line::parse(&octets).filter(|line| known.is_none_or(|code| code == line.code));
            let Some(line) = line else {
                return Err(format!("no SMTP reply: {}", String::from_utf8_lossy(&octets)));
            };
            known = Some(line.code);
            lines.push(line.text);
            if line.is_last {
                return Ok(Reply { code: line.code, lines });
            }
        }
        Err("a reply without an end".to_owned())
    }
}

/// The first that lets us in; a name may have several (RFC 5321 §5.1).
async fn first_of(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut problem = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses {
        problem = match timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "timed out"),
        };
    }
    Err(problem)
}

async fn tls(
    host: &str,
    tcp: TcpStream,
    config: &Arc<ClientConfig>,
) -> Result<Box<TlsStream<TcpStream>>, Unconnected> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        Unconnected::Misconfigured(Closure::SmtpTls.because("its name cannot stand in a certificate"))
    })?;
    let connected = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await;
    connected.map(Box::new).map_err(|error| {
        // A certificate or a server that does not speak TLS, rather than the network.
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            Unconnected::Misconfigured(Closure::SmtpTls.because(&error.to_string()))
        } else {
            not_now(&format!("no TLS: {error}"))
        }
    })
}

fn unreachable(error: &io::Error) -> Unconnected {
    not_now(&format!("cannot connect: {error}"))
}

/// It could not be spoken to, for a reason that may pass.
pub(super) fn not_now(reason: &str) -> Unconnected {
    Unconnected::NotNow(Answer::new("4.4.1", &format!("the upstream: {reason}")))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_does_not_answer() {
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (open_at, gone_at) = (open.local_addr().unwrap(), gone.local_addr().unwrap());
        drop(gone);
        let tcp = first_of([gone_at, open_at].into_iter()).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open_at);
        assert_eq!(
            first_of([gone_at].into_iter()).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert_eq!(first_of([].into_iter()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
