//! Entries in doubt, as the operator decides them.

use jiff::{SignedDuration, Timestamp};

use super::queue::{message, now, store_in};
use super::*;
use crate::domain::address::Mailbox;
use crate::domain::ids::{CustomerId, EntryId, MessageId};
use crate::store::doubt::Decider;
use crate::store::entry::{Entry, Settled};
use crate::store::refund::{Allowance, CreditOpening, Lapse};
use crate::store::report::{Answered, News};
use crate::submission::stand_in::bounced;
use crate::telemetry::EntryKind;

/// No call from then is under way any more.
fn long_ago() -> Timestamp {
    now() - SignedDuration::from_hours(1)
}

/// A debit of one credit, or a refund of one, in doubt since then.
async fn doubted(office: &Office, kind: EntryKind, since: Timestamp) -> (Store, Entry) {
    let store = office.customer().await;
    let customer_id = CustomerId::parse("cus_1").unwrap();
    let recipients = ["bob@example.net", "eve@example.net"].map(|to| Mailbox::parse(to).unwrap()).to_vec();
    let sent = News::Answered(Answered { sent: recipients.clone(), ..Answered::default() });
    message(&store, "m1", Some(sent)).await;
    let entry_id = EntryId::parse("entry-1").unwrap();
    let mut entry = store.open_entry(&customer_id, &entry_id, None, since).await.unwrap().unwrap();
    if kind == EntryKind::Credit {
        store.settle_entry(&entry, Settled::Sometime, since).await.unwrap();
        let message_id = MessageId::parse("m1").unwrap();
        let allowance = Allowance { sent: 1_000, since: Timestamp::UNIX_EPOCH };
        let whose = (&message_id, &customer_id);
        bounced(&store, whose, &recipients, Some(&allowance), since).await.unwrap();
        let due = store.due_refunds(&customer_id, since).await.unwrap().unwrap().debited;
        let refunds = due.into_iter().map(|refund| (refund, Lapse::Never)).collect();
        let opening = CreditOpening { customer_id, entry_id: EntryId::parse("entry-2").unwrap(), refunds };
        entry = store.open_credit(&opening, since).await.unwrap().0.unwrap();
    }
    store.doubt_entry(&entry, "its answer was lost", since).await.unwrap();
    (store, entry)
}

#[tokio::test]
async fn p3_an_entry_is_decided_only_by_somebody_who_was_told_who_pays_if_that_is_wrong() {
    for (kind, verb, told, done) in [
        (
            EntryKind::Debit,
            "settle",
            "entry-1 debits 1 credits of cus_1: if Dodo has not applied it, its credits are given away; settle it?",
            "entry-1 is settled: its debt is paid\n",
        ),
        (
            EntryKind::Debit,
            "void",
            "entry-1 debits 1 credits of cus_1: if Dodo has applied it, its credits are debited twice; void it?",
            "entry-1 is void: its credits are owed, and go into a new debit\n",
        ),
        (
            EntryKind::Credit,
            "settle",
            "entry-2 gives 1 credits back to cus_1: if Dodo has not applied it, the customer does not get them; \
             settle it?",
            "entry-2 is settled: its refunds are given\n",
        ),
        (
            EntryKind::Credit,
            "void",
            "entry-2 gives 1 credits back to cus_1: if Dodo has applied it, the customer gets them twice; void it?",
            "entry-2 is void: its refunds go into a new credit, unless entries for them were void too often\n",
        ),
    ] {
        for is_asked in [true, false] {
            let office = Office::new("");
            let (store, entry) = doubted(&office, kind, long_ago()).await;
            let typed = format!("entry {verb} {}", entry.entry_id);
            let refused = format!("{told} Nothing was changed; --yes says that the risk is known");
            assert_eq!(office.complains(&typed).await, refused, "nobody is there to be asked");
            office.person(Some(false));
            assert_eq!(office.complains(&typed).await, "nothing was changed");
            assert_eq!(store.doubtful_entries().await.unwrap().len(), 1, "{typed}");
            office.person(Some(true));
            let typed = if is_asked { typed } else { format!("{typed} --yes") };
            assert_eq!(office.says(&typed).await, done);
            let asked = if is_asked { vec![told.to_owned()] } else { vec![] };
            assert_eq!(*office.asked.lock().unwrap(), asked);
            assert_eq!(office.says("entry list").await, "no entry is in doubt\n");
            assert!(office.says("audit").await.starts_with("ok: "));
            assert!(office.complains(&typed).await.contains("is in doubt; `postmeter entry list` shows"));
        }
    }
}

#[tokio::test]
async fn p3_whoever_decides_while_the_operator_is_asked_has_decided() {
    for verb in ["settle", "void"] {
        for is_there in [true, false] {
            let office = Office::new("");
            let (_, entry) = doubted(&office, EntryKind::Debit, long_ago()).await;
            let (typed, data_dir) =
                (format!("entry {verb} {}", entry.entry_id), office.directory.join("data"));
            let looks_up = move || {
                let server = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                server.block_on(async {
                    let store = store_in(data_dir).await;
                    if is_there {
                        store.settle_doubtful(&entry, Decider::Ledger, now()).await.unwrap().unwrap();
                    } else {
                        store.void_doubtful(&entry, Decider::Ledger, "absent", now()).await.unwrap().unwrap();
                    }
                });
            };
            office.person(Some(true));
            let beside = move || std::thread::spawn(looks_up).join().unwrap();
            *office.meanwhile.lock().unwrap() = Some(Box::new(beside));
            let became = if is_there { "done" } else { "void" };
            let told = format!("the entry entry-1 has just been decided by Dodo's ledger: it is {became}");
            assert_eq!(office.complains(&typed).await, told);
            assert!(office.says("audit").await.starts_with("ok: "));
        }
    }
}

#[tokio::test]
async fn p3_an_entry_is_not_void_while_its_last_call_may_be_under_way() {
    let office = Office::new("");
    let (store, _) = doubted(&office, EntryKind::Debit, now()).await;
    let told = office.complains("entry void entry-1 --yes").await;
    assert!(told.contains("may still be under way at Dodo; try again in "), "{told}");
    assert_eq!(store.doubtful_entries().await.unwrap().len(), 1);
    assert_eq!(office.says("entry settle entry-1 --yes").await, "entry-1 is settled: its debt is paid\n");
}
