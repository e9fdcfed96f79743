use std::sync::Mutex;

use super::*;
use crate::domain::answer::HandedOn;
use crate::domain::dsn::{Dsn, EnvelopeId, Notify, OriginalRecipient, RecipientDsn, Ret};
use crate::store::relayed::Relayed;

const A: &str = "a@y.example";
const B: &str = "b@y.example";
const C: &str = "c@y.example";

fn asked() -> Dsn {
    let mut dsn = Dsn::new(Some(Ret::Full), Some(EnvelopeId::parse("QQ+2B1").unwrap()));
    let original = OriginalRecipient::parse("utf-8;gr\u{fc}n@y.example").ok();
    dsn.ask(&mailbox(A), RecipientDsn { notify: Notify::parse("NEVER").ok(), original });
    dsn.ask(
        &mailbox(B),
        RecipientDsn { notify: Notify::parse("DELAY,SUCCESS").ok(), ..RecipientDsn::default() },
    );
    dsn
}

#[tokio::test]
async fn what_is_asked_comes_back_out_of_the_database_as_it_was() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let dsn = Arc::new(asked());
    let asking = accepted(&store, Acceptance { dsn, ..message(&ann, &[A, B, C]) }).await;
    let silent = accepted(&store, message(&ann, &[A])).await;
    store.lapse_all(at(1)).await.unwrap();
    let part = store.lease(&first_part(&asking), at(1), at(30)).await.unwrap().unwrap();
    assert_eq!(*part.dsn, asked());
    assert_eq!(store.original(&asking.message_id).await.unwrap().unwrap().dsn, asked());
    let part = store.lease(&first_part(&silent), at(1), at(30)).await.unwrap().unwrap();
    assert_eq!(*part.dsn, Dsn::default());
    let nothing = "SELECT count(*) FROM recipient JOIN message USING (message_id)
        WHERE ret IS NULL AND envid IS NULL AND notify IS NULL AND orcpt IS NULL";
    assert_eq!(count(&store, nothing).await, 1);
    assert_eq!(count(&store, "SELECT count(*) FROM recipient WHERE notify = 'SUCCESS,DELAY'").await, 1);
    assert_audit(&store).await;
}

/// A report from the mail's first attempt on, and for whom it was written.
fn relayed(customer_id: &CustomerId) -> (Relayed, Arc<Mutex<Vec<Vec<Mailbox>>>>) {
    let (written, customer_id) = (Arc::new(Mutex::new(Vec::new())), customer_id.clone());
    let said = Arc::clone(&written);
    let write = move |to: &[HandedOn]| {
        said.lock().unwrap().push(to.iter().map(|to| to.recipient.clone()).collect());
        let own = message(&customer_id, &["app@x.example"]);
        Some(Acceptance { kind: Kind::Bounce, price: Credits::ZERO, lease_until: None, ..own })
    };
    (Relayed::new(write), written)
}

/// These were handed on to a server that reports nothing itself.
fn handed_on(sent: &[&str], failed: &[&str]) -> News {
    let News::Answered(answered) = answered(sent, failed) else { unreachable!() };
    News::Answered(Answered { relayed: answered.sent.clone(), ..answered })
}

const LETTERS: &str = "SELECT count(*) FROM message WHERE kind = 'bounce'";

/// To A and B whose success is asked about, and to C.
async fn asking_for_success(store: &Store, customer_id: &CustomerId) -> Acceptance {
    let mut dsn = Dsn::default();
    for to in [A, B] {
        let notify = Notify::parse("SUCCESS").ok();
        dsn.ask(&mailbox(to), RecipientDsn { notify, original: None });
    }
    accepted(store, Acceptance { dsn: Arc::new(dsn), ..message(customer_id, &[A, B, C]) }).await
}

#[tokio::test]
async fn one_report_tells_of_all_who_were_handed_on_when_the_last_is_final() {
    // Each attempt: who was handed on, who was taken by a server that reports itself, who failed.
    type Attempt = (&'static [&'static str], &'static [&'static str], &'static [&'static str]);
    let table: [(&[Attempt], &[&[&str]]); 6] = [
        (&[(&[A, B, C], &[], &[])], &[&[A, B]]),
        (&[(&[A], &[], &[]), (&[B], &[], &[]), (&[C], &[], &[])], &[&[A, B]]),
        (&[(&[A], &[], &[]), (&[C], &[], &[]), (&[], &[], &[B])], &[&[A]]),
        (&[(&[], &[], &[A]), (&[C, B], &[], &[])], &[&[B]]),
        (&[(&[C], &[], &[A, B])], &[]),
        (&[(&[], &[A], &[]), (&[B], &[], &[C])], &[&[B]]),
    ];
    for (attempts, want) in table {
        let (store, _directory) = store().await;
        let ann = customer(&store, "ann", Some(5)).await;
        let mail = asking_for_success(&store, &ann).await;
        let (relayed, written) = relayed(&ann);
        let mut attempt = 0;
        for (by_us, by_others, failed) in attempts {
            attempt += 1;
            if attempt > 1 {
                store.lease(&first_part(&mail), at(60), at(90)).await.unwrap().unwrap();
            }
            let news = if by_us.is_empty() { answered(by_others, failed) } else { handed_on(by_us, failed) };
            let says = Report { relayed: Some(relayed.clone()), ..report(&mail, attempt, news) };
            store.report(says.clone()).await.unwrap();
            // Told again it changes nothing.
            store.report(says).await.unwrap();
        }
        let found = written.lock().unwrap().clone();
        let want: Vec<Vec<Mailbox>> =
            want.iter().map(|to| to.iter().map(|to| mailbox(to)).collect()).collect();
        assert_eq!(found, want, "{attempts:?}");
        assert_eq!(count(&store, LETTERS).await, i64::try_from(want.len()).unwrap());
        assert_audit(&store).await;
    }
}

#[tokio::test]
async fn parts_that_are_sent_at_the_same_time_make_one_report() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let mut dsn = Dsn::default();
    for to in [A, B] {
        dsn.ask(&mailbox(to), RecipientDsn { notify: Notify::parse("SUCCESS").ok(), original: None });
    }
    let parts = vec![by_resend(A), by_resend(B)];
    let mail = Acceptance { parts, dsn: Arc::new(dsn), ..message(&ann, &[]) };
    let mail = accepted(&store, mail).await;
    let (relayed, written) = relayed(&ann);
    let says = |part_no, to| Report {
        part_no,
        relayed: Some(relayed.clone()),
        ..report(&mail, 1, handed_on(&[to], &[]))
    };
    store.report_all(vec![says(0, A), says(1, B)]).await.unwrap();
    assert_eq!(*written.lock().unwrap(), [vec![mailbox(A), mailbox(B)]]);
    assert_eq!(count(&store, LETTERS).await, 1);
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 1), "it is free");
    assert_audit(&store).await;
}

#[tokio::test]
async fn nothing_is_reported_to_a_sender_whose_address_is_suppressed() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    store.suppress(&ann, &mailbox("App@X.example"), None, at(1)).await.unwrap();
    let mail = asking_for_success(&store, &ann).await;
    let (relayed, _) = relayed(&ann);
    let own = message(&ann, &["app@x.example"]);
    let bounce = Acceptance { kind: Kind::Bounce, price: Credits::ZERO, lease_until: None, ..own };
    let says = Report {
        relayed: Some(relayed),
        bounce: Some(Box::new(bounce)),
        ..report(&mail, 1, handed_on(&[A, B], &[C]))
    };
    assert_eq!(store.report(says).await.unwrap(), applied(1));
    assert_eq!(count(&store, LETTERS).await, 0);
    assert_audit(&store).await;
}
