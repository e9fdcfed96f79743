use super::*;
use crate::store::tests::retention::{settle, sweep};

const A: &str = "a@y.example";
const B: &str = "b@y.example";
const KEPT: &str = "SELECT count(*) FROM header";

fn part(road: Road, to: &str) -> NewPart {
    NewPart { road, recipients: vec![mailbox(to)], request_hash: None, batch_max: 1 }
}

fn by_resend(customer_id: &CustomerId) -> Acceptance {
    Acceptance { parts: vec![part(Road::Resend, A)], ..message(customer_id, &[]) }
}

async fn header(store: &Store, of: &Acceptance) -> Option<String> {
    let header = store.original(&of.message_id).await.unwrap().unwrap().header;
    header.map(|header| String::from_utf8(header).unwrap())
}

#[tokio::test]
async fn the_header_of_what_left_by_resend_stays_as_long_as_its_row() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mail = accepted(&store, by_resend(&ann)).await;
    let whole = Some("Subject: Hello\r\n".to_owned());
    assert_eq!(
        (header(&store, &mail).await, count(&store, KEPT).await),
        (whole.clone(), 0),
        "it is in the body"
    );
    store.report(report(&mail, 1, answered(&[A], &[]))).await.unwrap();
    assert_eq!(count(&store, "SELECT count(*) FROM body").await, 0);
    assert_eq!((header(&store, &mail).await, count(&store, KEPT).await), (whole.clone(), 1));
    assert_audit(&store).await;

    let spooled = Some(super::spool::spooled(&store, &["World", "\r\n"]).await);
    let bytes = Bytes::from_static(b"Subject: Hello\r\n\r\n");
    let large = accepted(&store, Acceptance { spooled, bytes, ..by_resend(&ann) }).await;
    store.report(report(&large, 1, answered(&[A], &[]))).await.unwrap();
    assert_eq!(header(&store, &large).await, whole);

    settle(&store, &ann, 2).await;
    assert_eq!(sweep(&store, 1_000_000).await, (2, 2));
    assert_eq!(count(&store, KEPT).await, 0, "it leaves with its message");
}

#[tokio::test]
async fn no_header_is_kept_that_no_later_report_returns() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let over_smtp = message(&ann, &[A]);
    let from_nobody = Acceptance { reverse_path: ReversePath::Null, ..by_resend(&ann) };
    let our_own = Acceptance { kind: Kind::Bounce, price: Credits::ZERO, ..by_resend(&ann) };
    let headless = Acceptance { bytes: Bytes::from_static(b"\r\nWorld\r\n"), ..by_resend(&ann) };
    for mail in [over_smtp, from_nobody, our_own, headless] {
        let mail = accepted(&store, mail).await;
        store.report(report(&mail, 1, answered(&[A], &[]))).await.unwrap();
        assert_eq!((header(&store, &mail).await, count(&store, KEPT).await), (None, 0), "{mail:?}");
    }
    let refused = accepted(&store, by_resend(&ann)).await;
    store.report(report(&refused, 1, answered(&[], &[A]))).await.unwrap();
    assert_eq!(count(&store, KEPT).await, 0, "it never left");
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_header_is_kept_when_the_last_part_is_final_if_any_left_by_resend() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    for (roads, is_kept) in [([Road::Resend, Road::Smtp], true), ([Road::Smtp, Road::Resend], false)] {
        let parts = vec![part(roads[0], A), part(roads[1], B)];
        let mail = accepted(&store, Acceptance { parts, ..message(&ann, &[]) }).await;
        let before = count(&store, KEPT).await;
        store.report(report(&mail, 1, answered(&[A], &[]))).await.unwrap();
        assert_eq!(count(&store, KEPT).await, before, "its bytes are there");
        let failed = Report { part_no: 1, ..report(&mail, 1, answered(&[], &[B])) };
        store.report(failed).await.unwrap();
        assert_eq!(header(&store, &mail).await.is_some(), is_kept);
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn of_many_that_end_in_one_commit_each_has_its_own() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mut mails = Vec::new();
    for subject in ["one", "gr\u{fc}n", "three"] {
        let bytes = Bytes::from(format!("Subject: {subject}\r\nX: {subject}\r\n\r\nWorld\r\n"));
        mails.push(accepted(&store, Acceptance { bytes, ..by_resend(&ann) }).await);
    }
    let reports = mails.iter().map(|mail| report(mail, 1, answered(&[A], &[]))).collect();
    store.report_all(reports).await.unwrap();
    for (mail, subject) in mails.iter().zip(["one", "gr\u{fc}n", "three"]) {
        assert_eq!(header(&store, mail).await, Some(format!("Subject: {subject}\r\nX: {subject}\r\n")));
    }
}
