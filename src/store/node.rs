//! Which process this is, of all that share a database, who of them is there, and who does
//! what only one has to do.
//!
//! All processes are equal. What one has in its hands (a part that it sends, an entry that it
//! posts) carries its name, and comes to the others when its lease is over. A duty only saves
//! work: whatever is done under one is right when two do it. A database that is a file has
//! one process, which is always `local`.
//!
//! A process goes by the name in its `data_dir`, so that after a crash it takes up what it had in
//! hand at once. If that directory is copied, two processes have one name, and each would take the
//! other's leases for its own. So whoever starts takes the name first: at once, if its last
//! owner ran in the very same directory since this machine was started (the lock in there says that it is
//! gone), or has not been seen for a while; otherwise it watches whether the owner is still seen, and
//! gives way if so. Whoever finds that another start has taken its name, since it stood still
//! for longer than that, gives way too.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::opening::make_private_dir;
use super::sql::{Readers, query, query_as, query_scalar};
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

/// What Linux calls each of its starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How often it is looked whether the owner of a name is still seen.
const WATCH: Duration = Duration::from_millis(500);

/// Why a process cannot go by its name.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// Another one does.
    #[error(
        "another server on this database goes by the same name: data_dir was copied. Delete the file node-id in the \
         data_dir of one of them, and start that one again"
    )]
    Taken,
    /// The database could not say.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One start of a process.
#[derive(Debug, Default)]
pub(super) struct Start {
    incarnation: String,
    /// Where its directory is, as long as the machine runs; empty: that is not known.
    place: String,
}

impl Start {
    pub(super) fn of(data_dir: &Path) -> Self {
        let incarnation = format!("{:032x}", u128::from_be_bytes(random::octets()));
        let boot_id = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        let file = std::fs::metadata(data_dir.join(ID_FILE));
        let place = match (boot_id.trim(), file) {
            ("", _) | (_, Err(_)) => String::new(),
            (boot_id, Ok(file)) => format!("{boot_id}/{}/{}", file.dev(), file.ino()),
        };
        Self { incarnation, place }
    }
}

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

    /// Takes this process's name, before anything is taken up that stands under it: at once, unless its
    /// last owner may be alive somewhere else. Who is not seen again for `gone` is not.
    pub async fn take_name(&self, gone: Duration) -> Result<(), NameError> {
        const OWNER: &str = "SELECT seen_at, incarnation, place FROM node WHERE node_id = $1";
        if !self.is_shared() {
            return Ok(());
        }
        let began = Instant::now();
        let mut first: Option<(i64, String)> = None;
        loop {
            let now = self.time().await?.unwrap_or_default();
            let owner: Option<(i64, String, String)> = query_as(OWNER)
                .bind(&*self.node)
                .fetch_optional(&self.readers)
                .await
                .map_err(StoreError::from)?;
            let Some((seen_at, incarnation, place)) = owner else {
                if self.take_from(None, now).await? {
                    return Ok(());
                }
                continue;
            };
            let is_here = !place.is_empty() && place == self.start.place;
            let is_old = seen_at <= millis(now.checked_sub(gone).unwrap_or(now));
            let seen = (seen_at, incarnation);
            match &first {
                // It may have gone on since this process could have known.
                Some(first) if *first != seen => return Err(NameError::Taken),
                _ if is_here || is_old || began.elapsed() >= gone => {
                    if self.take_from(Some(&seen), now).await? {
                        return Ok(());
                    }
                    continue;
                }
                Some(_) => {}
                None => {
                    tracing::warn!(
                        "somebody went by this server's name a moment ago: it is watched whether they do still"
                    );
                    first = Some(seen);
                }
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Compare-and-set: takes the name from whoever had it when they were last looked at.
    async fn take_from(&self, owner: Option<&(i64, String)>, now: Timestamp) -> Result<bool, StoreError> {
        const TAKE: &str = "
            UPDATE node SET seen_at = $2, incarnation = $3, place = $4
            WHERE node_id = $1 AND seen_at = $5 AND incarnation = $6";
        const BEGIN: &str = "
            INSERT INTO node (node_id, seen_at, incarnation, place) VALUES ($1, $2, $3, $4)
            ON CONFLICT (node_id) DO NOTHING";
        let Start { incarnation, place } = &*self.start;
        let query = query(if owner.is_some() { TAKE } else { BEGIN });
        let query = query.bind(&*self.node).bind(millis(now)).bind(incarnation).bind(place);
        let query = if let Some((seen_at, owner)) = owner { query.bind(*seen_at).bind(owner) } else { query };
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let done = query.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Says that this process is there, and finds out how many are. `false`: another start has
    /// taken its name; nothing may be leased under it any more.
    pub async fn appear(&self, now: Timestamp) -> Result<bool, StoreError> {
        const APPEAR: &str = "
            INSERT INTO node (node_id, seen_at, incarnation, place) VALUES ($1, $2, $3, $4)
            ON CONFLICT (node_id) DO UPDATE SET seen_at = excluded.seen_at
            WHERE node.incarnation = excluded.incarnation";
        // Seen later than now: by a clock that was set back since.
        const COUNT: &str = "SELECT count(*) FROM node WHERE seen_at > $1 AND seen_at <= $2";
        if !self.is_shared() {
            return Ok(true);
        }
        let Start { incarnation, place } = &*self.start;
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let appear = query(APPEAR).bind(&*self.node).bind(millis(now)).bind(incarnation).bind(place);
        let done = appear.execute(&mut *tx).await?;
        tx.commit().await?;
        drop(writer);
        if done.rows_affected() == 0 && !self.takes_back(now).await? {
            return Ok(false);
        }
        let since = now.checked_sub(THERE).unwrap_or(now);
        let soon = now.checked_add(THERE).unwrap_or(now);
        let count = query_scalar(COUNT).bind(millis(since)).bind(millis(soon));
        let nodes: i64 = count.fetch_one(&self.readers).await?;
        self.turns.nodes.store(usize::try_from(nodes).unwrap_or(1), Ordering::Relaxed);
        Ok(true)
    }

    /// Takes the name from an earlier start of this very directory, whose lock this one has: a
    /// failover, or a backup, has brought its row back.
    async fn takes_back(&self, now: Timestamp) -> Result<bool, StoreError> {
        const OWNER: &str =
            "SELECT seen_at, incarnation FROM node WHERE node_id = $1 AND place = $2 AND place <> ''";
        let owner = query_as(OWNER).bind(&*self.node).bind(&self.start.place).fetch_optional(&self.readers);
        let owner: Option<(i64, String)> = owner.await?;
        match owner {
            Some(owner) => self.take_from(Some(&owner), now).await,
            None => Ok(false),
        }
    }

    /// At the end of the process, when nothing is in its hands any more: the others need not
    /// wait until its duties and its entries are theirs. What another start has that goes by this name stays.
    pub async fn disappear(&self) -> Result<(), StoreError> {
        const LEAVE: &str = "
            DELETE FROM duty WHERE node = $1
               AND NOT EXISTS (SELECT 1 FROM node WHERE node_id = $1 AND incarnation <> $2);
            UPDATE entry SET lease_until = NULL, node = NULL WHERE node = $1 AND state = 'open'
               AND NOT EXISTS (SELECT 1 FROM node WHERE node_id = $1 AND incarnation <> $2);
            DELETE FROM node WHERE node_id = $1 AND incarnation = $2";
        if !self.is_shared() {
            return Ok(());
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(LEAVE).bind(&*self.node).bind(&self.start.incarnation).execute(&mut *tx).await?;
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
