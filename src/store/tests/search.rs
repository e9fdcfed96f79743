//! Looking for messages.

use super::*;
use crate::domain::message::MessageState;
use crate::store::log::MessageLog;
use crate::store::search::{Page, Search, WALK};
use crate::store::sql::Sql;

const ALL: Page<'static> = Page { before: None, limit: 100 };

/// A message about that to these, which is still under way.
async fn about(store: &Store, customer_id: &CustomerId, subject: &str, to: &[&str]) -> Acceptance {
    accepted(store, Acceptance { subject: Some(subject.to_owned()), ..message(customer_id, to) }).await
}

fn ids(messages: &[MessageLog]) -> Vec<&MessageId> {
    messages.iter().map(|message| &message.message_id).collect()
}

/// Which of these are found, by their place.
async fn found(store: &Store, whose: Option<&CustomerId>, search: Search, of: &[&Acceptance]) -> Vec<usize> {
    let found = store.search(whose, &search, ALL).await.unwrap();
    assert_eq!((&found.next, found.stopped_at), (&None, None));
    let place = |id: &MessageId| of.iter().position(|of| of.message_id == *id).unwrap();
    let mut places: Vec<_> = ids(&found.messages).into_iter().map(place).collect();
    places.sort_unstable();
    places
}

#[tokio::test]
async fn a_message_is_found_by_recipient_subject_state_and_id() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", Some(99)).await, customer(&store, "bob", Some(99)).await);
    let first = about(&store, &ann, "Your 50%_off! Überweisung", &["Zoe@y.example", "b@y.example"]).await;
    let second = about(&store, &ann, "your bill", &["zoe@other.example"]).await;
    let third = about(&store, &ann, "Aberweisung", &["c@y.example"]).await;
    let theirs = about(&store, &bob, "your bill", &["zoe@y.example"]).await;
    store.report(report(&second, 1, answered(&["zoe@other.example"], &[]))).await.unwrap();
    store.report(report(&third, 1, answered(&[], &["c@y.example"]))).await.unwrap();
    let of = [&first, &second, &third, &theirs];

    let by = |recipient: &str, subject: &str, state: Option<MessageState>, id: &str| Search {
        recipient: Some(recipient.to_owned()).filter(|text| !text.is_empty()),
        subject: Some(subject.to_owned()).filter(|text| !text.is_empty()),
        state,
        id: MessageId::parse(id).ok(),
    };
    let whole = second.message_id.as_str();
    let begin = &whole[..8];
    let table = [
        (by("zoe@", "", None, ""), vec![0, 1]),
        (by("ZOE@Y.example", "", None, ""), vec![0]),
        (by("y.example", "", None, ""), vec![0, 2]),
        (by("", "YOUR", None, ""), vec![0, 1]),
        (by("", "%", None, ""), vec![0]),
        (by("", "_off!", None, ""), vec![0]),
        (by("", "überW", None, ""), vec![0]),
        (by("", "no such", None, ""), vec![]),
        (by("", "", Some(MessageState::Queued), ""), vec![0]),
        (by("", "", Some(MessageState::Sent), ""), vec![1]),
        (by("", "", Some(MessageState::Failed), ""), vec![2]),
        (by("", "", Some(MessageState::Held), ""), vec![]),
        (by("", "", None, whole), vec![1]),
        (by("", "", None, begin), vec![0, 1, 2]),
        (by("zoe", "bill", Some(MessageState::Sent), begin), vec![1]),
        (by("zoe", "bill", Some(MessageState::Failed), begin), vec![]),
        (by("", "", None, theirs.message_id.as_str()), vec![]),
    ];
    for (search, want) in table {
        let shown = format!("{search:?}");
        assert_eq!(found(&store, Some(&ann), search, &of).await, want, "{shown}");
    }
    assert_eq!(found(&store, None, by("zoe", "", None, ""), &of).await, [0, 1, 3], "the operator sees all");
}

#[tokio::test]
async fn what_is_found_comes_in_pages_newest_first() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(99)).await;
    let mut want = Vec::new();
    for second in 0..7 {
        let message_id = MessageId::generate(at(second), random::octets());
        let subject = Some(if second == 3 { "other" } else { "bill" }.to_owned());
        let mail = Acceptance { message_id, subject, ..message(&ann, &["a@y.example"]) };
        let mail = accepted(&store, mail).await;
        want.extend((second != 3).then_some(mail.message_id));
    }
    want.reverse();
    let search = Search { subject: Some("bill".to_owned()), ..Search::default() };
    let (mut before, mut seen) = (None, Vec::new());
    for _ in 0..4 {
        let page = Page { before: before.as_ref(), limit: 2 };
        let found = store.search(Some(&ann), &search, page).await.unwrap();
        seen.extend(found.messages.into_iter().map(|message| message.message_id));
        match found.next {
            Some(next) => before = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, want);
}

#[tokio::test]
async fn a_search_stops_after_so_many_messages_and_goes_on_from_there() {
    const MANY: Sql = Sql {
        sqlite: "
            WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
            INSERT INTO message (message_id, customer_id, kind, reverse_path, header_from, subject, size,
                                 body_sha256, unit, price, accepted_at, expires_at)
            SELECT 'm' || (10000 + n), 'ann', 'notice', '', '', CASE n WHEN 0 THEN 'the oldest' ELSE 'x' END, 0, '',
                   'message', 0, n, n + 1 FROM n",
        postgres: "
            INSERT INTO message (message_id, customer_id, kind, reverse_path, header_from, subject, size,
                                 body_sha256, unit, price, accepted_at, expires_at)
            SELECT 'm' || (10000 + n), 'ann', 'notice', '', '', CASE n WHEN 0 THEN 'the oldest' ELSE 'x' END, 0, '',
                   'message', 0, n, n + 1 FROM generate_series(0, 2000) AS n",
    };
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", None).await;
    execute_either(&store, MANY).await;
    let search = Search { subject: Some("OLDEST".to_owned()), ..Search::default() };
    let found = store.search(Some(&ann), &search, ALL).await.unwrap();
    assert_eq!((found.messages.len(), WALK), (0, 2_000));
    assert_eq!(found.stopped_at, Some(Timestamp::from_millisecond(1).unwrap()));
    let page = Page { before: found.next.as_ref(), limit: 100 };
    let found = store.search(Some(&ann), &search, page).await.unwrap();
    assert_eq!(ids(&found.messages), [&MessageId::parse("m10000").unwrap()]);
    assert_eq!((found.next, found.stopped_at), (None, None));
}

#[tokio::test]
async fn whose_a_message_is() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", Some(9)).await, customer(&store, "bob", Some(9)).await);
    let mail = about(&store, &ann, "x", &["a@y.example"]).await;
    assert!(store.is_of(&mail.message_id, &ann).await.unwrap());
    assert!(!store.is_of(&mail.message_id, &bob).await.unwrap());
    assert!(!store.is_of(&MessageId::parse("nothing").unwrap(), &ann).await.unwrap());
}

#[tokio::test]
async fn addresses_are_looked_for_on_the_list_of_their_customer() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", None).await;
    for address in ["Zoe_1@y.example", "zoe2@y.example", "max@x.example"] {
        store.suppress(&ann, &mailbox(address), None, at(0)).await.unwrap();
    }
    let listed = async |part: &str, after: Option<&str>, limit: u32| {
        let listed = store.search_suppressions(&ann, part, (after, limit)).await.unwrap();
        let addresses: Vec<_> = listed.entries.into_iter().map(|entry| entry.address).collect();
        (addresses.join(" "), listed.next, listed.is_stopped)
    };
    let all = "max@x.example zoe2@y.example zoe_1@y.example";
    assert_eq!(listed("", None, 9).await, (all.to_owned(), None, false));
    assert_eq!(listed("ZOE", None, 9).await.0, "zoe2@y.example zoe_1@y.example");
    assert_eq!(listed("_", None, 9).await.0, "zoe_1@y.example");
    let first = listed("zoe", None, 1).await;
    assert_eq!(first, ("zoe2@y.example".to_owned(), Some("zoe2@y.example".to_owned()), false));
    assert_eq!(listed("zoe", first.1.as_deref(), 1).await.0, "zoe_1@y.example");
    let bob = customer(&store, "bob", None).await;
    assert_eq!(store.search_suppressions(&bob, "", (None, 9)).await.unwrap().entries, []);
}
