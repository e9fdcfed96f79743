use super::*;
use crate::domain::dsn::{Dsn, EnvelopeId, Notify, OriginalRecipient, RecipientDsn, Ret};

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

#[tokio::test]
async fn that_it_was_handed_on_is_told_with_the_news_that_it_was_and_once() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let mail = accepted(&store, message(&ann, &[A, B])).await;
    let letter = || Acceptance {
        kind: Kind::Bounce,
        price: Credits::ZERO,
        lease_until: None,
        ..message(&ann, &["app@x.example"])
    };
    let says = |attempt, news| Report { relayed: Some(Box::new(letter())), ..report(&mail, attempt, news) };
    let letters = "SELECT count(*) FROM message WHERE kind = 'bounce'";
    assert_eq!(store.report(says(1, answered(&[], &[B]))).await.unwrap(), applied(0));
    assert_eq!(count(&store, letters).await, 0, "nobody was handed on");
    store.lease(&first_part(&mail), at(60), at(90)).await.unwrap().unwrap();
    assert_eq!(store.report(says(2, answered(&[A], &[]))).await.unwrap(), applied(1));
    assert_eq!(count(&store, letters).await, 1);
    assert_eq!(store.report(says(2, answered(&[A], &[]))).await.unwrap(), Recorded::Late);
    assert_eq!(count(&store, letters).await, 1);
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 1), "it is free");
    assert_audit(&store).await;
}
