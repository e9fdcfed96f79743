//! The spool: what a large message has beyond its header, written while it arrives.
//!
//! Each chunk is on disk before the next one is read from the client, so a large
//! mail fills no memory, and its acceptance writes no more than that of a small
//! one: it names the spool. Until then the spool is an *orphan*: it belongs to no
//! message, and goes when its client is refused or lost, or when the process that was
//! writing it begins anew, or with the sweep. When its
//! message is final, a spool belongs to nobody again, and leaves the same way. Chunks
//! have a lane of their own into the gathering writer, and few of them share a
//! commit, in either direction, so that acceptances never wait for many octets.
//!
//! What was written ahead and then deleted gives its room back to later mail, not to
//! the disk; so a chunk is written only while the disk keeps a reserve, and what is
//! too large for a nearly full disk stops nobody else's mail.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::gathered::{Member, gather};
use super::leftovers::Leftover;
use super::sql::{On, Readers, Session, Sql, query, query_scalar};
use super::{Store, StoreError, changed, millis, stored};
use crate::allowance::Claim;
use crate::domain::ids::{MessageId, SpoolId};

/// Orphans that are deleted between two looks for more.
const ORPHANS: u32 = 4;
/// Chunks that are deleted in one commit, since acceptances wait for it: 4 MiB, more
/// than one commit writes of them.
const REMOVED: u32 = 16;

/// A piece of a message that is still arriving.
#[derive(Debug)]
pub struct NewChunk {
    /// Where it belongs.
    pub spool_id: SpoolId,
    /// Which one it is, from 0 without a gap.
    pub chunk_no: u32,
    /// The piece; never empty.
    pub bytes: Vec<u8>,
    /// Now.
    pub now: Timestamp,
}

/// A spool that is complete, as an acceptance names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    /// Its id.
    pub spool_id: SpoolId,
    /// Octets of all chunks together.
    pub octets: usize,
    /// Their SHA-256, in hexadecimal.
    pub sha256: String,
}

/// What large messages leave free on the disk for everything else.
///
/// The writer looks at the disk before each commit that has chunks: what has gathered
/// meanwhile cannot use up the reserve together, and it falls short by the chunks of
/// one commit at most, and by what is in the log already and not yet in the database.
/// What waits to be deleted is not free yet.
#[derive(Clone)]
pub(super) struct Reserve {
    /// Free octets of the disk.
    free: Arc<dyn Fn() -> u64 + Send + Sync>,
    min_free_bytes: u64,
}

impl fmt::Debug for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve").field("min_free_bytes", &self.min_free_bytes).finish_non_exhaustive()
    }
}

impl Reserve {
    pub(super) fn new(min_free_bytes: u64, free: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { free: Arc::new(free), min_free_bytes }
    }

    /// On the disk of this directory. One that does not say is tried.
    pub(super) fn of_disk(data_dir: &Path, min_free_bytes: u64) -> Self {
        let data_dir = data_dir.to_owned();
        Self::new(min_free_bytes, move || {
            rustix::fs::statvfs(&data_dir)
                .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
        })
    }

    /// Why no chunk may be written now.
    pub(super) async fn refusal(&self, connection: On<'_>) -> Option<StoreError> {
        let free = (self.free)();
        if self.is_kept(free, 0) {
            return None;
        }
        match reusable(connection).await {
            Ok(reusable) if self.is_kept(free, reusable) => None,
            Ok(_) => {
                let what = "the disk has less free than queue.min_free_bytes, and a large message is refused";
                Some(StoreError::Unavailable(what.to_owned()))
            }
            Err(error) => Some(error),
        }
    }

    /// Whether so much is enough. What is free inside the database is as good as the
    /// disk's for what is written there, but not for what goes through its log.
    pub(super) fn is_kept(&self, free: u64, reusable: u64) -> bool {
        free.saturating_add(reusable) >= self.min_free_bytes && free >= self.min_free_bytes / 2
    }
}

impl Store {
    /// Writes a chunk; returns after its commit.
    ///
    /// # Errors
    /// Also when the disk has less free than `queue.min_free_bytes`.
    pub async fn write_chunk(&self, chunk: NewChunk) -> Result<(), StoreError> {
        gather(&self.exits.chunks, |answer| Member::Chunk(Box::new(chunk), answer)).await
    }

    /// Has an orphan deleted before long, and gives its claim back when it has left; what
    /// belongs to a message stays. Nobody waits for it. `is_writing`: the answer to
    /// [`write_chunk`](Self::write_chunk) was not awaited, and it may still write.
    pub fn discard_spool(&self, spool_id: SpoolId, claim: Claim, is_writing: bool) {
        let _ = self.leftovers.send(Leftover { spool_id, is_writing, claim: Some(claim) });
    }

    /// At the start, once the name is surely its own, and before anything arrives: has what was arriving at
    /// this process when it ended deleted before long.
    pub async fn forget_arriving(&self) {
        match begun_before(&self.readers, &self.node).await {
            Ok(begun) if begun.is_empty() => {}
            Ok(begun) => {
                tracing::info!(
                    spools = begun.len(),
                    "what was arriving when this server ended the last time is removed"
                );
                self.remove_left(begun);
            }
            Err(error) => error.tell("what was arriving when this server ended leaves by its age"),
        }
    }

    /// Has these, which are no message's, deleted before long.
    pub(super) fn remove_left(&self, left: Vec<SpoolId>) {
        for spool_id in left {
            let _ = self.leftovers.send(Leftover { spool_id, is_writing: false, claim: None });
        }
    }

    /// Reads the next chunk of a spool; `None` behind the last one.
    pub async fn read_chunk(&self, spool_id: &SpoolId, chunk_no: u32) -> Result<Option<Vec<u8>>, StoreError> {
        const READ: &str = "SELECT bytes FROM chunk WHERE spool_id = $1 AND chunk_no = $2";
        let read = query_scalar(READ).bind(spool_id.as_str()).bind(chunk_no);
        Ok(read.fetch_optional(&self.readers).await?)
    }

    /// The octets of a message that is not final: its row of `body`, and its spool behind
    /// it, one chunk at a time into one place: a large message is not in memory twice, and
    /// keeps no reader from others for long.
    pub(super) async fn read_body(&self, message_id: &MessageId, size: usize) -> Result<Vec<u8>, StoreError> {
        const BODY: &str = "SELECT bytes FROM body WHERE message_id = $1 ORDER BY chunk_no";
        let id = message_id.as_str();
        let rows: Vec<Vec<u8>> = query_scalar(BODY).bind(id).fetch_all(&self.readers).await?;
        let mut bytes = Vec::with_capacity(size);
        rows.iter().for_each(|row| bytes.extend_from_slice(row));
        let mut chunk_no = 0;
        while let Some(chunk) = chunk_of(&self.readers, id, chunk_no).await? {
            bytes.extend_from_slice(&chunk);
            chunk_no += 1;
        }
        Ok(bytes)
    }

    /// Deletes a few orphans that were begun before `cutoff`, and whatever final messages
    /// have left behind; returns how many.
    pub async fn sweep_orphans(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        const FIND: &str = "
            SELECT spool_id FROM spool WHERE left_at IS NOT NULL
            UNION ALL
            SELECT spool_id FROM spool WHERE message_id IS NULL AND left_at IS NULL AND begun_at < $1
            LIMIT $2";
        let find = query_scalar(FIND).bind(millis(cutoff)).bind(ORPHANS);
        let orphans: Vec<String> = find.fetch_all(&self.readers).await?;
        for spool_id in &orphans {
            self.exits.remove(&stored(SpoolId::parse(spool_id))?, false).await?;
        }
        Ok(u64::try_from(orphans.len()).unwrap_or(u64::MAX))
    }
}

/// What was arriving at this process when it ended the last time. It has to be asked before
/// anything arrives anew.
pub(super) async fn begun_before(readers: &Readers, node: &str) -> Result<Vec<SpoolId>, StoreError> {
    const FIND: Sql = Sql {
        sqlite: "
            SELECT spool_id FROM spool WHERE message_id IS NULL AND left_at IS NULL
                AND (node = $1 OR node IS NULL)",
        // Of a database that was a file the process is gone. An older version's may be at work.
        postgres: "
            SELECT spool_id FROM spool WHERE message_id IS NULL AND left_at IS NULL
                AND (node = $1 OR node = 'local')",
    };
    let begun: Vec<String> = query_scalar(FIND).bind(node).fetch_all(readers).await?;
    begun.iter().map(|spool_id| stored(SpoolId::parse(spool_id))).collect()
}

/// Octets of the database that nothing stands in any more.
pub(super) async fn reusable(database: impl Into<On<'_>>) -> Result<u64, StoreError> {
    const READ: Sql = Sql {
        sqlite: "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size",
        // Its disk is not measured.
        postgres: "SELECT CAST(0 AS BIGINT)",
    };
    let octets: i64 = query_scalar(READ).fetch_one(database).await?;
    Ok(u64::try_from(octets).unwrap_or(0))
}

/// Writes one chunk, and with the first one its spool. A chunk of a spool that was
/// swept meanwhile violates its foreign key: its message can never be whole.
pub(super) async fn write_chunk(
    tx: &mut Session<'_>,
    chunk: &NewChunk,
    node: &str,
) -> Result<(), StoreError> {
    const BEGIN: &str = "INSERT INTO spool (spool_id, begun_at, node) VALUES ($1, $2, $3)";
    const WRITE: &str = "INSERT INTO chunk (spool_id, chunk_no, bytes) VALUES ($1, $2, $3)";
    let spool_id = chunk.spool_id.as_str();
    if chunk.chunk_no == 0 {
        query(BEGIN).bind(spool_id).bind(millis(chunk.now)).bind(node).execute(&mut *tx).await?;
    }
    let write = query(WRITE).bind(spool_id).bind(chunk.chunk_no).bind(chunk.bytes.as_slice());
    changed("chunk", write.execute(tx).await?.rows_affected(), 1)
}

/// Deletes the last chunks of a spool that belongs to no message, and with the last of
/// all the spool itself. Returns whether nothing of it is left to delete. Several leave in
/// one commit, in any order, so nobody is waited for.
pub(super) async fn remove_some(tx: &mut Session<'_>, spool_id: &SpoolId) -> Result<bool, StoreError> {
    const CHUNKS: &str = "
        DELETE FROM chunk WHERE (spool_id, chunk_no) IN
            (SELECT c.spool_id, c.chunk_no FROM spool s JOIN chunk c ON c.spool_id = s.spool_id
             WHERE s.spool_id = $1 AND s.message_id IS NULL ORDER BY c.chunk_no DESC LIMIT $2)";
    const SPOOL: &str = "DELETE FROM spool WHERE spool_id = $1 AND message_id IS NULL";
    const LOCK: Sql = Sql {
        sqlite: "SELECT spool_id FROM spool WHERE spool_id = $1",
        postgres: "SELECT spool_id FROM spool WHERE spool_id = $1 FOR UPDATE SKIP LOCKED",
    };
    const IS_THERE: &str = "SELECT EXISTS (SELECT 1 FROM spool WHERE spool_id = $1)";
    let id = spool_id.as_str();
    let locked: Option<String> = query_scalar(LOCK).bind(id).fetch_optional(&mut *tx).await?;
    if locked.is_none() {
        // Somebody else is at it, and may not come to the end.
        let is_there: bool = query_scalar(IS_THERE).bind(id).fetch_one(tx).await?;
        return Ok(!is_there);
    }
    let chunks = query(CHUNKS).bind(spool_id.as_str()).bind(REMOVED).execute(&mut *tx).await?;
    if chunks.rows_affected() >= u64::from(REMOVED) {
        return Ok(false);
    }
    query(SPOOL).bind(spool_id.as_str()).execute(tx).await?;
    Ok(true)
}

/// A chunk of what a message has beyond its row of `body`; `None` behind the last one.
pub(super) async fn chunk_of(
    database: impl Into<On<'_>>,
    message_id: &str,
    chunk_no: u32,
) -> Result<Option<Vec<u8>>, StoreError> {
    const READ: &str = "
        SELECT c.bytes FROM spool s JOIN chunk c ON c.spool_id = s.spool_id
        WHERE s.message_id = $1 AND c.chunk_no = $2";
    Ok(query_scalar(READ).bind(message_id).bind(chunk_no).fetch_optional(database).await?)
}
