use std::collections::BTreeMap;

use sqlx::{Connection, SqliteConnection};

use super::super::opening::MIGRATOR;
use super::*;
use crate::domain::batch::MOST;

/// A part that waits since then, alone or not.
fn waiting(customer_id: &CustomerId, (road, batch_max): (Road, u32), second: i64) -> Acceptance {
    let parts = vec![NewPart { road, batch_max, ..by_resend("a@y.example") }];
    Acceptance { parts, lease_until: None, accepted_at: at(second), ..message(customer_id, &[]) }
}

/// Waiting parts of customers, whose they are by their messages, in one commit.
async fn queued(store: &Store, asked: Vec<Acceptance>) -> BTreeMap<MessageId, String> {
    let whose = asked.iter().map(|a| (a.message_id.clone(), a.customer_id.to_string())).collect();
    for answer in together(store, asked).await {
        assert!(matches!(answer, Ok(Accepted::Yes { .. })), "{answer:?}");
    }
    whose
}

fn customers<'a>(page: &[DuePart], whose: &'a BTreeMap<MessageId, String>) -> Vec<&'a str> {
    page.iter().map(|due| whose[&due.message_id].as_str()).collect()
}

const ALONE: (Road, u32) = (Road::Resend, 1);

#[tokio::test]
async fn the_first_page_has_another_customers_part_however_many_are_older() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9_999)).await;
    let bob = customer(&store, "bob", Some(9)).await;
    let mut asked = Vec::new();
    for most in [1, MOST] {
        asked.extend((0..1_000).map(|second| waiting(&ann, (Road::Resend, most), second)));
        asked.push(waiting(&bob, (Road::Resend, most), 1_000));
    }
    let (oldest, his) = (asked[0].clone(), asked[1_000].clone());
    let whose = queued(&store, asked).await;
    let alone = store.due_alone(at(2_000), &[Road::Resend], 100).await.unwrap();
    assert_eq!(alone[..2], [first_part(&oldest), first_part(&his)]);
    let both = store.due_together(at(2_000), &[Road::Resend], 100).await.unwrap();
    for page in [alone, both] {
        let hers = page.iter().filter(|due| whose[&due.message_id] == "ann");
        assert_eq!((page.len(), hers.count()), (100, 99), "and nothing of it is left empty");
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_page_has_as_many_of_each_and_what_is_left_over_is_for_those_who_have_more() {
    let (store, _directory) = store().await;
    let mut asked = Vec::new();
    for (name, count) in [("ann", 40), ("bob", 40), ("cid", 2), ("dan", 1)] {
        let customer_id = customer(&store, name, Some(99)).await;
        asked.extend((0..count).map(|second| waiting(&customer_id, ALONE, second)));
    }
    let whose = queued(&store, asked).await;
    let page = store.due_alone(at(99), &[Road::Resend], 20).await.unwrap();
    let names = customers(&page, &whose);
    assert_eq!(names[..7], ["ann", "bob", "cid", "dan", "ann", "bob", "cid"]);
    assert_eq!(names[7..].iter().filter(|name| **name == "bob").count(), 6);
    assert_eq!(names[7..].iter().filter(|name| **name == "ann").count(), 7);
}

#[tokio::test]
async fn where_there_are_more_customers_than_a_page_has_parts_all_get_their_turn() {
    let (store, _directory) = store().await;
    let mut asked = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        let customer_id = customer(&store, name, Some(9)).await;
        asked.extend((0..9).map(|second| waiting(&customer_id, ALONE, second)));
    }
    let whose = queued(&store, asked).await;
    let mut names = Vec::new();
    for _ in 0..7 {
        let page = store.due_alone(at(9), &[Road::Resend], 3).await.unwrap();
        names.extend(customers(&page, &whose));
    }
    assert_eq!(names, ["a", "b", "c", "d", "e", "f", "g"].repeat(3));
}

#[tokio::test]
async fn the_longest_waiting_of_a_customer_goes_first_whichever_open_road_it_takes() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let smtp = (Road::Smtp, 1);
    let asked = [(ALONE, 0), (smtp, 1), (ALONE, 2), (smtp, 3)];
    let asked: Vec<_> = asked.into_iter().map(|(kind, second)| waiting(&ann, kind, second)).collect();
    let parts: Vec<_> = asked.iter().map(first_part).collect();
    queued(&store, asked).await;
    let due = async |roads: &[Road], limit| store.due_alone(at(9), roads, limit).await.unwrap();
    assert_eq!(due(&[Road::Smtp, Road::Resend], 3).await, parts[..3]);
    assert_eq!(due(&[Road::Smtp], 1).await, parts[1..2], "the other one is closed");
    assert_eq!(due(&[Road::Smtp], 9).await, [parts[1].clone(), parts[3].clone()]);
    assert_eq!(due(&[], 9).await, []);
}

#[tokio::test]
async fn however_many_customers_are_put_off_who_is_due_fills_the_page() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9_999)).await;
    let later = (0..1_200).map(|_| waiting(&ann, ALONE, 99));
    let due = (0..9).map(|second| waiting(&ann, ALONE, second));
    queued(&store, later.chain(due).collect()).await;
    // As if they were everybody's: customers are asked for by their id alone.
    execute(&store, "UPDATE part SET customer_id = message_id WHERE due_at = 1800000099000").await.unwrap();
    execute(&store, "UPDATE part SET customer_id = 'z' WHERE due_at < 1800000099000").await.unwrap();
    for _ in 0..4 {
        let page = store.due_alone(at(9), &[Road::Resend], 5).await.unwrap();
        assert_eq!(page.len(), 5);
    }
}

#[tokio::test]
async fn who_has_only_members_that_others_stand_for_leaves_no_gap() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let bob = customer(&store, "bob", Some(9)).await;
    let call = [&bob, &ann, &ann].map(|whose| waiting(whose, (Road::Resend, MOST), 0));
    let free = waiting(&bob, (Road::Resend, MOST), 1);
    queued(&store, call.iter().chain([&free]).cloned().collect()).await;
    execute(&store, "INSERT INTO batch VALUES ('b_019a0000000070008000000000000000', 3, 1)").await.unwrap();
    for (no, member) in call.iter().enumerate() {
        let mut writer = store.writer.lock().await;
        query("UPDATE part SET batch_id = (SELECT batch_id FROM batch), batch_no = $1, unknown = 1 WHERE message_id = $2")
            .bind(i64::try_from(no).unwrap())
            .bind(member.message_id.as_str())
            .execute(writer.connection())
            .await
            .unwrap();
    }
    for _ in 0..3 {
        let page = store.due_together(at(9), &[Road::Resend], 1).await.unwrap();
        assert_eq!(page.len(), 1, "somebody is due");
    }
    let page = store.due_together(at(9), &[Road::Resend], 2).await.unwrap();
    let names: Vec<_> = page.iter().map(|due| due.message_id.clone()).collect();
    assert_eq!(names, [call[0].message_id.clone(), free.message_id.clone()]);
    assert_audit(&store).await;
}

/// What a part lacks that an earlier version wrote.
#[tokio::test]
async fn parts_of_an_earlier_version_get_their_messages_customer() {
    const BEFORE: &str = "
        INSERT INTO customer (customer_id, created_at) VALUES ('ann', 0);
        INSERT INTO message (message_id, customer_id, kind, reverse_path, header_from, size, body_sha256, unit,
                             price, accepted_at, expires_at)
        VALUES ('m', 'ann', 'notice', '', '', 1, '', 'message', 0, 0, 0);
        INSERT INTO part (message_id, part_no, road, state, due_at) VALUES ('m', 0, 'smtp', 'queued', 0)";
    let mut database = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let (before, after): (Vec<_>, Vec<_>) = MIGRATOR.iter().partition(|migration| migration.version < 18);
    for migration in before {
        sqlx::raw_sql(migration.sql.clone()).execute(&mut database).await.unwrap();
    }
    sqlx::raw_sql(BEFORE).execute(&mut database).await.unwrap();
    for migration in after {
        sqlx::raw_sql(migration.sql.clone()).execute(&mut database).await.unwrap();
    }
    let whose: String =
        sqlx::query_scalar("SELECT customer_id FROM part").fetch_one(&mut database).await.unwrap();
    assert_eq!(whose, "ann");
}
