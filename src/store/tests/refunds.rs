use super::*;
use crate::store::entry::{Entry, Settled};
use crate::store::refund::{Allowance, CreditOpening, DueRefund, Lapse};
use crate::submission::stand_in::bounced;
use crate::telemetry::{EntryKind, RefundResult};

/// More than these tests refund.
pub(super) const PLENTY: Allowance = Allowance { sent: 1_000, since: Timestamp::UNIX_EPOCH };

/// Sends a message of this customer to all of its recipients.
pub(super) async fn sent(store: &Store, message: Acceptance) -> Acceptance {
    let message = accepted(store, message).await;
    let recipients = message.parts[0].recipients.clone();
    let news = News::Answered(Answered { sent: recipients, ..Answered::default() });
    store.report(report(&message, 1, news)).await.unwrap();
    message
}

pub(super) async fn bounce(
    store: &Store,
    of: &Acceptance,
    who: &[&str],
    allowance: Allowance,
) -> Vec<RefundResult> {
    bounce_at(store, of, who, (allowance, at(9))).await
}

pub(super) async fn bounce_at(
    store: &Store,
    of: &Acceptance,
    who: &[&str],
    (allowance, now): (Allowance, Timestamp),
) -> Vec<RefundResult> {
    let recipients: Vec<Mailbox> = who.iter().map(|who| mailbox(who)).collect();
    let whose = (&of.message_id, &of.customer_id);
    let decisions = bounced(store, whose, &recipients, Some(&allowance), now).await.unwrap();
    decisions.into_iter().map(|decision| decision.result).collect()
}

async fn settle(store: &Store, customer_id: &CustomerId) {
    let entry = store.open_entry(customer_id, &entry_id(), None, at(1)).await.unwrap().unwrap();
    store.settle_entry(&entry, Settled::Sometime, at(2)).await.unwrap();
}

/// What of a customer's refunds Dodo has to give.
async fn due(store: &Store, customer_id: &CustomerId) -> Vec<DueRefund> {
    store.due_refunds(customer_id, at(10)).await.unwrap().unwrap().debited
}

pub(super) async fn open_credit(store: &Store, customer_id: &CustomerId, lapse: Lapse) -> Option<Entry> {
    let refunds = due(store, customer_id).await.into_iter().map(|refund| (refund, lapse)).collect();
    let opening = CreditOpening { customer_id: customer_id.clone(), entry_id: entry_id(), refunds };
    let (entry, _) = store.open_credit(&opening, at(10)).await.unwrap();
    assert_audit(store).await;
    entry
}

/// A message whose refund has to be posted.
pub(super) async fn bounced_after_the_debit(store: &Store, customer_id: &CustomerId) {
    let bounced = sent(store, message(customer_id, &["b@y.example"])).await;
    settle(store, customer_id).await;
    assert_eq!(bounce(store, &bounced, &["b@y.example"], PLENTY).await, [RefundResult::Due]);
}

/// One refund that waits, and others that were released, credited and are being credited.
pub(super) async fn of_every_kind(store: &Store) {
    let bob = customer(store, "bob", Some(50)).await;
    for is_open in [false, true] {
        bounced_after_the_debit(store, &bob).await;
        let credit = open_credit(store, &bob, Lapse::Never).await.unwrap();
        if !is_open {
            store.settle_entry(&credit, Settled::Sometime, at(11)).await.unwrap();
        }
    }
    let released = sent(store, message(&bob, &["b@y.example"])).await;
    bounce(store, &released, &["b@y.example"], PLENTY).await;
    let early = accepted(store, message(&bob, &["b@y.example"])).await;
    store.report(report(&early, 1, retry(true))).await.unwrap();
    bounce(store, &early, &["b@y.example"], PLENTY).await;
}

/// Price, captured, released.
async fn line(store: &Store, of: &Acceptance) -> (i64, i64, i64) {
    let log = store.message(&of.message_id).await.unwrap().unwrap();
    (log.price, log.captured, log.released)
}

#[tokio::test]
async fn p3_a_bounce_before_the_debit_takes_the_capture_back() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    owe(&store, &ann).await;
    let bounced = sent(&store, message(&ann, &["b@y.example"])).await;
    owe(&store, &ann).await;
    assert_eq!(bounce(&store, &bounced, &["b@y.example"], PLENTY).await, [RefundResult::Released]);
    assert_eq!(bounce(&store, &bounced, &["b@y.example"], PLENTY).await, []);
    assert_eq!(line(&store, &bounced).await, (1, 0, 1));
    assert_eq!(sums(&store, &ann).await, (Some(50), 0, 2));
    assert_audit(&store).await;
    let entry = store.open_entry(&ann, &entry_id(), None, at(1)).await.unwrap().unwrap();
    assert_eq!(entry.amount, credits(2), "the whole debt");
    store.settle_entry(&entry, Settled::Now { balance_after: 48 }, at(2)).await.unwrap();
    owe(&store, &ann).await;
    settle(&store, &ann).await;
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_a_debt_that_was_taken_back_to_nothing_opens_no_entry() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(0)).await;
    read_balance(&store, &ann, 5).await;
    let bounced = sent(&store, message(&ann, &["b@y.example"])).await;
    read_balance(&store, &ann, 0).await;
    bounce(&store, &bounced, &["b@y.example"], PLENTY).await;
    assert_eq!(store.owing(&[], 9).await.unwrap(), []);
    for at_most in [None, Some(Credits::ZERO), Some(credits(3))] {
        assert_eq!(store.open_entry(&ann, &entry_id(), at_most, at(1)).await.unwrap(), None);
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_a_bounce_after_the_debit_is_a_credit_in_the_one_lane() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let bounced = sent(&store, message(&ann, &["b@y.example"])).await;
    settle(&store, &ann).await;
    assert_eq!(bounce(&store, &bounced, &["b@y.example"], PLENTY).await, [RefundResult::Due]);
    assert_eq!(store.refundable(&[], 9).await.unwrap(), std::slice::from_ref(&ann));
    owe(&store, &ann).await;
    let credit = open_credit(&store, &ann, Lapse::At(at(99))).await.unwrap();
    assert_eq!(
        (credit.kind, credit.amount, credit.expires_at),
        (EntryKind::Credit, credits(1), Some(at(99)))
    );
    assert!(credit.reason.contains(bounced.message_id.as_str()), "{}", credit.reason);
    assert_eq!(store.open_entries().await.unwrap(), std::slice::from_ref(&credit));
    assert_eq!(store.open_entry(&ann, &entry_id(), None, at(1)).await.unwrap(), None, "one lane");
    assert_eq!(store.due_refunds(&ann, at(10)).await.unwrap(), None);
    assert_eq!(store.refundable(&[], 9).await.unwrap(), []);
    assert_eq!(store.begin_balance_read(&ann).await.unwrap(), None, "its first call is under way");
    for _ in 0..2 {
        store.settle_entry(&credit, Settled::Sometime, at(11)).await.unwrap();
        assert_eq!(sums(&store, &ann).await, (Some(50), 0, 1));
        assert_audit(&store).await;
    }
    assert_eq!(line(&store, &bounced).await, (1, 1, 0), "the ledger line stays what it was");
    assert_eq!(store.refundable(&[], 9).await.unwrap(), []);
    settle(&store, &ann).await;
    assert_eq!(sums(&store, &ann).await, (Some(49), 0, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p2_a_balance_that_was_read_while_a_credit_was_in_doubt_counts_it_once() {
    let (store, _directory) = store().await;
    for (name, read, after) in [("ann", None, 50), ("bob", Some(50), 50), ("cid", Some(49), 49)] {
        let payer = customer(&store, name, Some(50)).await;
        let bounced = sent(&store, message(&payer, &["b@y.example"])).await;
        settle(&store, &payer).await;
        bounce(&store, &bounced, &["b@y.example"], PLENTY).await;
        let credit = open_credit(&store, &payer, Lapse::Never).await.unwrap();
        store.note_entry_try(&credit, true, "lost", at(11)).await.unwrap();
        if let Some(balance) = read {
            read_balance(&store, &payer, balance).await;
        }
        store.settle_entry(&credit, Settled::Sometime, at(12)).await.unwrap();
        assert_eq!(sums(&store, &payer).await.0, Some(after), "{name}: never more than Dodo has");
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_a_bounce_while_its_entry_is_under_way_waits_for_the_end_of_it() {
    let (store, _directory) = store().await;
    for is_void in [false, true] {
        let payer = customer(&store, if is_void { "void" } else { "done" }, Some(50)).await;
        owe(&store, &payer).await;
        let bounced = sent(&store, message(&payer, &["b@y.example"])).await;
        let entry = store.open_entry(&payer, &entry_id(), None, at(1)).await.unwrap().unwrap();
        owe(&store, &payer).await;
        assert_eq!(bounce(&store, &bounced, &["b@y.example"], PLENTY).await, [RefundResult::Due]);
        assert_eq!(store.due_refunds(&payer, at(10)).await.unwrap(), None, "the lane is taken");
        if is_void {
            store.void_entry(&entry, "insufficient", at(2)).await.unwrap();
        } else {
            store.settle_entry(&entry, Settled::Sometime, at(2)).await.unwrap();
        }
        let refunds = store.due_refunds(&payer, at(10)).await.unwrap().unwrap();
        assert_eq!((refunds.released.len(), refunds.debited.len()), if is_void { (1, 0) } else { (0, 1) });
        assert_eq!(line(&store, &bounced).await, if is_void { (1, 0, 1) } else { (1, 1, 0) });
        assert_audit(&store).await;
        settle(&store, &payer).await;
        assert_audit(&store).await;
    }
}

#[tokio::test]
async fn p3_the_last_capture_taken_back_after_its_entry_was_void_adds_up() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let bounced = sent(&store, message(&ann, &["b@y.example"])).await;
    let entry = store.open_entry(&ann, &entry_id(), None, at(1)).await.unwrap().unwrap();
    store.void_entry(&entry, "insufficient", at(2)).await.unwrap();
    assert_eq!(bounce(&store, &bounced, &["b@y.example"], PLENTY).await, [RefundResult::Released]);
    assert_eq!(sums(&store, &ann).await, (Some(50), 0, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_a_credit_that_dodo_refuses_is_due_again_and_in_the_end_given_up() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let bounced = sent(&store, message(&ann, &["b@y.example"])).await;
    settle(&store, &ann).await;
    bounce(&store, &bounced, &["b@y.example"], PLENTY).await;
    for _ in 0..3 {
        let credit = open_credit(&store, &ann, Lapse::Never).await.unwrap();
        store.void_entry(&credit, "no such entitlement", at(11)).await.unwrap();
        store.void_entry(&credit, "no such entitlement", at(11)).await.unwrap();
        assert_audit(&store).await;
    }
    assert_eq!(due(&store, &ann).await, []);
    let refund = store.message(&bounced.message_id).await.unwrap().unwrap().refunds.remove(0);
    assert_eq!((refund.state.as_str(), refund.reason.as_deref()), ("refused", Some("no such entitlement")));
    assert_eq!(sums(&store, &ann).await, (Some(49), 0, 0));
}

#[tokio::test]
async fn a_refund_whose_grant_may_have_expired_is_not_posted_and_says_why() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let bounced = sent(&store, message(&ann, &["b@y.example"])).await;
    settle(&store, &ann).await;
    bounce(&store, &bounced, &["b@y.example"], PLENTY).await;
    assert_eq!(open_credit(&store, &ann, Lapse::Past(at(5))).await, None);
    let refund = store.message(&bounced.message_id).await.unwrap().unwrap().refunds.remove(0);
    assert_eq!(refund.state, "expired");
    assert!(refund.reason.is_some_and(|reason| reason.contains("expired")));
}

#[tokio::test]
async fn a_credit_for_many_lapses_with_the_first_of_their_grants() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let mut messages = Vec::new();
    for _ in 0..3 {
        messages.push(sent(&store, message(&ann, &["b@y.example"])).await);
    }
    settle(&store, &ann).await;
    for message in &messages {
        bounce(&store, message, &["b@y.example"], PLENTY).await;
    }
    let lapses = [Lapse::At(at(300)), Lapse::Never, Lapse::At(at(200))];
    let refunds = due(&store, &ann).await.into_iter().zip(lapses).collect();
    let opening = CreditOpening { customer_id: ann.clone(), entry_id: entry_id(), refunds };
    let (entry, _) = store.open_credit(&opening, at(10)).await.unwrap();
    let entry = entry.unwrap();
    assert_eq!((entry.amount, entry.expires_at), (credits(3), Some(at(200))));
    assert_audit(&store).await;
}

#[tokio::test]
async fn above_the_cap_nothing_is_given_back_and_the_log_says_so() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(100)).await;
    let mut messages = Vec::new();
    for _ in 0..40 {
        messages.push(sent(&store, message(&ann, &["b@y.example"])).await);
    }
    let mut results = Vec::new();
    for message in &messages[..3] {
        let allowance = store.allowance(&ann, at(9)).await.unwrap();
        results.extend(bounce(&store, message, &["b@y.example"], allowance).await);
    }
    assert_eq!(results, [RefundResult::Released, RefundResult::Released, RefundResult::Capped]);
    assert_eq!(line(&store, &messages[2]).await, (1, 1, 0));
    let refund = store.message(&messages[2].message_id).await.unwrap().unwrap().refunds.remove(0);
    assert_eq!(refund.state, "capped");
    assert!(refund.reason.is_some_and(|reason| reason.contains("2 at most")));
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_message_is_refunded_when_its_last_recipient_bounces() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let both = sent(&store, message(&ann, &["b@y.example", "c@y.example"])).await;
    assert_eq!(bounce(&store, &both, &["b@y.example"], PLENTY).await, []);
    assert_eq!(bounce(&store, &both, &["b@y.example"], PLENTY).await, []);
    assert_eq!(bounce(&store, &both, &["c@y.example"], PLENTY).await, [RefundResult::Released]);
    let log = store.message(&both.message_id).await.unwrap().unwrap();
    assert!(log.recipients.iter().all(|recipient| recipient.bounced_at == Some(at(9))));
    assert!(log.recipients[0].bounce.as_deref().is_some_and(|said| said.contains("user unknown")));
    assert_audit(&store).await;
}

#[tokio::test]
async fn per_recipient_each_bounce_gives_one_back() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let all = ["a@y.example", "b@y.example", "c@y.example"];
    let before = sent(&store, per_recipient(&ann, &all)).await;
    let two = bounce(&store, &before, &["a@y.example", "c@y.example"], PLENTY).await;
    assert_eq!(two, [RefundResult::Released; 2]);
    assert_eq!((line(&store, &before).await, sums(&store, &ann).await), ((3, 1, 2), (Some(50), 0, 1)));
    assert_eq!(bounce(&store, &before, &["b@y.example"], PLENTY).await, [RefundResult::Released]);
    assert_eq!((line(&store, &before).await, sums(&store, &ann).await), ((3, 0, 3), (Some(50), 0, 0)));
    assert_audit(&store).await;
    let after = sent(&store, per_recipient(&ann, &all)).await;
    settle(&store, &ann).await;
    assert_eq!(bounce(&store, &after, &all[..2], PLENTY).await, [RefundResult::Due; 2]);
    let credit = open_credit(&store, &ann, Lapse::Never).await.unwrap();
    assert_eq!((credit.amount, credit.expires_at), (credits(2), None));
    store.settle_entry(&credit, Settled::Now { balance_after: 49 }, at(11)).await.unwrap();
    assert_eq!(sums(&store, &ann).await, (Some(49), 0, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_bounce_that_comes_before_the_news_that_it_was_sent_waits_for_it() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let early = accepted(&store, message(&ann, &["b@y.example", "c@y.example"])).await;
    assert_eq!(bounce(&store, &early, &["b@y.example"], PLENTY).await, [RefundResult::Waiting]);
    assert_eq!(store.refunds_to_decide().await.unwrap(), []);
    assert_audit(&store).await;
    store.report(report(&early, 1, answered(&["b@y.example"], &["c@y.example"]))).await.unwrap();
    assert_eq!(store.refunds_to_decide().await.unwrap(), [(early.message_id.clone(), ann.clone())]);
    let decided = store.decide_refunds(&early.message_id, &PLENTY, at(9)).await.unwrap();
    assert_eq!(decided[0].result, RefundResult::Released);
    assert_eq!(store.refunds_to_decide().await.unwrap(), []);
    assert_eq!(sums(&store, &ann).await, (Some(50), 0, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn with_refunds_off_a_bounce_is_only_shown() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let gone = sent(&store, message(&ann, &["b@y.example"])).await;
    let whose = (&gone.message_id, &ann);
    assert_eq!(bounced(&store, whose, &[mailbox("b@y.example")], None, at(9)).await.unwrap(), []);
    let log = store.message(&gone.message_id).await.unwrap().unwrap();
    assert_eq!((log.recipients[0].bounced_at, log.captured), (Some(at(9)), 1));
    assert_eq!(log.refunds, []);
    assert_audit(&store).await;
}

#[tokio::test]
async fn those_for_whom_nothing_can_be_done_starve_nobody_and_the_longest_wait_goes_first() {
    let (store, _directory) = store().await;
    let mut payers = Vec::new();
    for nth in 0..104 {
        let payer = customer(&store, &format!("payer{nth}"), Some(50)).await;
        let bounced = sent(&store, message(&payer, &["b@y.example"])).await;
        settle(&store, &payer).await;
        // Named in one order, decided in the other.
        bounce_at(&store, &bounced, &["b@y.example"], (PLENTY, at(1_000 - nth))).await;
        payers.insert(0, payer);
    }
    assert_eq!(store.refundable(&[], 100).await.unwrap(), payers[..100]);
    assert_eq!(store.refundable(&payers[..101], 100).await.unwrap(), payers[101..]);
}
