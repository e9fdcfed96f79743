//! What a migration may say, so that the version before it can go on working.

use super::*;

/// Up to here versions did not run side by side.
const BEFORE: i64 = 25;
/// Tables of a few rows, on which an index is made in no time.
const SMALL: [&str; 5] = ["meta", "gate", "node", "duty", "bucket"];

/// A migration's statements, without their comments.
fn statements(text: &str) -> Vec<String> {
    let uncommented = |line: &str| line.split("--").next().unwrap_or_default().to_owned();
    let text = text.lines().map(uncommented).collect::<Vec<_>>().join("\n");
    let words = |statement: &str| statement.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split(';').map(words).filter(|statement| !statement.is_empty()).collect()
}

/// Whether it says from which level on programs may work: then it may do anything.
fn contracts(text: &str) -> bool {
    statements(text)
        .iter()
        .any(|said| said.starts_with("INSERT INTO meta") && said.contains("'oldest_level'"))
}

/// Why a migration is more than an expansion.
fn fault(text: &str) -> Option<String> {
    let statements = statements(text);
    let made: BTreeSet<&str> =
        statements.iter().filter_map(|said| said.strip_prefix("CREATE TABLE ")?.split(' ').next()).collect();
    let is_alone = text.starts_with("-- no-transaction") && statements.len() == 1;
    statements.iter().find(|said| !expands(said, &made, is_alone)).cloned()
}

fn expands(said: &str, made: &BTreeSet<&str>, is_alone: bool) -> bool {
    if said.starts_with("CREATE TABLE ") {
        return true;
    }
    if let Some((_, on)) = said.strip_prefix("CREATE INDEX ").and_then(|index| index.split_once(" ON ")) {
        let table = on.split([' ', '(']).next().unwrap_or_default();
        let is_lockless = is_alone && said.starts_with("CREATE INDEX CONCURRENTLY IF NOT EXISTS ");
        return is_lockless || made.contains(table) || SMALL.contains(&table);
    }
    // What was true of every row may not be so of what the older version writes.
    if let Some((_, on)) =
        said.strip_prefix("CREATE UNIQUE INDEX ").and_then(|index| index.split_once(" ON "))
    {
        return made.contains(on.split([' ', '(']).next().unwrap_or_default());
    }
    // The older version is slower without one, unless it says ON CONFLICT.
    if let Some(index) = said.strip_prefix("DROP INDEX ") {
        let unique = format!("CREATE UNIQUE INDEX {index} ");
        return [&MIGRATOR, &POSTGRES_MIGRATOR]
            .iter()
            .flat_map(|migrator| migrator.iter())
            .all(|migration| !migration.sql.as_str().contains(&unique));
    }
    // What it answers stays the same.
    if said.starts_with("ALTER FUNCTION ") && said.ends_with(" VOLATILE ROWS 1") {
        return true;
    }
    let Some(added) = said.strip_prefix("ALTER TABLE ") else { return false };
    // Nobody waits for that, and no row is written anew.
    if added.contains(" SET (fillfactor = ") || added.contains(" SET (vacuum_truncate = ") {
        return true;
    }
    let Some((_, column)) = added.split_once(" ADD COLUMN ") else { return false };
    // Each of these reads the whole table while nobody else can, or refuses what the older version writes.
    let words = ["CHECK", "REFERENCES", "UNIQUE", "PRIMARY", "GENERATED", "(", ","];
    let is_filled = column.split_once(" DEFAULT ").is_some_and(|(_, value)| {
        value.starts_with('\'') || value.split(' ').next().is_some_and(|value| value.parse::<i64>().is_ok())
    });
    !words.iter().any(|word| column.contains(word)) && (is_filled || !column.contains("NOT NULL"))
}

#[test]
fn each_migration_expands_or_says_who_is_left_behind() {
    let mut seen = 0;
    for (database, migrator) in [("sqlite", &MIGRATOR), ("postgres", &POSTGRES_MIGRATOR)] {
        for migration in migrator.iter().filter(|migration| migration.version > BEFORE) {
            let text = migration.sql.as_str();
            // An index is made in a transaction by SQLite, where nobody else is at work.
            let text = if database == "sqlite" {
                text.replace("CREATE INDEX ", "CREATE TABLE ")
            } else {
                text.to_owned()
            };
            seen += 1;
            if !contracts(&text) {
                let fault = fault(&text);
                assert_eq!(
                    fault, None,
                    "{database} {}: no older version can go on after this",
                    migration.version
                );
            }
        }
    }
    assert!(seen > 0);
}

#[test]
fn what_expands_and_what_does_not() {
    let table = [
        ("-- Why; so.\nALTER TABLE part ADD COLUMN x TEXT COLLATE \"C\";", true),
        ("ALTER TABLE part ADD COLUMN x BIGINT NOT NULL DEFAULT 0;", true),
        ("ALTER TABLE part ADD COLUMN x TEXT NOT NULL DEFAULT '';", true),
        (
            "CREATE TABLE t (x BIGINT NOT NULL CHECK (x > 0)); CREATE INDEX i ON t (x); CREATE UNIQUE INDEX u ON t (x);",
            true,
        ),
        ("CREATE INDEX i ON gate (since);", true),
        ("-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON part (node);", true),
        ("DROP INDEX part_due; ALTER TABLE account SET (fillfactor = 50);", true),
        ("ALTER TABLE body SET (vacuum_truncate = off, toast.vacuum_truncate = off);", true),
        ("ALTER FUNCTION json_each(TEXT) VOLATILE ROWS 1;", true),
        ("ALTER FUNCTION json_each(TEXT) RENAME TO x;", false),
        ("DROP INDEX entry_open;", false),
        ("ALTER TABLE part ADD COLUMN x BIGINT NOT NULL;", false),
        ("ALTER TABLE part ADD COLUMN x BIGINT NOT NULL DEFAULT random();", false),
        ("ALTER TABLE part ADD COLUMN x BIGINT CHECK (x > 0);", false),
        ("ALTER TABLE part ADD COLUMN x TEXT REFERENCES customer (customer_id);", false),
        ("ALTER TABLE part DROP COLUMN node;", false),
        ("ALTER TABLE part RENAME COLUMN node TO x;", false),
        ("ALTER TABLE part ALTER COLUMN node SET NOT NULL;", false),
        ("DROP TABLE gate;", false),
        ("UPDATE part SET node = 'x';", false),
        ("CREATE INDEX i ON part (node);", false),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON part (node);", false),
        ("-- no-transaction\nCREATE INDEX CONCURRENTLY i ON part (node);", false),
        ("CREATE UNIQUE INDEX i ON gate (since);", false),
    ];
    for (text, want) in table {
        assert_eq!(fault(text).is_none(), want, "{text}");
    }
    assert!(contracts(
        "DROP TABLE gate; INSERT INTO meta (key, value) VALUES ('oldest_level', '31 0.2.0') ON …;"
    ));
}

/// A column that is added changes what such a statement is answered, and PostgreSQL refuses to
/// go on with one that was prepared before.
#[test]
fn no_statement_asks_for_all_columns_whichever_they_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let mut read = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "rs") || file.ends_with("tests.rs") {
            continue;
        }
        read += 1;
        let text = std::fs::read_to_string(&file).unwrap();
        // Each check of the audit names its columns.
        let lines = text.lines().filter(|line| !line.contains("({offenders})"));
        let faults: Vec<_> = lines
            .filter(|line| ["SELECT *", "RETURNING *", ".* FROM", ".*,"].iter().any(|all| line.contains(all)))
            .collect();
        assert_eq!(faults, Vec::<&str>::new(), "{}", file.display());
    }
    assert!(read > 50);
}
