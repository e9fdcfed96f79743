//! Messages that were refused though they may have been accepted: what their commit came to
//! could not be found out while their senders waited. They try again, and must not be mailed twice.
//!
//! Until it is known, who they are stands in a file in `data_dir` too, on disk before any sender
//! is refused: a server that is killed meanwhile withdraws them when it is started again, before
//! it has anything in its hands. It has the row of the lane that accepted them, the time and the node, and an id
//! a line; a last line without an end was being written at a crash, and its sender was told nothing.
//! Never more than the members of one commit stand in it, since nothing else is written meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::StoreError;
use super::lane::last_of;
use super::ledger::{Ledger, PartKey};
use super::lock;
use super::sql::Session;
use super::writers::Rare;
use crate::domain::ids::MessageId;
use crate::domain::message::{PartState, PartStep};

/// Name of the file in `data_dir`.
const FILE: &str = "refused-ids";
/// Octets of it that are read at most: several times those of the largest commit.
const MAX_OCTETS: u64 = 1 << 20;
/// How long a start waits for the transaction that accepted them: the server ends one that
/// nobody goes on with after 15 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What the log says of a recipient of such a message.
const NOT_ACKNOWLEDGED: &str =
    "not acknowledged: the database did not answer, and the sender was told to try again";

/// Messages whose senders were refused before it was known whether they are in the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// Who they are. Those under an idempotency key are not among them: whoever retries
    /// them is told that they are accepted, by any node, and so they are sent.
    pub(super) message_ids: Vec<MessageId>,
    /// Who accepted them.
    pub(super) node: Arc<str>,
    /// The row of the lane by which they came.
    pub(super) row: String,
    /// When the last of them came, in milliseconds.
    pub(super) at: i64,
}

impl Refused {
    /// Gives those up that are there: their holds are released, and nobody is told, who was
    /// told already. What another node has leased since is on its way, and stays so.
    pub(super) async fn withdraw(&self, tx: &mut Session<'_>) -> Result<(), StoreError> {
        if self.message_ids.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = self.message_ids.iter().map(MessageId::as_str).collect();
        lock::messages(tx, &ids.iter().copied().collect()).await?;
        let mut ledger = Ledger::read(tx, &ids).await?;
        let keys: Vec<PartKey> = ledger.parts.keys().cloned().collect();
        for key in keys {
            if ledger.withdraw(&key, &self.node) {
                ledger.give_up(&key, NOT_ACKNOWLEDGED);
            }
        }
        // Their spools leave with the sweep.
        ledger.write(tx, self.at).await.map(drop)
    }

    /// The same at the start of the next process, as soon as the transaction that accepted them
    /// has ended, however long the server held on to it.
    async fn withdraw_late(&self, rare: &Rare) -> Result<(), StoreError> {
        let mut tx = rare.begin().await?;
        last_of(&mut tx, &self.row).await?;
        self.withdraw(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    fn text(&self) -> String {
        let mut text = format!("{} {} {}\n", self.row, self.at, self.node);
        for id in &self.message_ids {
            text.push_str(id.as_str());
            text.push('\n');
        }
        text
    }

    /// What was written down of it; `None`: not so much that anybody was refused.
    fn parse(text: &str) -> Option<Self> {
        let (whole, _torn) = text.rsplit_once('\n')?;
        let mut lines = whole.lines();
        let mut words = lines.next()?.split(' ');
        let (row, at, node) = (words.next()?.to_owned(), words.next()?.parse().ok()?, words.next()?.into());
        let message_ids: Vec<_> = lines.map_while(|line| MessageId::parse(line).ok()).collect();
        Some(Self { message_ids, node, row, at }).filter(|it| !it.message_ids.is_empty())
    }
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct Memo(PathBuf);

impl Memo {
    pub(super) fn in_dir(data_dir: &Path) -> Self {
        Self(data_dir.join(FILE))
    }

    /// Writes them down; they are on disk when this returns. Whoever cannot be written down is
    /// refused all the same, and sent if this process is killed before it knows more: that is told.
    pub(super) async fn keep(&self, refused: &Refused) {
        if refused.message_ids.is_empty() {
            return;
        }
        let (path, text) = (self.0.clone(), refused.text());
        let written = tokio::task::spawn_blocking(move || write(&path, &text)).await;
        if let Err(error) = written.map_err(io::Error::other).flatten() {
            let (messages, path) = (refused.message_ids.len(), self.0.display());
            tracing::error!(
                %error, messages, %path,
                "messages that are refused could not be written down: should this server be killed before the \
                 database answers, they are sent when it is started again"
            );
        }
    }

    /// It is known what became of them.
    pub(super) async fn forget(&self) {
        let path = self.0.clone();
        let forgotten = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
        match forgotten.map_err(io::Error::other).flatten() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // They are withdrawn again at the next start, which changes nothing.
            Err(error) => tracing::warn!(%error, path = %self.0.display(), "a file that is done with stays"),
        }
    }

    /// What the last process has left.
    pub(super) fn read(&self) -> io::Result<Option<Refused>> {
        let mut text = Vec::new();
        match File::open(&self.0) {
            Ok(file) => file.take(MAX_OCTETS).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Refused::parse(&String::from_utf8_lossy(&text)))
    }

    /// At the start: withdraws what the last process has left.
    pub(super) async fn withdraw(&self, refused: &Refused, rare: &Rare) -> Result<(), StoreError> {
        let (until, messages) = (Instant::now() + PATIENCE, refused.message_ids.len());
        let withdrawn = loop {
            match refused.withdraw_late(rare).await {
                Err(StoreError::Away(_) | StoreError::Contended(_)) if Instant::now() + PAUSE < until => {
                    sleep(PAUSE).await;
                }
                withdrawn => break withdrawn,
            }
        };
        match withdrawn {
            Ok(()) => {
                let what =
                    "what was refused when this server ended, and may have been accepted, is withdrawn";
                tracing::warn!(messages, "{what}");
                Ok(())
            }
            Err(StoreError::Corrupt(error)) => {
                let what = "messages that were refused cannot be withdrawn; they are sent";
                tracing::error!(error, messages, "{what}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // Its name too.
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

impl Ledger {
    /// Ends a part that nobody has taken: it has the lease that it was accepted with, or waits
    /// for its first. Whatever else has become of it may be another node's attempt.
    fn withdraw(&mut self, key: &PartKey, node: &str) -> bool {
        let Some(part) = self.parts.get_mut(key) else { return false };
        let is_untried = !part.unknown && part.company.call.is_none();
        let step = match part.state {
            PartState::Sending { attempt: 1, .. } if part.node.as_deref() == Some(node) => {
                PartStep::Failed { attempt: 1 }
            }
            PartState::Queued { attempt: 0, .. } if is_untried => PartStep::Cancel,
            _ => return false,
        };
        let Some(state) = part.state.after(step) else { return false };
        part.state = state;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_refused_is_read_back_and_a_line_without_an_end_is_nobody() {
        let node: Arc<str> = "n".into();
        let ids = |ids: &[&str]| ids.iter().map(|id| MessageId::parse(id).unwrap()).collect();
        let refused = |of: &[&str]| Refused {
            message_ids: ids(of),
            node: Arc::clone(&node),
            row: "commit/1".to_owned(),
            at: 7,
        };
        let whole = refused(&["aa", "bb", "cc"]);
        assert_eq!(Refused::parse(&whole.text()), Some(whole.clone()));
        let table = [
            ("commit/1 7 n\naa\nbb\nc", Some(refused(&["aa", "bb"]))),
            ("commit/1 7 n\naa\n\0\0\0\n", Some(refused(&["aa"]))),
            ("commit/1 7 n\na", None),
            ("commit/1 7\naa\n", None),
            ("commit/1 7 n\n", None),
            ("commit/1 7 n", None),
            ("commit/1\naa\n", None),
            ("", None),
        ];
        for (text, want) in table {
            assert_eq!(Refused::parse(text), want, "{text:?}");
        }
    }
}
