use super::*;
use crate::domain::batch::{MOST, half};
use crate::domain::decision::{Choice, NotNow};
use crate::domain::ids::BatchId;
use crate::store::batch::Candidate;
use crate::store::operator::{DecisionError, Order, Via};
use crate::store::queue::{Batched, LeasedPart};

const A: &str = "a@y.example";
const CALLS: &str = "SELECT count(*) FROM batch";
const FIXED: &str = "SELECT count(*) FROM part WHERE batch_id IS NOT NULL";

/// A message that may have company, leased by whoever accepts it.
fn mail(customer_id: &CustomerId) -> Acceptance {
    let hash = Some("0".repeat(64));
    let recipients = vec![mailbox(A)];
    let part = NewPart { road: Road::Resend, recipients, request_hash: hash, batch_max: MOST };
    Acceptance { parts: vec![part], ..message(customer_id, &[]) }
}

/// The same with an id that comes after those of all that are there.
async fn next(store: &Store, customer_id: &CustomerId) -> Acceptance {
    let later = count(store, "SELECT count(*) FROM message").await;
    let message_id = MessageId::generate(at(0) + jiff::SignedDuration::from_millis(later), random::octets());
    Acceptance { message_id, ..mail(customer_id) }
}

/// So many of them, accepted.
async fn mails(store: &Store, customer_id: &CustomerId, count: usize) -> Vec<Acceptance> {
    let mut mails = Vec::new();
    for _ in 0..count {
        mails.push(accepted(store, next(store, customer_id).await).await);
    }
    mails
}

/// Their parts in the hands of whoever makes this attempt.
fn members(of: &[Acceptance], attempt: u32) -> Vec<Candidate> {
    let candidate = |mail: &Acceptance| {
        let (message_id, request_hash) = (mail.message_id.clone(), "1".repeat(64));
        Candidate { message_id, part_no: 0, attempt, request_hash }
    };
    of.iter().map(candidate).collect()
}

/// The leases of the same.
fn leases(of: &[Acceptance], attempt: u32) -> Vec<(MessageId, u32, u32)> {
    of.iter().map(|mail| (mail.message_id.clone(), 0, attempt)).collect()
}

fn batch_id() -> BatchId {
    BatchId::generate(at(0), random::octets())
}

/// A call with all of these in it, at their first attempt.
async fn composed(store: &Store, of: &[Acceptance]) -> BatchId {
    let id = batch_id();
    let places = store.compose(&id, &members(of, 1), at(1)).await.unwrap();
    assert!(places.iter().all(Option::is_some), "{places:?}");
    id
}

/// One whose outcome is unknown; it is due again at 60.
async fn unknown(store: &Store, of: &[Acceptance]) -> BatchId {
    let id = composed(store, of).await;
    tell(store, of, 1, |_| retry(true)).await;
    id
}

/// The same call has ended for all of these.
async fn tell(store: &Store, of: &[Acceptance], attempt: u32, news: impl Fn(u32) -> News) -> Vec<Recorded> {
    let reports = (0..).zip(of).map(|(no, of)| report(of, attempt, news(no)));
    store.report_all(reports.collect()).await.unwrap()
}

async fn due(store: &Store, second: i64) -> Vec<DuePart> {
    store.due(at(second), &[Road::Resend], 200).await.unwrap()
}

/// State of each part, whether its outcome is unknown, and how much company it may have.
async fn parts(store: &Store) -> Vec<(String, bool, u32)> {
    const READ: &str = "SELECT state, unknown = 1, batch_max FROM part ORDER BY message_id";
    let rows: Vec<(String, bool, Whole)> = query_as(READ).fetch_all(&store.readers).await.unwrap();
    rows.into_iter().map(|(state, unknown, Whole(batch_max))| (state, unknown, batch_max)).collect()
}

fn all(count: usize, state: &str, unknown: bool, batch_max: u32) -> Vec<(String, bool, u32)> {
    vec![(state.to_owned(), unknown, batch_max); count]
}

fn numbers(parts: &[LeasedPart]) -> Vec<(MessageId, u32)> {
    let number = |part: &LeasedPart| (part.message_id.clone(), part.batch.as_ref().unwrap().no);
    parts.iter().map(number).collect()
}

/// Calls under way, of unknown outcome, taken and refused.
pub(super) async fn of_every_kind(store: &Store, customer_id: &CustomerId) {
    let mails = mails(store, customer_id, 8).await;
    composed(store, &mails[..1]).await;
    unknown(store, &mails[1..4]).await;
    composed(store, &mails[4..7]).await;
    tell(store, &mails[4..7], 1, |_| answered(&[A], &[])).await;
    composed(store, &mails[7..]).await;
    tell(store, &mails[7..], 1, |_| answered(&[], &[A])).await;
}

#[tokio::test]
async fn p4_a_call_is_composed_of_whoever_still_has_its_lease() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mails = mails(&store, &ann, 4).await;
    store.report(report(&mails[1], 1, retry(false))).await.unwrap();
    let id = batch_id();
    let places = store.compose(&id, &members(&mails, 1), at(9)).await.unwrap();
    let seat = |no| Some(Batched { id: id.clone(), no, size: 3 });
    assert_eq!(places, [seat(0), None, seat(1), seat(2)]);
    assert_eq!(count(&store, CALLS).await, 1);
    assert_audit(&store).await;
    let again = store.compose(&batch_id(), &members(&mails, 1), at(9)).await.unwrap();
    assert_eq!(again, [const { None }; 4], "they are in a call");
    let other_attempts = store.compose(&batch_id(), &members(&mails[1..2], 2), at(9)).await.unwrap();
    assert_eq!(
        (other_attempts, count(&store, CALLS).await),
        (vec![None], 1),
        "nobody is in it, and it is none"
    );
    tell(&store, &mails[..1], 1, |_| retry(true)).await;
    assert_eq!(count(&store, "SELECT first_try_at FROM part ORDER BY message_id").await, 1_800_000_009_000);
}

#[tokio::test]
async fn p4_nobody_is_given_more_company_than_it_may_have() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mut mails = mails(&store, &ann, 2).await;
    let by_smtp = accepted(&store, message(&ann, &[A])).await;
    let mut of_two = mail(&ann);
    of_two.parts[0].batch_max = 2;
    mails.push(accepted(&store, of_two).await);
    for asked in [members(&mails, 1), members(&[by_smtp], 1)] {
        let composed = store.compose(&batch_id(), &asked, at(9)).await;
        assert!(matches!(composed, Err(StoreError::Corrupt(_))), "{composed:?}");
    }
    assert_eq!((count(&store, CALLS).await, count(&store, FIXED).await), (0, 0));
    composed(&store, &mails[1..]).await;
    assert_audit(&store).await;
}

#[tokio::test]
async fn p4_after_a_crash_only_what_was_composed_may_have_been_taken() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mails = mails(&store, &ann, 3).await;
    composed(&store, &mails[..2]).await;
    let never_tried = ("queued".to_owned(), false, MOST);
    let held = leases(&mails[1..], 1);
    assert_eq!(store.lapse_expired(&held, at(30)).await.unwrap(), 1);
    assert_audit(&store).await;
    assert_eq!(store.lease_batch(&composed_id(&store).await, at(30), at(60)).await.unwrap().len(), 0);
    assert_eq!(parts(&store).await[0], ("queued".to_owned(), true, MOST), "it waits for the other");
    assert_eq!(store.lapse_all(at(31)).await.unwrap(), 2);
    let mut want = all(2, "queued", true, MOST);
    want.push(never_tried);
    assert_eq!(parts(&store).await, want);
    assert_eq!(due(&store, 31).await.len(), 2, "a call, and a part");
    assert_audit(&store).await;
}

async fn composed_id(store: &Store) -> BatchId {
    let id: String = query_scalar("SELECT batch_id FROM batch").fetch_one(&store.readers).await.unwrap();
    BatchId::parse(&id).unwrap()
}

#[tokio::test]
async fn p4_an_unknown_call_waits_as_one_and_is_made_again_as_one() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mails = mails(&store, &ann, 3).await;
    let mixed = [mails[2].clone(), mails[0].clone(), mails[1].clone()];
    let id = unknown(&store, &mixed).await;
    assert_audit(&store).await;
    assert_eq!(due(&store, 59).await, []);
    let due = due(&store, 60).await;
    let size = mails.iter().map(Acceptance::size).sum();
    let first = DuePart { size, batch_max: MOST, batch_id: Some(id.clone()), ..first_part(&mails[2]) };
    assert_eq!(due, [first], "the first of them stands for all, with the octets of all");
    for mail in &mails {
        assert!(store.lease(&first_part(mail), at(60), at(90)).await.unwrap().is_none(), "not alone");
    }
    let page: Vec<DuePart> = mails.iter().map(first_part).collect();
    assert!(store.lease_page(&page, at(60), at(90)).await.unwrap().parts.is_empty(), "not with others");
    // Two look at once: one of them has all of it.
    let (one, other) =
        tokio::join!(store.lease_batch(&id, at(60), at(90)), store.lease_batch(&id, at(60), at(90)));
    let (one, other) = (one.unwrap(), other.unwrap());
    let leased = if one.is_empty() { &other } else { &one };
    assert_eq!(one.len() + other.len(), 3);
    let order: Vec<_> = mixed.iter().map(|mail| mail.message_id.clone()).zip(0..).collect();
    assert_eq!(numbers(leased), order, "in the order in which it was composed");
    let is_the_same = |part: &LeasedPart| {
        part.unknown
            && part.attempt == 2
            && part.idempotency_key() == id.as_str()
            && part.first_try_at == at(1)
    };
    assert!(leased.iter().all(is_the_same), "{leased:?}");
    assert!(leased.iter().all(|part| part.batch.as_ref().unwrap().size == 3 && !part.bytes.is_empty()));
    // One is given back before the others.
    tell(&store, &mixed[1..2], 2, |_| retry(true)).await;
    assert_eq!(store.lease_batch(&id, at(60), at(90)).await.unwrap().len(), 0, "the others are under way");
    assert_eq!(parts(&store).await.iter().filter(|(state, ..)| state == "held").count(), 0);
    tell(&store, &mixed[..1], 2, |_| retry(true)).await;
    tell(&store, &mixed[2..], 2, |_| retry(true)).await;
    assert_eq!(numbers(&store.lease_batch(&id, at(60), at(90)).await.unwrap()), order);
    assert_audit(&store).await;
}

#[tokio::test]
async fn p4_what_is_made_again_is_what_was_posted_and_not_what_an_older_version_would_have() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mails = mails(&store, &ann, 2).await;
    let mut asked = members(&mails, 1);
    asked[1].request_hash = "2".repeat(64);
    let id = batch_id();
    store.compose(&id, &asked, at(1)).await.unwrap();
    tell(&store, &mails, 1, |_| retry(true)).await;
    let again = store.lease_batch(&id, at(60), at(90)).await.unwrap();
    let hashes: Vec<_> = again.into_iter().filter_map(|part| part.request_hash).collect();
    assert_eq!(hashes, ["1".repeat(64), "2".repeat(64)]);
}

#[tokio::test]
async fn p4_who_looks_at_a_call_too_early_or_too_late_leaves_it_as_it_is() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mails = mails(&store, &ann, 3).await;
    let id = unknown(&store, &mails).await;
    assert_eq!(store.lease_batch(&id, at(59), at(90)).await.unwrap().len(), 0, "it is not due");
    assert_eq!(parts(&store).await, all(3, "queued", true, MOST));
    // All of it was under way when somebody looked, and some of it.
    let one = vec![(first_part(&mails[0]), mails[0].bytes.clone())];
    for seen in [Vec::new(), one] {
        assert_eq!(store.take_batch(&id, seen, (at(60), at(90))).await.unwrap().len(), 0);
        assert_eq!(parts(&store).await, all(3, "queued", true, MOST), "and it has come back");
    }
    assert_eq!(store.lease_batch(&id, at(60), at(90)).await.unwrap().len(), 3);
    assert_audit(&store).await;
}

#[tokio::test]
async fn p4_a_call_of_which_somebody_is_missing_is_never_made_again() {
    for hand in [
        "UPDATE recipient SET address = 'not an address' WHERE message_id = (SELECT max(message_id) FROM part)",
        "DELETE FROM body WHERE message_id = (SELECT max(message_id) FROM part)",
        "UPDATE batch SET size = 4",
        "UPDATE part SET batch_id = NULL, batch_no = NULL WHERE batch_no = 0",
        "UPDATE part SET batch_id = NULL, batch_no = NULL WHERE batch_no = 2",
    ] {
        let (store, _directory) = store().await;
        let ann = customer(&store, "ann", Some(9)).await;
        let mails = mails(&store, &ann, 3).await;
        let id = unknown(&store, &mails).await;
        assert_eq!(execute(&store, hand).await.unwrap(), 1, "{hand}");
        let due = due(&store, 60).await;
        assert!(due.iter().any(|part| part.batch_id.as_ref() == Some(&id)), "it is still seen: {hand}");
        assert_eq!(store.lease_batch(&id, at(60), at(90)).await.unwrap().len(), 0, "{hand}");
        let held = "SELECT count(*) FROM part WHERE state = 'held' AND unknown = 1 AND batch_id IS NULL
            AND last_error LIKE 'its outcome is unknown, and it cannot be asked again: %'";
        let left = if hand.contains("batch_no = NULL") { 2 } else { 3 };
        assert_eq!(count(&store, held).await, left, "{hand}");
        assert_eq!(count(&store, CALLS).await, 0, "{hand}");
    }
}

#[tokio::test]
async fn p3_p4_every_end_of_a_call() {
    let sent = |no: u32| {
        let (upstream_id, sent) = (Some(format!("up-{no}")), vec![mailbox(A)]);
        News::Answered(Answered { upstream_id, sent, ..Answered::default() })
    };
    let apart = |no| {
        let (half, counts) = (half(5, no), false);
        let due = at(10) + Duration::from_millis(half.nth.into());
        let batch_max = Some(half.batch_max);
        let (error, maybe_taken) = ("refused".to_owned(), Vec::new());
        News::Retry { due, error, unknown: false, maybe_taken, counts, batch_max }
    };
    let hold = |_| News::Hold { reason: "forgotten".to_owned() };
    // News; the parts then; calls that are kept; how many are due at 10 and at 60; key and attempts of each.
    type Case<'a> = (&'a dyn Fn(u32) -> News, Vec<(String, bool, u32)>, i64, (usize, usize), (i64, i64));
    let table: [Case<'_>; 5] = [
        (&sent, all(5, "sent", false, MOST), 1, (0, 0), (1, 1)),
        (&apart, all(5, "queued", false, 2), 0, (2, 5), (1, 0)),
        (&|_| retry(false), all(5, "queued", false, MOST), 0, (0, 5), (1, 1)),
        (&|_| retry(true), all(5, "queued", true, MOST), 1, (0, 1), (0, 1)),
        (&hold, all(5, "held", true, MOST), 0, (0, 0), (0, 1)),
    ];
    for (nth, (news, want, calls, (now, later), (key_no, attempt))) in table.into_iter().enumerate() {
        let (store, _directory) = store().await;
        let ann = customer(&store, "ann", Some(9)).await;
        let mails = mails(&store, &ann, 5).await;
        composed(&store, &mails).await;
        tell(&store, &mails, 1, news).await;
        assert_eq!(parts(&store).await, want, "{nth}");
        assert_eq!(count(&store, CALLS).await, calls, "{nth}");
        assert_eq!(count(&store, FIXED).await, calls * 5, "{nth}");
        assert_eq!(due(&store, 10).await.len(), now, "{nth}");
        assert_eq!(due(&store, 60).await.len(), later, "{nth}");
        const KEYS: &str = "SELECT 10 * min(key_no) + max(attempt) FROM part";
        assert_eq!(count(&store, KEYS).await, 10 * key_no + attempt, "{nth}");
        assert_audit(&store).await;
    }
}

#[tokio::test]
async fn p4_what_was_never_composed_and_has_no_answer_is_alone_from_then_on() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mails = mails(&store, &ann, 1).await;
    tell(&store, &mails, 1, |_| retry(true)).await;
    assert_eq!(parts(&store).await, all(1, "queued", true, 1));
    let part = store.lease(&first_part(&mails[0]), at(60), at(90)).await.unwrap().unwrap();
    assert_eq!((part.batch_max, part.idempotency_key()), (1, format!("{}-0-0", mails[0].message_id)));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_reports_of_one_call_are_written_together_or_not_at_all() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mails = mails(&store, &ann, 4).await;
    composed(&store, &mails[..3]).await;
    // The disk fails at one of them.
    const FAILS: Sql = Sql {
        sqlite: "CREATE TRIGGER fails BEFORE UPDATE ON part WHEN NEW.upstream_id = 'up-2'
                 BEGIN SELECT RAISE(ABORT, 'no'); END",
        // Its condition divides by zero.
        postgres: "CREATE TRIGGER fails BEFORE UPDATE ON part FOR EACH ROW
                   WHEN (CASE NEW.upstream_id WHEN 'up-2' THEN NEW.part_no / 0 = 1 END)
                   EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    };
    const WORKS: Sql = Sql { sqlite: "DROP TRIGGER fails", postgres: "DROP TRIGGER fails ON part" };
    execute_either(&store, FAILS).await;
    let sent = |no: u32| {
        let (upstream_id, sent) = (Some(format!("up-{no}")), vec![mailbox(A)]);
        News::Answered(Answered { upstream_id, sent, ..Answered::default() })
    };
    let reports: Vec<Report> = (0..).zip(&mails[..3]).map(|(no, of)| report(of, 1, sent(no))).collect();
    // With another, in one commit.
    let busy = store.writer.gathering().await;
    let (one, others) = (store.clone(), store.clone());
    let (alone, told) = (report(&mails[3], 1, retry(false)), reports.clone());
    let alone = tokio::spawn(async move { one.report(alone).await });
    let together = tokio::spawn(async move { others.report_all(told).await });
    tokio::task::yield_now().await;
    drop(busy);
    assert_eq!(alone.await.unwrap().unwrap(), applied(0));
    assert!(together.await.unwrap().is_err());
    let mut want = all(3, "sending", false, MOST);
    want.extend(all(1, "queued", false, MOST));
    assert_eq!(parts(&store).await, want);
    assert_audit(&store).await;
    execute_either(&store, WORKS).await;
    assert_eq!(store.report_all(reports.clone()).await.unwrap(), [applied(1); 3]);
    assert_eq!(store.report_all(reports).await.unwrap(), [Recorded::Late; 3]);
    assert_eq!(sums(&store, &ann).await, (Some(9), 1, 3));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p4_what_the_operator_decides_about_a_member_of_a_call() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mails = mails(&store, &ann, 5).await;
    unknown(&store, &mails[..3]).await;
    composed(&store, &mails[3..]).await;
    let order = |choice| Order {
        choice,
        is_confirmed: true,
        via: Via::Http,
        now: at(10),
        lifetime: Duration::from_secs(9),
    };
    let cancelled = store.decide(&mails[1].message_id, &order(Choice::Cancel)).await;
    assert!(matches!(cancelled, Err(DecisionError::NotNow(_, NotNow::OutcomeUnknown))), "{cancelled:?}");
    assert_eq!(due(&store, 10).await, []);
    store.decide(&mails[1].message_id, &order(Choice::Retry)).await.unwrap();
    let [due] = &due(&store, 10).await[..] else { panic!("all of it is due") };
    assert_eq!(store.lease_batch(due.batch_id.as_ref().unwrap(), at(10), at(40)).await.unwrap().len(), 3);
    assert_audit(&store).await;
    tell(&store, &mails[..3], 2, |_| News::Hold { reason: "forgotten".to_owned() }).await;
    store.decide(&mails[2].message_id, &order(Choice::Retry)).await.unwrap();
    let resumed = store.lease(&first_part(&mails[2]), at(10), at(40)).await.unwrap().unwrap();
    assert_eq!((resumed.batch_max, resumed.batch, resumed.unknown), (1, None, false), "alone from now on");
    store.decide(&mails[0].message_id, &order(Choice::Cancel)).await.unwrap();
    assert_audit(&store).await;
}

#[tokio::test]
async fn what_leaves_alone_is_asked_for_apart_from_what_may_leave_together() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mut alone = next(&store, &ann).await;
    alone.parts[0].batch_max = 1;
    let alone = accepted(&store, Acceptance { lease_until: None, ..alone }).await;
    let together = accepted(&store, Acceptance { lease_until: None, ..next(&store, &ann).await }).await;
    let (now, roads) = (at(0), [Road::Resend]);
    assert_eq!(store.due_alone(now, &roads, 9).await.unwrap(), [first_part(&alone)]);
    let together = DuePart { batch_max: MOST, ..first_part(&together) };
    assert_eq!(store.due_together(now, &roads, 9).await.unwrap(), [together]);
}

#[tokio::test]
async fn a_page_is_taken_in_one_go_and_one_that_cannot_be_read_keeps_nobody() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mut page = Vec::new();
    for _ in 0..4 {
        let mail = accepted(&store, Acceptance { lease_until: None, ..next(&store, &ann).await }).await;
        page.push(DuePart { batch_max: MOST, ..first_part(&mail) });
    }
    let two_parts = |to: &str| NewPart { recipients: vec![mailbox(to)], ..mail(&ann).parts[0].clone() };
    let divided =
        Acceptance { parts: vec![two_parts(A), two_parts("b@y.example")], ..next(&store, &ann).await };
    let divided = accepted(&store, Acceptance { lease_until: None, ..divided }).await;
    page.extend([0, 1].map(|part_no| DuePart { part_no, batch_max: MOST, ..first_part(&divided) }));
    assert_eq!(due(&store, 0).await, page);
    store.lease(&page[0], at(0), at(30)).await.unwrap().unwrap();
    execute(
        &store,
        "DELETE FROM body WHERE message_id = (SELECT min(message_id) FROM part WHERE state = 'queued')",
    )
    .await
    .unwrap();
    let leased = store.lease_page(&page, at(0), at(30)).await.unwrap();
    let taken: Vec<_> = leased.parts.iter().map(|part| (part.message_id.clone(), part.part_no)).collect();
    let want: Vec<_> = page[2..].iter().map(|due| (due.message_id.clone(), due.part_no)).collect();
    assert_eq!(taken, want);
    let whole = |part: &LeasedPart| {
        part.attempt == 1
            && part.first_try_at == at(0)
            && part.batch_max == MOST
            && part.recipients.len() == 1
            && part.bytes == divided.bytes
    };
    assert!(leased.parts.iter().all(whole), "{leased:?}");
    let [(unreadable, reason)] = &leased.unreadable[..] else { panic!("{leased:?}") };
    assert_eq!(*unreadable, page[1]);
    assert!(reason.contains("0 octets"), "{reason}");
    store.set_aside(unreadable, reason).await.unwrap();
    assert_eq!(due(&store, 9).await, []);
    let again = store.lease_page(&page, at(9), at(30)).await.unwrap();
    assert!(again.parts.is_empty() && again.unreadable.is_empty(), "{again:?}");
}

#[tokio::test]
async fn a_part_that_is_not_due_yet_is_in_no_page() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mails = mails(&store, &ann, 1).await;
    tell(&store, &mails, 1, |_| retry(false)).await;
    let page: Vec<DuePart> = mails.iter().map(first_part).collect();
    assert_eq!(store.lease_page(&page, at(59), at(90)).await.unwrap().parts.len(), 0);
    let leased = store.lease_page(&page, at(60), at(90)).await.unwrap().parts;
    assert_eq!((leased[0].attempt, leased[0].key_no, leased[0].first_try_at), (2, 1, at(60)));
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_call_leaves_with_the_last_of_its_members() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let refused = News::Answered(Answered {
        failed: vec![(mailbox(A), Answer::new("5.1.1", "no such user"))],
        ..Answered::default()
    });
    let mails = mails(&store, &ann, 3).await;
    composed(&store, &mails[..2]).await;
    composed(&store, &mails[2..]).await;
    tell(&store, &mails[1..2], 1, |_| answered(&[A], &[])).await;
    tell(&store, &mails[..1], 1, |_| refused.clone()).await;
    tell(&store, &mails[2..], 1, |_| refused.clone()).await;
    assert_audit(&store).await;
    // Nothing was captured for two of them.
    let closed = store.close_messages(at(1_000_000), at(1_000_000), None).await.unwrap();
    assert_eq!((closed.count, count(&store, CALLS).await), (2, 1));
    assert_audit(&store).await;
    let entry = store.open_entry(&ann, &entry_id(), None, at(2)).await.unwrap().unwrap();
    store.settle_entry(&entry, super::super::entry::Settled::Sometime, at(2)).await.unwrap();
    store.close_captures(at(1_000_000)).await.unwrap();
    let closed = store.close_messages(at(1_000_000), at(1_000_000), None).await.unwrap();
    assert_eq!((closed.count, count(&store, CALLS).await), (1, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p4_whoever_was_told_of_in_doubt_was_sent_whatever_the_call_comes_to() {
    let held = News::Hold { reason: "the key may be forgotten".to_owned() };
    for (end, others) in [(held, "held"), (retry(false), "queued")] {
        let (store, _directory) = store().await;
        let ann = customer(&store, "ann", Some(9)).await;
        let mails = mails(&store, &ann, 3).await;
        let id = unknown(&store, &mails).await;
        store.taken_in_doubt(&id, (&mails[1].message_id, 0, "e-1"), at(5)).await.unwrap();
        store.taken_in_doubt(&id, (&mails[1].message_id, 0, "e-2"), at(5)).await.unwrap();
        assert_audit(&store).await;
        let again = store.lease_batch(&id, at(5), at(90)).await.unwrap();
        assert_eq!(again.len(), 3, "it stays in its call, which is due now");
        tell(&store, &mails, 2, |_| retry(true)).await;
        assert_eq!(
            store.lease_batch(&id, at(60), at(90)).await.unwrap().len(),
            3,
            "as long as that is in doubt"
        );
        tell(&store, &mails, 3, |_| end.clone()).await;
        let mut stand = Vec::new();
        for mail in &mails {
            let part = store.message(&mail.message_id).await.unwrap().unwrap().parts.remove(0);
            stand.push((part.state, part.upstream_id));
        }
        let other = (others.to_owned(), None);
        assert_eq!(stand, [other.clone(), ("sent".to_owned(), Some("e-1".to_owned())), other]);
        assert_eq!(store.totals().await.unwrap().owed, 1);
        assert_audit(&store).await;
    }
}

#[tokio::test]
async fn the_members_of_a_call_are_known_by_it() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mails = mails(&store, &ann, 3).await;
    let id = unknown(&store, &mails).await;
    let part = store.known_part(&mails[1].message_id, 0).await.unwrap().unwrap();
    assert_eq!((part.call.map(|call| call.id).as_ref(), part.is_unknown), (Some(&id), true));
    let known = store.known_batch(&id).await.unwrap();
    let names: Vec<_> = known.iter().map(|(id, part_no, part)| (id, *part_no, part.attempt)).collect();
    let want: Vec<_> = mails.iter().map(|mail| (&mail.message_id, 0, 1)).collect();
    assert_eq!(names, want);
    assert_eq!(store.known_batch(&batch_id()).await.unwrap().len(), 0);
}
