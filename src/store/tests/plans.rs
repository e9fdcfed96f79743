//! How PostgreSQL finds the rows that statements name, however many others there are. SQLite, where
//! nobody gathers statistics, makes one plan of each statement whatever is in its tables.

use sqlx::AssertSqlSafe;

use super::*;
use crate::store::search::WALK_OF_ONE;
use crate::store::sql::{Readers, listed};
use crate::store::{due, lock};

/// Many parts that are due, in the order of time.
const MANY: u64 = 3_000;

/// A store in which so many wait, if tests have a PostgreSQL; nobody has gathered statistics about them.
async fn crowded() -> Option<(Store, Directory)> {
    const WAITING: &str = "
        INSERT INTO message (message_id, customer_id, kind, reverse_path, header_from, size, body_sha256, unit,
                             price, accepted_at, expires_at)
        SELECT 'm' || n, 'ann', 'notice', '', '', 0, '', 'message', 0, n, n + 1 FROM generate_series(1, 3000) AS n;
        INSERT INTO part (message_id, part_no, road, state, due_at, customer_id)
        SELECT 'm' || n, 0, 'resend', 'queued', n, 'ann' FROM generate_series(1, 3000) AS n";
    let (store, directory) = store().await;
    customer(&store, "ann", None).await;
    if matches!(store.readers, Readers::Sqlite(_)) {
        return None;
    }
    execute(&store, WAITING).await.unwrap();
    Some((store, directory))
}

/// What PostgreSQL did for a statement with these in the place of its parameters.
async fn plan(store: &Store, text: &str, parameters: &[&str]) -> Vec<String> {
    let Readers::Postgres(pool) = &store.readers else { return Vec::new() };
    let numbered = parameters.iter().enumerate().rev();
    let text =
        numbered.fold(text.to_owned(), |text, (at, value)| text.replace(&format!("${}", at + 1), value));
    let text = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {}", listed(&text));
    sqlx::query_scalar(AssertSqlSafe(text)).fetch_all(pool).await.unwrap()
}

/// The most rows that a step hands on at once.
fn most_rows(plan: &[String]) -> u64 {
    let rows = |line: &String| line.split_once("actual rows=")?.1.split(' ').next()?.parse().ok();
    plan.iter().filter_map(rows).max().unwrap()
}

#[tokio::test]
async fn whose_turn_it_is_is_found_without_a_look_at_all_that_is_due() {
    let Some((store, _directory)) = crowded().await else { return };
    execute(&store, "ANALYZE part").await.unwrap();
    let parameters = ["9999999", r#"'["resend"]'"#, "''", "500", "100"];
    let plan = plan(&store, due::CUSTOMERS, &parameters).await;
    assert!(most_rows(&plan) < MANY / 2, "{plan:#?}");
    let page = store.due_alone(at(0), &[Road::Resend], 100).await.unwrap();
    assert_eq!(page.len(), 100);
}

#[tokio::test]
async fn a_search_looks_up_by_its_id_what_it_wants_to_know_of_each_message() {
    const RECIPIENTS: &str = "
        INSERT INTO recipient (message_id, address, part_no, ordinal, state)
        SELECT 'm' || n, 'a@y.example', 0, 0, 'queued' FROM generate_series(1, 3000) AS n";
    let Some((store, _directory)) = crowded().await else { return };
    execute(&store, RECIPIENTS).await.unwrap();
    let parameters = ["''", "'~'", "'~'", "2000", "NULL", "'%nobody%'", "0", "25", "'ann'"];
    for statistics in ["SELECT 1", "ANALYZE"] {
        execute(&store, statistics).await.unwrap();
        let plan = plan(&store, WALK_OF_ONE, &parameters).await;
        let walks =
            |line: &String| line.contains("Seq Scan on recipient") || line.contains("Seq Scan on part");
        assert!(!plan.iter().any(walks) && most_rows(&plan) < MANY, "{plan:#?}");
    }
}

#[tokio::test]
async fn rows_are_found_by_an_index_where_statistics_are_missing() {
    let Some((store, _directory)) = crowded().await else { return };
    // The readers may lock nothing.
    let text = lock::PARTS_OF_MESSAGES.replace("FOR NO KEY UPDATE", "");
    let plan = plan(&store, &text, &[r#"'["m1", "m2"]'"#]).await;
    assert!(most_rows(&plan) < MANY / 2, "{plan:#?}");
}
