//! How PostgreSQL finds the rows that statements name, however many others there are. SQLite, where
//! nobody gathers statistics, makes one plan of each statement whatever is in its tables.

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, Postgres};

use super::*;
use crate::store::search::WALK_OF_ONE;
use crate::store::sql::{Readers, listed};
use crate::store::{due, ledger, lock};

/// Many parts that are due, in the order of time.
const MANY: u64 = 3_000;

/// Has so many wait.
async fn crowd(store: &Store) {
    const WAITING: &str = "
        INSERT INTO message (message_id, customer_id, kind, reverse_path, header_from, size, body_sha256, unit,
                             price, accepted_at, expires_at)
        SELECT 'm' || n, 'ann', 'notice', '', '', 0, '', 'message', 0, n, n + 1 FROM generate_series(1, 3000) AS n;
        INSERT INTO part (message_id, part_no, road, state, due_at, customer_id)
        SELECT 'm' || n, 0, 'resend', 'queued', n, 'ann' FROM generate_series(1, 3000) AS n";
    customer(store, "ann", None).await;
    execute(store, WAITING).await.unwrap();
}

/// A connection that reads, if tests have a PostgreSQL. What it plans is kept from the first time on.
async fn reader(store: &Store) -> Option<PoolConnection<Postgres>> {
    let Readers::Postgres(pool) = &store.readers else { return None };
    let mut reader = pool.acquire().await.unwrap();
    sqlx::query("SET plan_cache_mode = force_generic_plan").execute(&mut *reader).await.unwrap();
    Some(reader)
}

/// The most rows that a step of a statement's plan hands on at once, when it is run with this list.
async fn most_rows(reader: &mut PgConnection, name: &str, parameters: &str) -> u64 {
    let text = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE {name} ({parameters})");
    let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(text)).fetch_all(reader).await.unwrap();
    let rows = |line: &String| line.split_once("actual rows=")?.1.split(' ').next()?.parse().ok();
    plan.iter().filter_map(rows).max().unwrap()
}

#[tokio::test]
async fn whose_turn_it_is_is_found_without_a_look_at_all_that_is_due() {
    let (store, _directory) = store().await;
    let Some(mut reader) = reader(&store).await else { return };
    crowd(&store).await;
    let text = format!("PREPARE turn (BIGINT, TEXT, TEXT, BIGINT, BIGINT) AS {}", due::CUSTOMERS);
    sqlx::query(AssertSqlSafe(text)).execute(&mut *reader).await.unwrap();
    let parameters = r#"9999999, '["resend"]', '', 500, 100"#;
    let most = most_rows(&mut reader, "turn", parameters).await;
    assert!(most < MANY / 2, "{most}");
    assert_eq!(store.due_alone(at(0), &[Road::Resend], 100).await.unwrap().len(), 100);
}

/// As when a database was empty, or just restored, when the server began.
#[tokio::test]
async fn what_was_planned_for_empty_tables_finds_its_rows_in_full_ones() {
    // Readers may lock nothing.
    let locked = lock::PARTS_OF_MESSAGES.replace("FOR NO KEY UPDATE", "");
    let parameters = ["TEXT", "TEXT", "TEXT", "TEXT", "TEXT", "TEXT", "BIGINT", "TEXT"].join(", ");
    let (store, _directory) = store().await;
    let Some(mut reader) = reader(&store).await else { return };
    let texts = [locked.as_str(), ledger::READ, ledger::WRITE].join(";");
    let mut walks = Vec::new();
    for (nth, text) in listed(&texts).split(';').enumerate() {
        let prepare = format!("PREPARE of_{nth} ({parameters}) AS {text}");
        sqlx::query(AssertSqlSafe(prepare)).execute(&mut *reader).await.unwrap();
        let explain =
            format!("EXPLAIN (COSTS OFF) EXECUTE of_{nth} ('[]', '[]', '[]', '[]', '[]', '[]', 0, '[]')");
        let plan: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(&mut *reader).await.unwrap();
        let mut lines = plan.iter().peekable();
        while let Some(line) = lines.next() {
            let is_lookup = lines.peek().is_some_and(|next| next.contains("Index Cond:"));
            if line.contains("Seq Scan") || line.contains("Index") && line.contains("Scan") && !is_lookup {
                walks.push(format!("{line}: {text}\n{plan:#?}"));
            }
        }
    }
    assert!(walks.is_empty(), "{}", walks.join("\n"));
}

#[tokio::test]
async fn a_search_looks_up_by_its_id_what_it_wants_to_know_of_each_message() {
    const RECIPIENTS: &str = "
        INSERT INTO recipient (message_id, address, part_no, ordinal, state)
        SELECT 'm' || n, 'a@y.example', 0, 0, 'queued' FROM generate_series(1, 3000) AS n";
    let (store, _directory) = store().await;
    let Some(mut reader) = reader(&store).await else { return };
    let types = ["TEXT", "TEXT", "TEXT", "BIGINT", "TEXT", "TEXT", "BIGINT", "BIGINT", "TEXT"].join(", ");
    let text = format!("PREPARE search ({types}) AS {}", listed(WALK_OF_ONE));
    sqlx::query(AssertSqlSafe(text)).execute(&mut *reader).await.unwrap();
    crowd(&store).await;
    execute(&store, RECIPIENTS).await.unwrap();
    let parameters = "'', '~', '~', 2000, NULL, '%nobody%', 0, 25, 'ann'";
    for statistics in ["SELECT 1", "ANALYZE"] {
        execute(&store, statistics).await.unwrap();
        let most = most_rows(&mut reader, "search", parameters).await;
        assert!(most < MANY, "{statistics}: {most}");
    }
}
