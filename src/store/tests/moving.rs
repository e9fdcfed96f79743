use super::spool::spooled;
use super::*;
use crate::store::moving::{MoveError, Moved, TABLES};
use crate::submission::stand_in::in_a_file;

/// The PostgreSQL of that directory, if tests have one.
fn on_postgres(directory: &Directory, maker: Maker) -> Option<StoreSettings> {
    Some(settings(&directory.0, maker)).filter(|settings| settings.database_url.is_some())
}

/// A file in which something of most kinds stands, and what it is moved to; nothing, where
/// tests have no PostgreSQL.
async fn furnished() -> Option<(Directory, Vec<Acceptance>)> {
    let (store, directory) = store_in_a_file().await;
    on_postgres(&directory, Maker::Move)?;
    let ann = customer(&store, "ann", Some(100)).await;
    let bob = customer(&store, "bob", Some(3)).await;
    let odd = Some("a tab\t, a\nline, a \\N, a \\. and \u{1f600}".to_owned());
    let waiting =
        accepted(&store, Acceptance { subject: odd, ..message(&ann, &["a@y.example", "b@y.example"]) }).await;
    let octets = Bytes::from_static(b"Subject: 8bit\r\n\r\n\x00\xff\\\t\\x41\r\n");
    let raw = accepted(&store, Acceptance { bytes: octets, ..message(&bob, &["c@y.example"]) }).await;
    let spooled = spooled(&store, &["one ", "two ", "three"]).await;
    let large =
        accepted(&store, Acceptance { spooled: Some(spooled), ..message(&ann, &["d@y.example"]) }).await;
    owe(&store, &ann).await;
    for _ in 0..40 {
        owe(&store, &ann).await;
    }
    let held = accepted(&store, message(&bob, &["e@y.example"])).await;
    store.report(report(&held, 1, lost(&["e@y.example"]))).await.unwrap();
    Some((directory, vec![waiting, raw, large]))
}

async fn open(settings: Option<StoreSettings>) -> Result<Store, OpenError> {
    Store::open(&settings.unwrap(), Metrics::new()).await
}

async fn both(directory: &Directory) -> (Store, Store) {
    let from = open(Some(in_a_file(&directory.0, Maker::Move))).await.unwrap();
    (from, open(on_postgres(directory, Maker::Move)).await.unwrap())
}

#[tokio::test]
async fn p1_an_installation_moves_whole_and_its_file_is_served_no_more() {
    let Some((directory, waiting)) = furnished().await else { return };
    let (from, to) = both(&directory).await;
    let moved = from.move_to(&to, "move-1", "postgres://db/mail").await.unwrap();
    assert!(moved.contains(&Moved { table: "message", rows: 45 }), "{moved:?}");
    assert!(moved.contains(&Moved { table: "chunk", rows: 3 }), "{moved:?}");
    let again = from.move_to(&to, "move-2", "postgres://db/mail").await.unwrap_err();
    assert!(matches!(&again, MoveError::Moved(to) if to == "postgres://db/mail"), "{again}");
    drop((from, to));

    for maker in [Maker::Serve, Maker::Command] {
        let refused = open(Some(in_a_file(&directory.0, maker))).await.unwrap_err();
        assert!(
            refused.to_string().ends_with("was moved to postgres://db/mail; set database_url to that"),
            "{refused}"
        );
    }
    let store = open(on_postgres(&directory, Maker::Serve)).await.unwrap();
    assert_audit(&store).await;
    assert_eq!(sums(&store, &id("ann")).await, (Some(100), 2, 41));
    store.lapse_all(at(9)).await.unwrap();
    for acceptance in &waiting {
        let octets = acceptance.bytes.len() + acceptance.spooled.as_ref().map_or(0, |spooled| spooled.octets);
        let due = DuePart { size: octets, ..first_part(acceptance) };
        let part = store.lease(&due, at(9), at(39)).await.unwrap().unwrap();
        assert!(part.bytes.starts_with(&acceptance.bytes), "{part:?}");
        assert_eq!(part.bytes.len(), octets);
    }
    let log = store.message(&waiting[0].message_id).await.unwrap().unwrap();
    assert_eq!(log.subject, waiting[0].subject);
}

#[tokio::test]
async fn a_move_that_was_interrupted_goes_on_where_it_stood_and_nobody_serves_half_of_it() {
    let Some((directory, _)) = furnished().await else { return };
    let (from, to) = both(&directory).await;
    execute(&to, "ALTER TABLE capture ADD CONSTRAINT late CHECK (number < 20)").await.unwrap();
    from.move_to(&to, "move-1", "there").await.unwrap_err();
    let refused = open(on_postgres(&directory, Maker::Serve)).await.unwrap_err();
    assert!(refused.to_string().contains("`postmeter migrate` has not finished"), "{refused}");
    // What is there is not moved twice.
    execute(&to, "ALTER TABLE message ADD CONSTRAINT twice CHECK (message_id = '') NOT VALID").await.unwrap();
    execute(&to, "ALTER TABLE capture DROP CONSTRAINT late").await.unwrap();
    let moved = from.move_to(&to, "move-2", "there").await.unwrap();
    assert!(moved.contains(&Moved { table: "capture", rows: 41 }), "{moved:?}");
    drop((from, to));
    assert_audit(&open(on_postgres(&directory, Maker::Serve)).await.unwrap()).await;
}

#[tokio::test]
async fn a_file_that_somebody_opened_in_between_is_moved_from_the_beginning() {
    let Some((directory, _)) = furnished().await else { return };
    let (from, to) = both(&directory).await;
    execute(&to, "ALTER TABLE capture ADD CONSTRAINT late CHECK (number < 20)").await.unwrap();
    from.move_to(&to, "move-1", "there").await.unwrap_err();
    drop(from);
    let store = reopened_file(&directory).await;
    assert_audit(&store).await;
    drop(store);
    let from = open(Some(in_a_file(&directory.0, Maker::Move))).await.unwrap();
    let refused = from.move_to(&to, "move-2", "there").await.unwrap_err();
    assert!(matches!(refused, MoveError::OtherMove), "{refused}");
}

#[tokio::test]
async fn a_crash_between_the_two_marks_leaves_the_second_to_the_next_run() {
    let Some((directory, _)) = furnished().await else { return };
    let (from, to) = both(&directory).await;
    execute(&to, "ALTER TABLE capture ADD CONSTRAINT late CHECK (number < 20)").await.unwrap();
    from.move_to(&to, "move-1", "there").await.unwrap_err();
    execute(&to, "ALTER TABLE capture DROP CONSTRAINT late").await.unwrap();
    // The last statement of a move is the only one that minds this.
    execute(&to, "CREATE TABLE holder (key TEXT COLLATE \"C\" REFERENCES meta (key))").await.unwrap();
    execute(&to, "INSERT INTO holder VALUES ('moving_from')").await.unwrap();
    from.move_to(&to, "move-2", "there").await.unwrap_err();
    for settings in [Some(in_a_file(&directory.0, Maker::Serve)), on_postgres(&directory, Maker::Serve)] {
        assert!(open(settings).await.is_err(), "nobody serves either");
    }
    execute(&to, "DROP TABLE holder").await.unwrap();
    from.move_to(&to, "move-3", "there").await.unwrap();
    drop((from, to));
    assert_audit(&open(on_postgres(&directory, Maker::Serve)).await.unwrap()).await;
}

#[tokio::test]
async fn p3_neither_a_database_in_use_nor_a_file_that_does_not_add_up_is_touched() {
    let Some((directory, _)) = furnished().await else { return };
    let (from, to) = both(&directory).await;
    customer(&to, "eve", None).await;
    let refused = from.move_to(&to, "move-1", "there").await.unwrap_err();
    assert!(matches!(refused, MoveError::NotEmpty("customer")), "{refused}");
    execute(&to, "DELETE FROM account").await.unwrap();
    execute(&to, "DELETE FROM customer").await.unwrap();
    execute(&from, "UPDATE account SET held = held + 1 WHERE customer_id = 'ann'").await.unwrap();
    let refused = from.move_to(&to, "move-1", "there").await.unwrap_err();
    assert!(matches!(&refused, MoveError::Audit { side: "the file", .. }), "{refused}");
    drop(from);
    assert!(open(Some(in_a_file(&directory.0, Maker::Serve))).await.is_ok(), "it is served as before");
}

#[tokio::test]
async fn every_table_moves_in_the_order_of_a_key_that_names_its_rows() {
    const NAMES: &str = "
        SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'
            AND name NOT IN ('meta', 'bucket', 'node', 'duty', '_sqlx_migrations') ORDER BY name";
    const UNIQUES: &str = "
        SELECT group_concat(x.name, ', ' ORDER BY x.seqno) FROM pragma_index_list($1) i, pragma_index_info(i.name) x
        WHERE i.\"unique\" AND NOT i.partial GROUP BY i.name";
    let (store, _directory) = store_in_a_file().await;
    let names: Vec<String> = query_scalar(NAMES).fetch_all(&store.readers).await.unwrap();
    let mut moved: Vec<_> = TABLES.iter().map(|table| table.name).collect();
    moved.sort_unstable();
    assert_eq!(moved, names);
    for table in TABLES {
        let uniques: Vec<String> =
            query_scalar(UNIQUES).bind(table.name).fetch_all(&store.readers).await.unwrap();
        assert!(uniques.contains(&table.key.join(", ")), "{}: {uniques:?}", table.name);
    }
}
