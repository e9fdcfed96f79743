//! Which process this is, of all that share a database, who of them is there, and who does
//! what only one has to do.
//!
//! All processes are equal. What one has in its hands (a part that it sends, an entry that it
//! posts) carries its name, and comes to the others when its lease is over. A duty only saves
//! work: whatever is done under one is right when two do it. A database that is a file has
//! one process, which is always `local`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;

use super::opening::make_private_dir;
use super::sql::{Readers, query, query_scalar};
use super::wake::Wake;
use super::{Maker, Store, StoreError, millis};
use crate::random;

/// The only process of a database that is a file.
pub(super) const LOCAL: &str = "local";
/// Whoever leases nothing.
const COMMAND: &str = "command";
/// Name of the file in `data_dir` that has the process's name, so that it takes up its own
/// leases at once when it is started again.
const ID_FILE: &str = "node-id";
/// Octets of an id in hexadecimal.
const ID_LEN: usize = 32;
/// Who was not seen for so long is not there.
const THERE: Duration = Duration::from_secs(30);

/// What only one process has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Old rows leave.
    Sweep,
    /// The sums are compared with the rows.
    Books,
    /// The balances of debtors are read without news.
    Debtors,
    /// Doubtful entries are looked up in Dodo's ledger.
    Doubts,
    /// Claimed domains are looked at.
    Domains,
}

impl Duty {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Sweep => "sweep",
            Self::Books => "books",
            Self::Debtors => "debtors",
            Self::Doubts => "doubts",
            Self::Domains => "domains",
        }
    }
}

/// The name of the process whose `data_dir` that is, which it keeps for good.
pub(super) fn id(data_dir: &Path, maker: Maker) -> std::io::Result<String> {
    if maker.claims_as().is_none() {
        return Ok(COMMAND.to_owned());
    }
    let path = data_dir.join(ID_FILE);
    match std::fs::read_to_string(&path) {
        Ok(id) if is_id(&id) => return Ok(id),
        // Whoever made it was killed before it was written.
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = format!("{:032x}", u128::from_be_bytes(random::octets()));
    make_private_dir(data_dir)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    Ok(id)
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|octet| octet.is_ascii_hexdigit())
}

impl Store {
    /// Whether other processes may be at work on this database.
    pub fn is_shared(&self) -> bool {
        matches!(self.readers, Readers::Postgres(_))
    }

    /// The database's time; `None`: it has none of its own.
    pub async fn time(&self) -> Result<Option<Timestamp>, StoreError> {
        const READ: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
        if !self.is_shared() {
            return Ok(None);
        }
        let now: i64 = query_scalar(READ).fetch_one(&self.readers).await?;
        super::timestamp(now).map(Some)
    }

    /// Says that this process is there, and finds out how many are.
    pub async fn appear(&self, now: Timestamp) -> Result<(), StoreError> {
        const APPEAR: &str = "
            INSERT INTO node (node_id, seen_at) VALUES ($1, $2)
            ON CONFLICT (node_id) DO UPDATE SET seen_at = excluded.seen_at";
        // Seen later than now: by a clock that was set back since.
        const COUNT: &str = "SELECT count(*) FROM node WHERE seen_at > $1 AND seen_at <= $2";
        if !self.is_shared() {
            return Ok(());
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(APPEAR).bind(&*self.node).bind(millis(now)).execute(&mut *tx).await?;
        tx.commit().await?;
        drop(writer);
        let since = now.checked_sub(THERE).unwrap_or(now);
        let soon = now.checked_add(THERE).unwrap_or(now);
        let count = query_scalar(COUNT).bind(millis(since)).bind(millis(soon));
        let nodes: i64 = count.fetch_one(&self.readers).await?;
        self.turns.nodes.store(usize::try_from(nodes).unwrap_or(1), Ordering::Relaxed);
        Ok(())
    }

    /// At the end of the process, when nothing is in its hands any more: the others need not
    /// wait until its duties and its entries are theirs.
    pub async fn disappear(&self) -> Result<(), StoreError> {
        const LEAVE: &str = "
            DELETE FROM node WHERE node_id = $1;
            DELETE FROM duty WHERE node = $1;
            UPDATE entry SET lease_until = NULL, node = NULL WHERE node = $1 AND state = 'open'";
        if !self.is_shared() {
            return Ok(());
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(LEAVE).bind(&*self.node).execute(&mut *tx).await?;
        tx.commit().await?;
        drop(writer);
        // When parts fall due that this process put off, only the others can look.
        self.tell(Wake::Parts).await;
        self.tell(Wake::Entries).await;
        Ok(())
    }

    /// Whether a duty is this process's now, which sees to it again after `wait`. No other
    /// process does so before that, unless this one is gone.
    pub async fn takes(&self, duty: Duty, now: Timestamp, wait: Duration) -> Result<bool, StoreError> {
        const TAKE: &str = "
            INSERT INTO duty (name, node, held_until) VALUES ($1, $2, $3)
            ON CONFLICT (name) DO UPDATE SET node = excluded.node, held_until = excluded.held_until
            WHERE duty.node = excluded.node OR duty.held_until <= $4 OR duty.held_until > $5";
        let held = wait.saturating_add(THERE);
        let until = now.checked_add(held).unwrap_or(now);
        // Nobody holds it for so long, but by a clock that was set back since.
        let late = until.checked_add(held).unwrap_or(Timestamp::MAX);
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let done = query(TAKE)
            .bind(duty.as_str())
            .bind(&*self.node)
            .bind(millis(until))
            .bind(millis(now))
            .bind(millis(late))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }
}
