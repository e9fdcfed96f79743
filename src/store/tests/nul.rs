//! A NUL, which no text of PostgreSQL's may have, comes from outside: in an encoded Subject,
//! in what a mail server says, in news. It is replaced, and undoes nobody's write.

use super::*;

const A: &str = "a@y.example";
const TOLD: &str = "no\0body";
const KEPT: &str = "no\u{fffd}body";

#[tokio::test]
async fn a_nul_is_replaced_in_a_subject_a_reply_and_an_event() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let odd = Acceptance { subject: Some(TOLD.to_owned()), ..message(&ann, &[A]) };
    let others = [message(&ann, &[A]), message(&ann, &[A])];
    let answers = together(&store, vec![others[0].clone(), odd.clone(), others[1].clone()]).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Accepted::Yes { .. }))), "{answers:?}");

    let refusal = Answer::new("5.1.1", TOLD);
    let refused = Answered { failed: vec![(mailbox(A), refusal)], ..Answered::default() };
    let taken =
        Answered { upstream_id: Some(TOLD.to_owned()), sent: vec![mailbox(A)], ..Answered::default() };
    let put_off = News::Retry {
        due: at(60),
        error: TOLD.to_owned(),
        unknown: false,
        maybe_taken: Vec::new(),
        counts: true,
        batch_max: None,
    };
    let reports = [
        report(&odd, 1, News::Answered(refused)),
        report(&others[0], 1, News::Answered(taken)),
        report(&others[1], 1, put_off),
    ];
    let recorded = store.report_all(reports.to_vec()).await.unwrap();
    assert_eq!(recorded, [applied(0), applied(1), applied(0)]);

    let told = event::Told { words: Some(TOLD.to_owned()), ..event::delivered(&others[0]) };
    assert!(store.keep_event(&told).await.unwrap().is_new);
    assert!(!store.keep_event(&told).await.unwrap().is_new, "it is the same when it is told again");

    let log = store.message(&odd.message_id).await.unwrap().unwrap();
    assert_eq!((log.subject.as_deref(), log.recipients[0].reply.as_deref()), (Some(KEPT), Some(KEPT)));
    let story = store.story(&others[0].message_id).await.unwrap().unwrap();
    assert_eq!(story.events[0].words.as_deref(), Some(KEPT));
    let taken = store.known_part(&others[0].message_id, 0).await.unwrap().unwrap();
    assert_eq!(taken.upstream_id.as_deref(), Some(KEPT));
    let put_off = store.queue_message(&others[1].message_id).await.unwrap().unwrap();
    assert_eq!(put_off.last_error.as_deref(), Some(KEPT));
    assert_audit(&store).await;
}
