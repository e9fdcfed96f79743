//! The commands as an operator types them, against a database in a fresh directory.

mod entry;
mod queue;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::CommandFactory;
use serde_json::Value;
use sqlx::Connection;

use super::*;

static DIRECTORIES: AtomicU32 = AtomicU32::new(0);

/// A directory with a configuration; gone with the test.
pub(super) struct Office {
    pub(super) directory: PathBuf,
    pub(super) config_path: PathBuf,
    /// What the person at the terminal says to every question; `None`: nobody is there.
    says: Mutex<Option<bool>>,
    /// What was asked.
    asked: Mutex<Vec<String>>,
    /// What happens while the next question is thought about.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Office {
    /// `config` is the file without `data_dir`.
    pub(super) fn new(config: &str) -> Self {
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("postmeter-cli-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let config_path = directory.join("postmeter.toml");
        let data_dir = directory.join("data");
        std::fs::write(&config_path, format!("data_dir = {data_dir:?}\n{config}")).unwrap();
        let (says, asked, meanwhile) = (Mutex::new(None), Mutex::new(Vec::new()), Mutex::new(None));
        Self { directory, config_path, says, asked, meanwhile }
    }

    fn answers(&self, question: &str) -> Option<bool> {
        self.asked.lock().unwrap().push(question.to_owned());
        if let Some(happens) = self.meanwhile.lock().unwrap().take() {
            happens();
        }
        *self.says.lock().unwrap()
    }

    async fn run(&self, typed: &str) -> anyhow::Result<Printout> {
        self.run_with(typed, &|_| None).await
    }

    pub(super) async fn run_with(
        &self,
        typed: &str,
        environment: &(dyn Fn(&str) -> Option<String> + Sync),
    ) -> anyhow::Result<Printout> {
        let clock = Clock::manual("2026-11-22T10:00:00Z".parse().unwrap());
        let ask = |question: &str| self.answers(question);
        let place = Place { config_path: Some(&self.config_path), environment, clock, ask: &ask };
        match parse(typed).unwrap().command {
            Command::Errand(errand) => run(errand, &place).await,
            other => panic!("{other:?} is not an errand"),
        }
    }

    async fn says(&self, typed: &str) -> String {
        let printout = self.run(typed).await.unwrap();
        assert!(printout.is_success, "{typed}: {}", printout.text);
        printout.text
    }

    async fn json(&self, typed: &str) -> Value {
        serde_json::from_str(&self.says(&format!("{typed} --json")).await).unwrap()
    }

    async fn complains(&self, typed: &str) -> String {
        one_line(&self.run(typed).await.unwrap_err())
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn parse(typed: &str) -> Result<CommandLine, clap::Error> {
    let words = typed.split(' ').map(|word| word.replace('~', " "));
    CommandLine::try_parse_from(std::iter::once("postmeter".to_owned()).chain(words))
}

#[test]
fn the_command_line_is_sound_and_its_help_lists_the_commands() {
    CommandLine::command().debug_assert();
    let help = CommandLine::command().render_long_help().to_string();
    for name in [
        "sandbox",
        "serve",
        "setup",
        "check",
        "customer",
        "credential",
        "sender",
        "entry",
        "queue",
        "explain",
        "audit",
    ] {
        assert!(help.contains(&format!("\n  {name} ")), "{name} in {help}");
    }
    assert!(help.contains("--config <FILE>") && help.contains("--log-format"), "{help}");
}

#[test]
fn what_operators_type_is_understood() {
    for typed in [
        "sandbox",
        "sandbox --smtp 127.0.0.1:0 --smtps 127.0.0.1:0 --http [::1]:0 --data-dir x",
        "serve",
        "serve --config a.toml --log-format json",
        "--config a.toml check",
        "check --json",
        "setup --base-url https://mail.example.com --dry-run --json",
        "setup --currency EUR --plan-price 29.00 --plan-emails 20000 --top-up-price 9.00 --top-up-days 90 --force --yes",
        "customer add cus_1 --email a@example.com --name Anna~A",
        "customer list --json",
        "customer --json list",
        "customer show cus_1",
        "customer suspend cus_1 --reason unpaid",
        "customer resume cus_1 --config a.toml",
        "credential create --customer cus_1 --label app --json",
        "credential list",
        "credential revoke pm-1",
        "sender allow cus_1 *.example.com",
        "sender list cus_1",
        "sender deny cus_1 *",
        "audit --json",
        "audit --dodo --json",
        "entry list --json",
        "entry settle entry-1 --yes",
        "entry void entry-1 --json",
        "queue list --state held --customer cus_1 --limit 7 --json",
        "queue show 01a",
        "queue retry 01a --yes",
        "queue retry --all",
        "queue retry --all --held --yes",
        "queue cancel 01a --yes",
    ] {
        assert!(parse(typed).is_ok(), "{typed}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_exit_code_2() {
    for (typed, told) in [
        ("nosuch", "unrecognized subcommand"),
        ("serve --json", "unexpected argument"),
        ("setup --plan-emails 0", "0 is not in"),
        ("sandbox --smtp here", "invalid socket address"),
        ("customer add a/b", "not a valid customer id"),
        ("customer add cus_1 --email nobody", "local-part@domain"),
        ("customer add cus_1 --name a\nb", "control characters"),
        ("customer suspend cus_1", "--reason"),
        ("customer suspend cus_1 --reason ~", "it is empty"),
        ("credential create", "--customer"),
        ("queue list --state sent", "[possible values: held, sending, queued]"),
        ("queue list --limit 0", "0 is not in 1..=1000"),
        ("queue retry", "MESSAGE|--all"),
        ("queue retry 01a --all", "cannot be used with"),
        ("queue retry 01a --held", "--all"),
        ("queue cancel --all", "unexpected argument"),
        ("queue cancel a/b", "not a valid message id"),
        ("sender allow cus_1 *", "senders.policy"),
        ("sender allow cus_1 a..b", "user@example.com, example.com or *.example.com"),
    ] {
        let error = parse(typed).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{typed}");
        assert!(error.to_string().contains(told), "{typed}: {error}");
    }
}

#[test]
fn the_sandbox_listens_where_the_readme_says() {
    let Command::Sandbox(args) = parse("sandbox").unwrap().command else { panic!("not the sandbox") };
    assert_eq!(args.smtp.to_string(), "127.0.0.1:2525");
    assert_eq!(args.smtps.to_string(), "127.0.0.1:2465");
    assert_eq!(args.http.to_string(), "127.0.0.1:3000");
    assert_eq!(args.data_dir, PathBuf::from("sandbox-data"));
}

#[tokio::test]
async fn an_operator_gets_a_customer_ready_to_send() {
    let office = Office::new("[smtp]\nhostname = \"smtp.example.com\"\n");
    let added = office.says("customer add cus_1 --email Anna@Example.com --name Anna").await;
    assert!(added.starts_with("added customer cus_1\nnext: postmeter --config "), "{added}");
    assert!(added.contains(" credential create --customer cus_1\n"), "{added}");

    let capped = office.says("credential create --customer cus_1 --per-day 500 --per-minute 20").await;
    assert!(capped.contains("at most   500 a day, 20 a minute\n"), "{capped}");
    let listed = office.says("credential list").await;
    assert!(listed.contains("AT MOST") && listed.contains("500 a day, 20 a minute"), "{listed}");
    let created = office.says("credential create --customer cus_1 --label app").await;
    assert!(created.contains("server    smtp.example.com:587 (STARTTLS)\n"), "{created}");
    assert!(created.contains("shown this once"), "{created}");
    assert!(created.contains(" sender allow cus_1 example.com\n"), "{created}");

    assert_eq!(office.says("sender allow cus_1 *.Example.com").await, "cus_1 may send from *.example.com\n");
    assert_eq!(office.says("sender list cus_1").await, "*.example.com\n");
    let shown = office.says("customer show cus_1").await;
    assert!(
        shown.contains("available    unknown") && shown.contains("senders      *.example.com"),
        "{shown}"
    );
    assert!(shown.contains("(app)") && !shown.contains("secret"), "{shown}");

    assert_eq!(
        office.says("sender deny cus_1 *.example.com").await,
        "cus_1 may no longer send from *.example.com\n"
    );
    assert!(office.says("sender list cus_1").await.contains("next: "));
}

#[tokio::test]
async fn programs_get_one_json_value_with_the_names_of_the_api() {
    let office = Office::new("");
    let added = office.json("customer add cus_1 --email a@example.com").await;
    assert_eq!(added["customer_id"], "cus_1");
    assert_eq!(added["created_at"], "2026-11-22T10:00:00Z");
    assert_eq!((&added["balance"], &added["available"]), (&Value::Null, &Value::Null));
    assert_eq!((&added["held"], &added["owed"]), (&Value::from(0), &Value::from(0)));

    let created = office.says("credential create --customer cus_1 --label app --json").await;
    assert!(created.starts_with(r#"{"customer_id":"cus_1","username":"pm-"#), "{created}");
    let created: Value = serde_json::from_str(&created).unwrap();
    assert_eq!(created["secret"].as_str().unwrap().len(), 64);
    assert_eq!(created["label"], "app");

    let listed = office.json("credential list").await;
    assert_eq!(listed[0]["username"], created["username"]);
    assert_eq!((&listed[0]["per_day"], &listed[0]["last_used_at"]), (&Value::Null, &Value::Null));
    assert!(listed[0].get("secret").is_none(), "P10");
    let username = created["username"].as_str().unwrap();
    assert_eq!(office.json(&format!("credential revoke {username}")).await["username"], *username);
    assert_eq!(office.json("credential list").await[0]["revoked_at"], "2026-11-22T10:00:00Z");

    office.says("sender allow cus_1 example.com").await;
    let senders = office.json("sender list cus_1").await;
    assert_eq!(
        senders,
        serde_json::json!([
            { "customer_id": "cus_1", "pattern": "example.com", "origin": "operator", "state": "allowed" }
        ])
    );
    let suspended = office.json("customer suspend cus_1 --reason unpaid~bill").await;
    assert_eq!(suspended["suspended_reason"], "unpaid bill");
    assert_eq!(office.json("customer resume cus_1").await["suspended_reason"], Value::Null);
    let shown = office.json("customer show cus_1").await;
    assert_eq!(shown["senders"][0], "example.com");
    assert_eq!(shown["credentials"][0]["username"], *username);
    assert_eq!(office.json("customer list").await[0]["customer_id"], "cus_1");
    assert_eq!(office.json("audit").await, serde_json::json!([]));
}

#[tokio::test]
async fn errors_name_the_culprit_and_the_way_on() {
    let office = Office::new("");
    let nothing = office.complains("audit").await;
    assert!(nothing.contains("there is no database in ") && nothing.contains("data_dir"), "{nothing}");
    assert!(!office.directory.join("data").exists(), "looking for a database must not make one");

    office.says("customer add cus_1").await;
    for (typed, told) in [
        ("customer add cus_1", "the customer cus_1 is there already"),
        ("customer show cus_2", "there is no customer cus_2"),
        ("customer suspend cus_2 --reason x", "there is no customer cus_2"),
        ("customer resume cus_2", "there is no customer cus_2"),
        ("credential create --customer cus_2", "there is no customer cus_2"),
        ("credential revoke pm-2", "there is no credential pm-2"),
        ("sender allow cus_2 example.com", "there is no customer cus_2"),
        ("sender list cus_2", "there is no customer cus_2"),
        ("sender deny cus_2 example.com", "there is no customer cus_2"),
        ("sender deny cus_1 example.com", "example.com is not a sender"),
    ] {
        let complaint = office.complains(typed).await;
        assert!(complaint.contains(told), "{typed}: {complaint}");
        assert!(!complaint.contains('\n'), "{complaint:?}");
    }
}

#[tokio::test]
async fn the_audit_fails_and_names_the_row_that_was_tampered_with() {
    let office = Office::new("");
    office.says("customer add cus_1").await;
    assert!(office.says("audit").await.starts_with("ok: 0 credits held"));

    let file = office.directory.join("data").join(DATABASE_FILE);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("UPDATE account SET held = 1").execute(&mut connection).await.unwrap();

    let printout = office.run("audit").await.unwrap();
    assert!(!printout.is_success);
    assert!(printout.text.contains("\naccount  cus_1  1        held is not the sum"), "{}", printout.text);
    let printout = office.run("audit --json").await.unwrap();
    assert!(!printout.is_success);
    let findings: Value = serde_json::from_str(&printout.text).unwrap();
    assert_eq!((&findings[0]["table"], &findings[0]["row"]), (&"account".into(), &"cus_1".into()));
}

#[tokio::test]
async fn commands_work_on_the_sandbox_database_too() {
    let office = Office::new("");
    let settings = StoreSettings {
        data_dir: office.directory.join("data"),
        database_url: None,
        maker: Maker::Sandbox,
        low_balance_credits: 0,
        min_free_bytes: 0,
    };
    drop(Store::open(&settings, Metrics::new()).await.unwrap());
    assert!(office.says("audit").await.starts_with("ok: "));
    assert!(office.says("customer list").await.starts_with("there are no customers yet\nnext: "));
}

#[test]
fn serve_tells_all_that_is_wrong_with_file_and_environment_at_once() {
    let office = Office::new("nonsense = 1\n[smtp]\nmax_recipients = 0\n");
    let error = serve_settings(Some(&office.config_path), |_| None).unwrap_err();
    let told = one_line(&error);
    for name in ["nonsense", "smtp.max_recipients", "DODO_PAYMENTS_API_KEY", "RESEND_API_KEY", "BASE_URL"] {
        assert!(told.contains(name), "{name} in {told}");
    }
}

#[test]
fn a_cause_is_told_once() {
    let cause = std::io::Error::other("disk full");
    let error = anyhow::Error::from(cause).context("cannot write: disk full").context("accepting failed");
    assert_eq!(one_line(&error), "accepting failed: cannot write: disk full");
}
