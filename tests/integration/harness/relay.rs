//! A network that may swallow what is sent: connections stay open, and nothing arrives.
//!
//! What was swallowed is kept and arrives when it flows again, as what TCP sends anew does.

use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

use super::RUNTIME;

/// What arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Everything.
    Both,
    /// What is said to the server; its answers do not.
    There,
    /// Nothing.
    Nothing,
}

/// In front of a server's socket, at a port of its own.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    flow: watch::Sender<Flow>,
}

impl Relay {
    pub(crate) fn before(socket: &Path) -> Self {
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, socket) = (listener.local_addr().unwrap(), socket.to_owned());
        let (flow, flows) = watch::channel(Flow::Both);
        RUNTIME.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, flows) = (socket.clone(), flows.clone());
                tokio::spawn(async move {
                    let server = UnixStream::connect(&socket).await?;
                    client.set_nodelay(true)?;
                    let ((said, answers), (answered, there)) = (client.into_split(), server.into_split());
                    let going = carry(said, there, flows.clone(), |flow| flow != Flow::Nothing);
                    let coming = carry(answered, answers, flows, |flow| flow == Flow::Both);
                    tokio::join!(going, coming);
                    std::io::Result::Ok(())
                });
            }
        });
        Self { address, flow }
    }

    /// From now on that arrives.
    pub(crate) fn flows(&self, flow: Flow) {
        self.flow.send_replace(flow);
    }
}

/// Carries octets, and their end, whenever it flows in this direction.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut flows: watch::Receiver<Flow>,
    is_open: impl Fn(Flow) -> bool,
) {
    let mut octets = vec![0; 1 << 16];
    while let Ok(read) = from.read(&mut octets).await {
        if flows.wait_for(|flow| is_open(*flow)).await.is_err() || read == 0 {
            break;
        }
        if to.write_all(&octets[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
