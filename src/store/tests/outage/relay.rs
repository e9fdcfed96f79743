//! What stands between the store and PostgreSQL, and loses what it is told to lose.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};

use super::*;

/// By this a connection for gathered commits is known.
const LANE: &[u8] = b"VALUES ('commit/";
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// What becomes of the next gathered commit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    /// It is lost, and the connection with it.
    Lost,
    /// Its answer is lost, and the connection with it.
    Unanswered,
    /// The same, and nobody comes through until the relay is opened again.
    UnansweredAndClosed,
    /// It is lost, and nobody comes through until the relay is opened again.
    LostAndClosed,
    /// The client's connection is lost, and it arrives when the relay is told to let it.
    Late,
}

#[derive(Debug)]
struct State {
    fate: Mutex<Option<Fate>>,
    is_open: watch::Sender<bool>,
    arrives: Notify,
}

/// A socket in a directory of its own.
pub(super) struct Relay {
    pub(super) directory: Directory,
    state: Arc<State>,
}

impl Relay {
    /// In front of the server whose socket lies there.
    pub(super) fn before(home: &Path) -> Self {
        let directory = Directory::new();
        std::fs::create_dir(&directory.0).unwrap();
        let listener = UnixListener::bind(directory.0.join(".s.PGSQL.5432")).unwrap();
        let state = Arc::new(State {
            fate: Mutex::default(),
            is_open: watch::Sender::new(true),
            arrives: Notify::default(),
        });
        let (server, shared) = (home.join(".s.PGSQL.5432"), Arc::clone(&state));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, state) = (server.clone(), Arc::clone(&shared));
                tokio::spawn(async move { through(client, &server, &state).await });
            }
        });
        Self { directory, state }
    }

    pub(super) fn next(&self, fate: Fate) {
        *self.state.fate.lock().unwrap() = Some(fate);
    }

    pub(super) fn open(&self) {
        self.state.is_open.send_replace(true);
    }

    /// Lets what is late arrive.
    pub(super) fn let_arrive(&self) {
        self.state.arrives.notify_one();
    }
}

async fn through(mut client: UnixStream, server: &Path, state: &State) -> Option<()> {
    let mut is_open = state.is_open.subscribe();
    if !*is_open.borrow_and_update() {
        return None;
    }
    let mut server = UnixStream::connect(server).await.ok()?;
    let (mut said, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut is_lane = false;
    loop {
        tokio::select! {
            octets = client.read(&mut said) => {
                let said = said.get(..octets.ok().filter(|octets| *octets > 0)?)?;
                is_lane |= said.windows(LANE.len()).any(|octets| octets == LANE);
                let fate = (is_lane && said == COMMIT).then(|| state.fate.lock().unwrap().take()).flatten();
                if let Some(fate) = fate {
                    if matches!(fate, Fate::UnansweredAndClosed | Fate::LostAndClosed) {
                        state.is_open.send_replace(false);
                    }
                    if matches!(fate, Fate::Late) {
                        drop(client);
                        state.arrives.notified().await;
                    }
                    if !matches!(fate, Fate::Lost | Fate::LostAndClosed) {
                        server.write_all(said).await.ok()?;
                        server.read(&mut answered).await.ok().filter(|octets| *octets > 0)?;
                    }
                    return None;
                }
                server.write_all(said).await.ok()?;
            }
            octets = server.read(&mut answered) => {
                client.write_all(answered.get(..octets.ok().filter(|octets| *octets > 0)?)?).await.ok()?;
            }
            _ = is_open.changed() => return None,
        }
    }
}
