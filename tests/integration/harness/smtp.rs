//! A client that says exactly what it is told to say, octet for octet.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use tokio::net::TcpSocket;

use super::meter::Credential;
use super::{Meter, RUNTIME};

/// No reply takes longer.
const TIMEOUT: Duration = Duration::from_secs(30);

enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Between the two.
    Gone,
}

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// By STARTTLS.
    StartTls,
    /// At once.
    Implicit,
}

/// The client.
pub(crate) struct Smtp {
    wire: Wire,
    buffer: Vec<u8>,
}

impl Smtp {
    /// In clear text, with whatever is said first.
    pub(crate) fn open(address: SocketAddr) -> (Self, String) {
        Self::open_over(connect(address))
    }

    /// The same, over a connection that is there.
    pub(crate) fn open_over(tcp: TcpStream) -> (Self, String) {
        let mut smtp = Self { wire: Wire::Plain(tcp), buffer: Vec::new() };
        let banner = smtp.reply();
        (smtp, banner)
    }

    /// From an address of this machine, under TLS and after EHLO.
    pub(crate) fn implicit_from(meter: &Meter, source: IpAddr) -> Self {
        let tcp = connect_from(source, meter.process().smtps);
        let mut smtp = Self { wire: secure(tcp, trusting(&meter.certificate())), buffer: Vec::new() };
        assert!(smtp.reply().starts_with("220 "));
        assert!(smtp.say("EHLO client.example").contains("AUTH PLAIN LOGIN"));
        smtp
    }

    /// In clear text, after the banner.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self::plain_over(connect(address))
    }

    fn plain_over(tcp: TcpStream) -> Self {
        let (smtp, banner) = Self::open_over(tcp);
        assert!(banner.starts_with("220 "), "{banner}");
        smtp
    }

    /// On the STARTTLS port, under TLS and after EHLO.
    pub(crate) fn starttls(meter: &Meter) -> Self {
        Self::starttls_at(meter.process().smtp, &meter.certificate())
    }

    /// The same, wherever that is.
    pub(crate) fn starttls_at(address: SocketAddr, certificate: &Path) -> Self {
        Self::starttls_as(address, trusting(certificate))
    }

    /// The same, as this TLS client.
    pub(crate) fn starttls_as(address: SocketAddr, client: Arc<ClientConfig>) -> Self {
        Self::starttls_over(connect(address), client)
    }

    /// The same, over a connection that is there.
    pub(crate) fn starttls_over(tcp: TcpStream, client: Arc<ClientConfig>) -> Self {
        let mut smtp = Self::plain_over(tcp);
        assert!(smtp.say("EHLO client.example").contains("STARTTLS"));
        assert_eq!(smtp.say("STARTTLS"), "220 2.0.0 Ready to start TLS\r\n");
        let Wire::Plain(tcp) = std::mem::replace(&mut smtp.wire, Wire::Gone) else { panic!("under TLS") };
        smtp.wire = secure(tcp, client);
        assert!(smtp.say("EHLO client.example").contains("AUTH PLAIN LOGIN"));
        smtp
    }

    /// On the port with implicit TLS, after EHLO.
    pub(crate) fn implicit(meter: &Meter) -> Self {
        Self::implicit_as(meter.process().smtps, trusting(&meter.certificate()))
    }

    /// The same, wherever that is and as this TLS client.
    pub(crate) fn implicit_as(address: SocketAddr, client: Arc<ClientConfig>) -> Self {
        Self::implicit_over(connect(address), client)
    }

    /// The same, over a connection that is there.
    pub(crate) fn implicit_over(tcp: TcpStream, client: Arc<ClientConfig>) -> Self {
        let mut smtp = Self { wire: secure(tcp, client), buffer: Vec::new() };
        assert!(smtp.reply().starts_with("220 "));
        assert!(smtp.say("EHLO client.example").contains("AUTH PLAIN LOGIN"));
        smtp
    }

    /// Sends octets. A server that has gone shows in the reply: there is none.
    pub(crate) fn send(&mut self, octets: &[u8]) {
        let _ = match &mut self.wire {
            Wire::Plain(tcp) => tcp.write_all(octets),
            Wire::Tls(tls) => tls.write_all(octets).and_then(|()| tls.flush()),
            Wire::Gone => Ok(()),
        };
    }

    /// One command and its whole reply, CRLFs and all.
    #[track_caller]
    pub(crate) fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// The next reply; empty where the server has closed.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let Some(line) = self.line() else { return reply };
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            reply += &line;
            if is_last {
                return reply;
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            let mut chunk = [0; 4096];
            let read = match &mut self.wire {
                Wire::Plain(tcp) => tcp.read(&mut chunk),
                Wire::Tls(tls) => tls.read(&mut chunk),
                Wire::Gone => Ok(0),
            };
            match read {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("no reply in {TIMEOUT:?}")
                }
                Err(_) => return None,
            }
        }
    }

    /// AUTH PLAIN with an initial response.
    #[track_caller]
    pub(crate) fn auth_plain(&mut self, username: &str, secret: &str) -> String {
        self.say(&format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{username}\0{secret}"))))
    }

    /// MAIL, RCPTs and DATA, all of which must be taken.
    #[track_caller]
    pub(crate) fn begin(&mut self, from: &str, to: &[&str]) {
        self.address(from, to);
        let reply = self.say("DATA");
        assert!(reply.starts_with("354 "), "{reply}");
    }

    /// MAIL and RCPTs, all of which must be taken.
    #[track_caller]
    pub(crate) fn address(&mut self, from: &str, to: &[&str]) {
        let reply = self.say(&format!("MAIL FROM:<{from}>"));
        assert!(reply.starts_with("250 "), "{reply}");
        for to in to {
            let reply = self.say(&format!("RCPT TO:<{to}>"));
            assert!(reply.starts_with("250 "), "{reply}");
        }
    }

    /// The message, dot-stuffed, its end, and the reply.
    #[track_caller]
    pub(crate) fn message(&mut self, message: &[u8]) -> String {
        let mut wire = Vec::new();
        for line in message.split_inclusive(|octet| *octet == b'\n') {
            if line.starts_with(b".") {
                wire.push(b'.');
            }
            wire.extend_from_slice(line);
        }
        wire.extend_from_slice(b".\r\n");
        self.send(&wire);
        self.reply()
    }

    /// One chunk and the reply to it.
    #[track_caller]
    pub(crate) fn chunk(&mut self, octets: &[u8], is_last: bool) -> String {
        self.send(&bdat(octets, is_last));
        self.reply()
    }

    /// A whole transaction from the customer to Bob; the last reply.
    #[track_caller]
    pub(crate) fn deliver(&mut self, message: &[u8]) -> String {
        self.begin("ann@example.com", &["bob@example.net"]);
        self.message(message)
    }

    /// The same with a server that may go away; whether it was acknowledged.
    pub(crate) fn try_deliver(&mut self, message: &[u8]) -> bool {
        self.attempt(&["bob@example.net"], message).starts_with("250 2.0.0 Queued as ")
    }

    /// The same, to anybody; the last reply, empty where the server has gone away.
    pub(crate) fn attempt(&mut self, to: &[&str], message: &[u8]) -> String {
        let recipients = to.iter().map(|to| format!("RCPT TO:<{to}>"));
        let lines = ["MAIL FROM:<ann@example.com>".to_owned()].into_iter().chain(recipients);
        for line in lines.chain(["DATA".to_owned()]) {
            let reply = self.say(&line);
            if !reply.starts_with(['2', '3']) {
                self.say("RSET");
                return reply;
            }
        }
        self.message(message)
    }

    /// On the STARTTLS port of a server that may go away at any time, signed in; `None`: it did.
    pub(crate) fn try_signed_in(
        address: SocketAddr,
        certificate: &Path,
        credential: &Credential,
    ) -> Option<Self> {
        let opening = (Opening::StartTls, trusting(certificate));
        Self::try_signed_in_over(try_connect(address)?, opening, credential)
    }

    /// The same, over a connection that is there.
    pub(crate) fn try_signed_in_over(
        tcp: TcpStream,
        (opening, client): (Opening, Arc<ClientConfig>),
        credential: &Credential,
    ) -> Option<Self> {
        let wire = match opening {
            Opening::StartTls => Wire::Plain(tcp),
            Opening::Implicit => secure(tcp, Arc::clone(&client)),
        };
        let mut smtp = Self { wire, buffer: Vec::new() };
        let hears = |reply: String, code: &str| reply.starts_with(code).then_some(());
        hears(smtp.reply(), "220 ")?;
        if opening == Opening::StartTls {
            hears(smtp.say("EHLO client.example"), "250")?;
            hears(smtp.say("STARTTLS"), "220 ")?;
            let Wire::Plain(tcp) = std::mem::replace(&mut smtp.wire, Wire::Gone) else { panic!("under TLS") };
            smtp.wire = secure(tcp, client);
        }
        hears(smtp.say("EHLO client.example"), "250")?;
        hears(smtp.auth_plain(&credential.username, &credential.secret), "235 ")?;
        Some(smtp)
    }

    /// How the TLS session began.
    pub(crate) fn handshake(&self) -> Option<HandshakeKind> {
        let Wire::Tls(tls) = &self.wire else { panic!("no TLS") };
        tls.conn.handshake_kind()
    }

    /// The certificate that the server showed.
    pub(crate) fn peer_certificate(&self) -> Vec<u8> {
        let Wire::Tls(tls) = &self.wire else { panic!("no TLS") };
        tls.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

/// A chunk as it goes over the wire.
pub(crate) fn bdat(octets: &[u8], is_last: bool) -> Vec<u8> {
    let last = if is_last { " LAST" } else { "" };
    [format!("BDAT {}{last}\r\n", octets.len()).as_bytes(), octets].concat()
}

fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap()
}

fn try_connect(address: SocketAddr) -> Option<TcpStream> {
    TcpStream::connect(address).ok().map(patient)
}

/// A connection from another address of this machine.
pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> TcpStream {
    let tcp = RUNTIME.block_on(async {
        let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        socket.bind((source, 0).into()).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    });
    tcp.set_nonblocking(false).unwrap();
    patient(tcp)
}

fn patient(tcp: TcpStream) -> TcpStream {
    tcp.set_read_timeout(Some(TIMEOUT)).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

fn secure(tcp: TcpStream, client: Arc<ClientConfig>) -> Wire {
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(client, name).unwrap();
    Wire::Tls(Box::new(StreamOwned::new(tls, tcp)))
}

/// A TLS client that trusts this certificate and no other.
pub(crate) fn trusting(certificate: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}
