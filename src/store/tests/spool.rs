//! Large messages: written ahead, named by the acceptance, swept where nobody names them.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use super::*;
use crate::allowance::{Allowance, Beyond, Claim};
use crate::domain::digest::sha256_hex;
use crate::domain::ids::SpoolId;
use crate::store::gathered::{Member, gather};
use crate::store::spool::{NewChunk, Reserve, Spooled, reusable};
use crate::submission::stand_in::in_a_file;

const ROWS: &str = "SELECT (SELECT count(*) FROM spool) || ' ' || (SELECT count(*) FROM chunk)";

/// A spool of these chunks, begun now: the audit knows what is old by its own clock.
pub(super) async fn spooled(store: &Store, chunks: &[&str]) -> Spooled {
    begun(store, chunks, Timestamp::now()).await
}

async fn begun(store: &Store, chunks: &[&str], now: Timestamp) -> Spooled {
    let spool_id = SpoolId::generate(now, random::octets());
    for (chunk_no, bytes) in (0..).zip(chunks) {
        store.write_chunk(chunk(&spool_id, chunk_no, bytes, now)).await.unwrap();
    }
    let whole = chunks.concat();
    Spooled { spool_id, octets: whole.len(), sha256: sha256_hex(whole.as_bytes()) }
}

fn chunk(spool_id: &SpoolId, chunk_no: u32, bytes: &str, now: Timestamp) -> NewChunk {
    NewChunk { spool_id: spool_id.clone(), chunk_no, bytes: bytes.into(), now }
}

fn large(customer_id: &CustomerId, spooled: Spooled) -> Acceptance {
    let waiting = Acceptance { lease_until: None, ..message(customer_id, &["a@y.example"]) };
    Acceptance { spooled: Some(spooled), ..waiting }
}

fn claim(customer_id: &CustomerId) -> Claim {
    Allowance::new("x", 9, 9).claim(customer_id)
}

/// Waits until there are so many spools and chunks.
async fn until_rows(store: &Store, want: &str) {
    let there = async { while rows(store).await != want {} };
    if tokio::time::timeout(Duration::from_secs(30), there).await.is_err() {
        panic!("{} rows, not {want}", rows(store).await);
    }
}

async fn rows(store: &Store) -> String {
    query_scalar(ROWS).fetch_one(&store.readers).await.unwrap()
}

#[tokio::test]
async fn p1_an_acceptance_names_what_was_written_ahead_and_delivery_has_it_whole() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let asked = large(&ann, spooled(&store, &["one ", "two ", "three\r\n"]).await);
    let message = accepted(&store, asked).await;
    assert_audit(&store).await;
    let part = store.lease(&first_part(&message), at(0), at(30)).await.unwrap().unwrap();
    assert_eq!(part.bytes, [message.bytes.as_ref(), b"one two three\r\n"].concat());
    let due = store.due_large(at(0), &[Road::Smtp], 10).await.unwrap();
    assert_eq!(due, []);
    assert_eq!(count(&store, "SELECT size FROM message").await, i64::try_from(part.bytes.len()).unwrap());
    // Neither the sweep nor a late client's discard touches it, however old it is.
    store.discard_spool(message.spooled.clone().unwrap().spool_id, claim(&ann), false);
    assert_eq!(store.sweep_orphans(Timestamp::MAX).await.unwrap(), 0);
    assert_eq!(rows(&store).await, "1 3");
    let sent = report(&message, 1, answered(&["a@y.example"], &[]));
    assert_eq!(store.report(sent).await.unwrap(), applied(1));
    until_rows(&store, "0 0").await;
    assert_audit(&store).await;
}

#[tokio::test]
async fn p1_an_acceptance_that_does_not_find_its_chunks_is_none_and_fails_no_other() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let taken = accepted(&store, large(&ann, spooled(&store, &["a"]).await)).await;
    let whole = spooled(&store, &["bcd"]).await;
    let missing = Spooled { octets: 4, ..whole.clone() };
    let swept = Spooled { spool_id: SpoolId::generate(at(0), random::octets()), ..whole.clone() };
    for spooled in [missing, swept, taken.spooled.unwrap()] {
        let (spoilt, sound) = (large(&ann, spooled), message(&ann, &["b@y.example"]));
        let (spoilt, sound) = tokio::join!(store.accept(spoilt), store.accept(sound));
        assert!(matches!(spoilt, Err(StoreError::Corrupt(_))), "{spoilt:?}");
        assert!(matches!(sound, Ok(Accepted::Yes { .. })), "{sound:?}");
    }
    accepted(&store, large(&ann, whole)).await;
    assert_eq!(sums(&store, &ann).await, (Some(5), 5, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p1_a_message_of_which_a_chunk_is_missing_is_not_sent_without_it() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, large(&ann, spooled(&store, &["one ", "two ", "three"]).await)).await;
    execute(&store, "DELETE FROM chunk WHERE chunk_no = 2").await.unwrap();
    let read = store.lease(&first_part(&message), at(0), at(30)).await;
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    assert_eq!(store.due_large(at(0), &[Road::Smtp], 9).await.unwrap().len(), 1, "nobody has it");
}

#[tokio::test]
async fn large_parts_are_due_apart_and_whoever_has_the_fewest_under_way_is_next() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", Some(9)).await, customer(&store, "bob", Some(9)).await);
    let roads = [Road::Resend, Road::Smtp];
    let small = accepted(&store, Acceptance { lease_until: None, ..message(&ann, &["a@y.example"]) }).await;
    let mut ids = Vec::new();
    for (second, whose) in (0..).zip([&ann, &ann, &ann, &bob, &bob]) {
        let accepted_at = at(second);
        let asked = Acceptance { accepted_at, ..large(whose, spooled(&store, &["x"]).await) };
        ids.push(accepted(&store, asked).await.message_id);
    }
    let due_large = async |roads: &[Road], limit: u32| {
        let due = store.due_large(at(9), roads, limit).await.unwrap();
        let nth = |due: &DuePart| ids.iter().position(|id| *id == due.message_id).unwrap();
        due.iter().map(nth).collect::<Vec<_>>()
    };
    assert_eq!(due_large(&roads, 9).await, [0, 3, 1, 4, 2]);
    assert!(due_large(&[Road::Resend], 9).await.is_empty());
    let due = store.due(at(9), &roads, 9).await.unwrap();
    assert_eq!(due, [first_part(&small)], "what is small");
    // Whose turn it is, one after the other.
    for next in [0, 3, 1, 4, 2] {
        assert_eq!(due_large(&roads, 1).await, [next]);
        let due = store.due_large(at(9), &roads, 1).await.unwrap().remove(0);
        assert!(store.lease(&due, at(9), at(30)).await.unwrap().is_some());
    }
    assert!(due_large(&roads, 1).await.is_empty());
}

#[tokio::test]
async fn what_has_left_makes_room_for_more() {
    let (store, _directory) = store_in_a_file().await;
    let megabyte = "x".repeat(1 << 20);
    let spooled = begun(&store, &[&megabyte], at(0)).await;
    let before = reusable(&store.readers).await.unwrap();
    assert_eq!(store.sweep_orphans(Timestamp::MAX).await.unwrap(), 1);
    let reusable = reusable(&store.readers).await.unwrap() - before;
    assert!(reusable >= u64::try_from(spooled.octets).unwrap(), "{reusable}");
}

#[tokio::test]
async fn chunks_that_gathered_use_up_no_more_of_the_reserve_than_one_commit_of_them() {
    const CHUNK: usize = 256 << 10;
    const IN_ONE_COMMIT: usize = 4;
    let directory = Directory::new();
    // The disk has room when it is first looked at, and none once something is written.
    let looked = AtomicU64::new(0);
    let reserve = Reserve::new(64, move || if looked.fetch_add(1, Ordering::SeqCst) == 0 { 64 } else { 0 });
    // The disk is that of a file.
    let settings = in_a_file(&directory.0, Maker::Serve);
    let store = Store::open_on(&settings, (reserve, Patience::default()), Metrics::new(), CrashAt::default())
        .await
        .unwrap();
    let ann = customer(&store, "ann", Some(5)).await;
    let busy = store.writer.gathering().await;
    let writing: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            let begun = SpoolId::generate(at(0), random::octets());
            tokio::spawn(async move { store.write_chunk(chunk(&begun, 0, &"x".repeat(CHUNK), at(0))).await })
        })
        .collect();
    tokio::task::yield_now().await;
    drop(busy);
    let mut written = 0;
    for writing in writing {
        match writing.await.unwrap() {
            Ok(()) => written += 1,
            Err(error) => assert!(error.to_string().contains("queue.min_free_bytes"), "{error}"),
        }
    }
    assert_eq!(written, IN_ONE_COMMIT);
    assert_eq!(rows(&store).await, "4 4");
    // Small mail goes on, and with it whatever gathers of large mail is still refused.
    let begun = SpoolId::generate(at(0), random::octets());
    let (chunk, small) = (chunk(&begun, 0, "x", at(0)), message(&ann, &["b@y.example"]));
    let (refused, taken) = tokio::join!(store.write_chunk(chunk), store.accept(small));
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(matches!(taken, Ok(Accepted::Yes { .. })), "{taken:?}");
    assert_audit(&store).await;
}

#[test]
fn a_reserve_may_be_half_inside_the_database() {
    let reserve = Reserve::new(64, || 0);
    let table = [(64, 0, true), (63, 0, false), (63, 1, true), (32, 32, true), (31, 1_000, false)];
    for (free, reusable, want) in table {
        assert_eq!(reserve.is_kept(free, reusable), want, "{free} {reusable}");
    }
}

#[tokio::test]
async fn orphans_leave_by_their_age_and_what_still_arrives_does_not() {
    let (store, _directory) = store().await;
    for nth in 0..10 {
        begun(&store, &["x", "y"], at(nth)).await;
    }
    let mut swept = 0;
    while let some @ 1.. = store.sweep_orphans(at(7)).await.unwrap() {
        swept += some;
    }
    assert_eq!((swept, rows(&store).await.as_str()), (7, "3 6"));
    assert_eq!(store.sweep_orphans(at(7)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_message_whose_spool_was_swept_meanwhile_goes_no_further() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let begun = begun(&store, &["x"], at(0)).await;
    assert_eq!(store.sweep_orphans(at(1)).await.unwrap(), 1);
    let more = chunk(&begun.spool_id, 1, "y", at(2));
    let (more, other) = tokio::join!(store.write_chunk(more), store.accept(message(&ann, &["b@y.example"])));
    assert!(more.is_err());
    assert!(matches!(other, Ok(Accepted::Yes { .. })), "{other:?}");
    assert_eq!(rows(&store).await, "0 0");
}

#[tokio::test]
async fn a_chunk_that_cannot_be_written_fails_alone_and_its_spool_can_be_discarded() {
    const FAIL: Sql = Sql {
        sqlite: "CREATE TRIGGER fails BEFORE INSERT ON chunk WHEN NEW.chunk_no = 1
                 BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        // Its condition divides by zero.
        postgres: "CREATE TRIGGER fails BEFORE INSERT ON chunk FOR EACH ROW
                   WHEN (CASE NEW.chunk_no WHEN 1 THEN NEW.chunk_no / 0 = 1 END)
                   EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    };
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    execute_either(&store, FAIL).await;
    let begun = spooled(&store, &["x"]).await;
    let failing = store.write_chunk(chunk(&begun.spool_id, 1, "y", at(0)));
    let (failed, other) = tokio::join!(failing, store.accept(message(&ann, &["b@y.example"])));
    assert!(failed.is_err());
    assert!(matches!(other, Ok(Accepted::Yes { .. })), "{other:?}");
    assert_eq!(rows(&store).await, "1 1");
    store.discard_spool(begun.spool_id, claim(&ann), false);
    until_rows(&store, "0 0").await;
    assert_audit(&store).await;
}

/// Nothing leaves the spool.
const STAYS: Sql = Sql {
    sqlite: "CREATE TRIGGER stays BEFORE DELETE ON chunk BEGIN SELECT RAISE(ABORT, 'no'); END",
    // Its condition divides by zero.
    postgres: "CREATE TRIGGER stays BEFORE DELETE ON chunk FOR EACH ROW WHEN (OLD.chunk_no / 0 = 1)
               EXECUTE FUNCTION suppress_redundant_updates_trigger()",
};
const LEAVES: Sql = Sql { sqlite: "DROP TRIGGER stays", postgres: "DROP TRIGGER stays ON chunk" };

#[tokio::test]
async fn p1_what_was_arriving_at_a_killed_process_leaves_when_it_begins_anew() {
    let (store, directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let now = Timestamp::now();
    accepted(&store, large(&ann, begun(&store, &["a message's"], now).await)).await;
    for _ in 0..3 {
        begun(&store, &["x", "y"], now).await;
    }
    drop(store);
    let store = reopened(&directory).await;
    store.forget_arriving().await;
    // What arrives from now on is another life's.
    let arriving = begun(&store, &["z"], now).await;
    until_rows(&store, "2 2").await;
    accepted(&store, large(&ann, arriving)).await;
    assert_audit(&store).await;
}

#[tokio::test]
async fn p1_what_arrives_at_another_process_stays_when_one_begins_anew() {
    let directory = Directory::new();
    let settings = settings(&directory.0, Maker::Serve);
    if settings.database_url.is_none() {
        return;
    }
    let there = StoreSettings { data_dir: directory.0.join("there"), ..settings.clone() };
    let here = Store::open(&settings, Metrics::new()).await.unwrap();
    let there = Store::open(&there, Metrics::new()).await.unwrap();
    let ann = customer(&here, "ann", Some(5)).await;
    let now = Timestamp::now();
    let theirs = begun(&there, &["theirs"], now).await;
    let older = begun(&here, &["an older version's"], now).await;
    let of_older = query("UPDATE spool SET node = NULL WHERE spool_id = $1").bind(older.spool_id.as_str());
    of_older.execute(here.writer.gathering().await.raw().await).await.unwrap();
    begun(&here, &["own"], now).await;
    drop(here);
    let here = reopened(&directory).await;
    here.forget_arriving().await;
    until_rows(&here, "2 2").await;
    accepted(&there, large(&ann, theirs)).await;
    accepted(&there, large(&ann, older)).await;
    assert_audit(&here).await;
}

#[tokio::test]
async fn what_final_messages_had_is_nobodys_at_once_and_leaves_when_it_can() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    execute_either(&store, STAYS).await;
    for nth in 0..3 {
        let message = accepted(&store, large(&ann, spooled(&store, &["one ", "two"]).await)).await;
        store.lease(&first_part(&message), at(0), at(30)).await.unwrap().unwrap();
        let news = answered(&["a@y.example"], &[]);
        // Were the octets deleted with the report, it could not be written.
        let recorded = store.report(Report { attempt: 1, ..report(&message, 1, news) }).await.unwrap();
        assert_eq!(recorded, applied(1), "{nth}");
        assert_eq!(store.read_body(&message.message_id, 0).await.unwrap(), b"", "nobody reads it any more");
    }
    assert_eq!(rows(&store).await, "3 6");
    assert_audit(&store).await;
    execute_either(&store, LEAVES).await;
    until_rows(&store, "0 0").await;
}

#[tokio::test]
async fn what_final_messages_had_leaves_after_a_crash() {
    let (store, directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    execute_either(&store, STAYS).await;
    let message = accepted(&store, large(&ann, spooled(&store, &["one ", "two"]).await)).await;
    store.lease(&first_part(&message), at(0), at(30)).await.unwrap().unwrap();
    store.report(report(&message, 1, answered(&["a@y.example"], &[]))).await.unwrap();
    drop(store);
    let store = reopened(&directory).await;
    execute_either(&store, LEAVES).await;
    begun(&store, &["another's"], Timestamp::now()).await;
    let mut swept = 0;
    while let some @ 1.. = store.sweep_orphans(Timestamp::UNIX_EPOCH).await.unwrap() {
        swept += some;
    }
    assert!(swept <= 1, "what still arrives does not: {swept}");
    until_rows(&store, "1 1").await;
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_spool_leaves_a_few_chunks_a_commit_and_the_rest_is_sound_between_them() {
    let (store, _directory) = store().await;
    let begun = spooled(&store, &["x"; 40]).await;
    let exits = store.exits.clone();
    let step = || gather(&exits.removals, |answer| Member::Remove(begun.spool_id.clone(), answer));
    for (want, is_gone) in [("1 24", false), ("1 8", false), ("0 0", true), ("0 0", true)] {
        assert_eq!(step().await.unwrap(), is_gone);
        assert_eq!(rows(&store).await, want);
        assert_audit(&store).await;
    }
}

#[tokio::test]
async fn a_claim_lasts_until_its_octets_are_off_the_disk_or_a_messages() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let allowance = Allowance::new("x", 20, 10);
    let claimed = || {
        let mut claim = allowance.claim(&ann);
        claim.grow(10).map(|()| claim)
    };
    let until_free = async || {
        let there = async {
            loop {
                tokio::task::yield_now().await;
                if let Ok(claim) = claimed() {
                    return claim;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), there).await.expect("the claim to end")
    };
    // What cannot be deleted stays, and counts.
    execute_either(&store, STAYS).await;
    let stays = begun(&store, &["x"], at(0)).await;
    store.discard_spool(stays.spool_id, claimed().unwrap(), false);
    let kept = begun(&store, &["x"], at(0)).await;
    assert!(store.sweep_orphans(at(1)).await.is_err());
    assert_eq!(claimed().unwrap_err(), Beyond::OfCustomer("x"));
    execute_either(&store, LEAVES).await;
    let claim = until_free().await;
    // What a message has taken meanwhile is no orphan, whoever thinks so.
    accepted(&store, large(&ann, kept.clone())).await;
    store.discard_spool(kept.spool_id, claim, false);
    let claim = until_free().await;
    // A chunk that is still in line when its spool is given up leaves with it.
    let busy = store.writer.gathering().await;
    let spool_id = SpoolId::generate(at(0), random::octets());
    let mut writing = Box::pin(store.write_chunk(chunk(&spool_id, 0, "late", at(0))));
    let waits = poll_fn(|context| Poll::Ready(writing.as_mut().poll(context).is_pending())).await;
    assert!(waits, "for the writer");
    drop(writing);
    store.discard_spool(spool_id, claim, true);
    drop(busy);
    until_free().await;
    assert_eq!(rows(&store).await, "1 1", "the message's");
    assert_audit(&store).await;
}
