//! The two databases have one schema: the same tables, columns, defaults, uniques,
//! indexes and checks, so that one text of a statement means the same in both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection};

use crate::harness::RUNTIME;
use crate::harness::client::missing;
use crate::harness::postgres::{Cluster, succeed};

/// What a schema has, a line each.
type Lines = BTreeSet<String>;

/// The migrations of a database, in their order.
fn migrations(database: &str) -> Vec<PathBuf> {
    let folder = format!("{}/src/store/migrations/{database}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The numbers in front of the migrations' names.
fn numbers(database: &str) -> Vec<u32> {
    let name = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
    migrations(database).iter().map(|file| name(file).split('_').next().unwrap().parse().unwrap()).collect()
}

/// A PostgreSQL that has a database with all migrations.
fn migrated() -> Option<Cluster> {
    let Some(cluster) = Cluster::start() else {
        missing("PostgreSQL");
        return None;
    };
    cluster.create("schema");
    for file in migrations("postgres") {
        let statements = std::fs::read_to_string(file).unwrap();
        succeed(cluster.psql("schema", &statements).arg("--single-transaction"));
    }
    Some(cluster)
}

fn sqlite(queries: &[&'static str]) -> Lines {
    RUNTIME.block_on(async {
        let mut database = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for file in migrations("sqlite") {
            let statements = std::fs::read_to_string(file).unwrap();
            database.execute(AssertSqlSafe(statements)).await.unwrap();
        }
        let mut lines = Lines::new();
        for query in queries {
            lines.extend(sqlx::query_scalar::<_, String>(*query).fetch_all(&mut database).await.unwrap());
        }
        lines
    })
}

fn postgres(cluster: &Cluster, queries: &[&str]) -> Lines {
    queries.iter().flat_map(|query| cluster.read("schema", query)).collect()
}

const SQLITE: [&str; 3] = [
    // Columns: what they hold, whether they must, and what they hold by themselves.
    "SELECT t.name || '.' || c.name || ' ' || lower(c.type) || iif(c.\"notnull\", ' not null', '')
            || coalesce(' default ' || c.dflt_value, '')
     FROM sqlite_schema t, pragma_table_info(t.name) c
     WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%'",
    // Primary keys and uniques, with their columns, and whether they are of some rows only.
    "SELECT t.name || iif(i.\"unique\", ' unique', ' index') || ' ('
            || (SELECT group_concat(x.name, ', ' ORDER BY x.seqno) FROM pragma_index_info(i.name) x) || ')'
            || iif(i.partial, ' of some', '')
     FROM sqlite_schema t, pragma_index_list(t.name) i
     WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%'",
    "SELECT name || ' checks ' || ((length(sql) - length(replace(sql, 'CHECK (', ''))) / length('CHECK ('))
     FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'",
];

const POSTGRES: [&str; 3] = [
    "SELECT table_name || '.' || column_name || ' '
            || CASE data_type WHEN 'bigint' THEN 'integer' WHEN 'bytea' THEN 'blob' ELSE data_type END
            || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END
            || coalesce(' default ' || replace(column_default, '::text', ''), '')
     FROM information_schema.columns WHERE table_schema = 'public'",
    "SELECT t.relname || CASE WHEN i.indisunique THEN ' unique' ELSE ' index' END || ' ('
            || (SELECT string_agg(a.attname, ', ' ORDER BY k.place)
                FROM unnest(i.indkey) WITH ORDINALITY AS k (number, place)
                     JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.number)
            || ')' || CASE WHEN i.indpred IS NULL THEN '' ELSE ' of some' END
     FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
     WHERE t.relnamespace = 'public'::regnamespace",
    "SELECT t.relname || ' checks ' || count(c.oid)
     FROM pg_class t LEFT JOIN pg_constraint c ON c.conrelid = t.oid AND c.contype = 'c'
     WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace GROUP BY t.relname",
];

#[test]
fn both_databases_have_the_same_schema() {
    let Some(cluster) = migrated() else { return };
    let (ours, theirs) = (sqlite(&SQLITE), postgres(&cluster, &POSTGRES));
    assert!(ours.len() > 200, "something was read: {ours:?}");
    let only_sqlite: Vec<_> = ours.difference(&theirs).collect();
    let only_postgres: Vec<_> = theirs.difference(&ours).collect();
    assert!(only_sqlite.is_empty() && only_postgres.is_empty(), "{only_sqlite:#?}\n{only_postgres:#?}");
}

#[test]
fn text_sorts_by_its_octets_in_both() {
    let Some(cluster) = migrated() else { return };
    const OTHERS: &str = "
        SELECT table_name || '.' || column_name FROM information_schema.columns
        WHERE table_schema = 'public' AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'";
    assert_eq!(cluster.read("schema", OTHERS), Vec::<String>::new());
}

#[test]
fn what_statements_share_means_the_same_in_both() {
    let Some(cluster) = migrated() else { return };
    // The statement, and its one answer.
    let table: BTreeMap<&'static str, &str> = BTreeMap::from([
        (r#"SELECT string_agg(atom, ',') FROM json_each('["a","b"]')"#, "a,b"),
        (r#"SELECT value ->> 1 FROM json_each('[["a","b"]]')"#, "b"),
        (r#"SELECT coalesce(value ->> 0, 'none') FROM json_each('[[null]]')"#, "none"),
        (
            r#"SELECT '' || (CAST(value ->> 0 AS BIGINT) + 1) FROM json_each('[[9007199254740993]]')"#,
            "9007199254740994",
        ),
        (r#"SELECT coalesce('' || CAST(value ->> 0 AS BIGINT), 'none') FROM json_each('[[null]]')"#, "none"),
        ("SELECT '' || max(CAST(3 AS BIGINT), 4)", "4"),
        ("SELECT '' || min(CAST(3 AS BIGINT), 4)", "3"),
        ("SELECT coalesce('' || max(CAST(NULL AS BIGINT), 4), 'none')", "none"),
        ("SELECT '' || count(*) FILTER (WHERE atom = 'a') FROM json_each('[\"a\",\"b\",\"a\"]')", "2"),
        ("SELECT 'kept' WHERE NULL IS DISTINCT FROM 'x'", "kept"),
    ]);
    RUNTIME.block_on(async {
        let mut database = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for (statement, answer) in table {
            let said: String = sqlx::query_scalar(statement).fetch_one(&mut database).await.unwrap();
            assert_eq!(said, answer, "{statement}");
            assert_eq!(cluster.read("schema", statement), [answer], "{statement}");
        }
    });
}

#[test]
fn from_the_first_common_migration_on_both_have_each_number() {
    let (ours, theirs) = (numbers("sqlite"), numbers("postgres"));
    let first = theirs.first().copied().unwrap();
    assert_eq!(theirs, ours.into_iter().filter(|number| *number >= first).collect::<Vec<_>>());
}
