//! A Postmeter as an operator would run it, with one customer, between stand-ins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use postmeter::sandbox::dodo::DodoStandIn;
use postmeter::sandbox::resend::{Mail, ResendStandIn};
use postmeter::sandbox::{self, Settings, StandIns};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

use super::database::{Column, Database, Rows};
use super::directory::Directory;
use super::process::{Launched, Process, Said, postmeter};
use super::sink::{SINK_PASSWORD, Sink};
use super::smtp::Smtp;
use super::wait::until_is;
use super::{RUNTIME, contract};

/// The customer; may send from example.com.
pub(crate) const CUSTOMER_ID: &str = "cus_ann";
/// Where the customer's notices go.
pub(crate) const CUSTOMER_EMAIL: &str = "ann@example.com";
/// `BASE_URL`: nothing listens there.
pub(crate) const BASE_URL: &str = "https://meter.example";
/// The operator's token.
pub(crate) const ADMIN_TOKEN: &str = "operator-0123456789abcdef";

/// What a customer signs in with.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    /// The username.
    pub(crate) username: String,
    /// The secret.
    pub(crate) secret: String,
}

/// The system.
#[derive(Debug)]
pub(crate) struct Meter {
    stand_ins: StandIns,
    sink: Sink,
    process: Option<Process>,
    /// The customer's first credential.
    pub(crate) credential: Credential,
    environment: BTreeMap<&'static str, String>,
    arguments: Vec<&'static str>,
    is_finished: bool,
    /// What was wrong with calls to Resend.
    mistakes: Arc<Mutex<Vec<String>>>,
    directory: Directory,
    /// Where SQLite's file is, if the database is one.
    data: PathBuf,
    /// PostgreSQL's, if tests run on it.
    database: Option<Database>,
}

impl Meter {
    /// Between stand-ins of its own, with the configuration that lies in the directory, and
    /// the database that it names.
    pub(super) fn new(
        (directory, database): (Directory, Option<Database>),
        sink: Sink,
        credits: Option<u64>,
        arguments: Vec<&'static str>,
    ) -> Self {
        let stand_ins = RUNTIME.block_on(StandIns::start(Settings::default())).unwrap();
        // The test's own speed is not what Resend's limit is for.
        stand_ins.resend.behave(|behaviour| behaviour.per_second = 0);
        // Few tests are about what Resend tells by itself.
        stand_ins.resend.behave(|behaviour| behaviour.events = false);
        let mistakes = Arc::<Mutex<Vec<String>>>::default();
        let noted = Arc::clone(&mistakes);
        stand_ins
            .resend
            .listen(move |head, body| noted.lock().unwrap().extend(contract::mistake(head, body)));
        stand_ins.dodo.add_customer(CUSTOMER_ID, CUSTOMER_EMAIL, "Ann").unwrap();
        if let Some(credits) = credits {
            stand_ins.dodo.grant(CUSTOMER_ID, credits, None).unwrap();
        }
        let environment = BTreeMap::from([
            ("DODO_PAYMENTS_API_KEY", sandbox::DODO_API_KEY.to_owned()),
            ("DODO_PAYMENTS_BASE_URL", stand_ins.dodo_url.clone()),
            ("DODO_WEBHOOK_KEY", sandbox::WEBHOOK_SECRET.to_owned()),
            ("CREDIT_ENTITLEMENT_ID", sandbox::ENTITLEMENT_ID.to_owned()),
            ("PLAN_PRODUCT_ID", sandbox::PLAN_PRODUCT_ID.to_owned()),
            ("TOPUP_PRODUCT_ID", sandbox::TOPUP_PRODUCT_ID.to_owned()),
            ("RESEND_API_KEY", sandbox::RESEND_API_KEY.to_owned()),
            ("RESEND_WEBHOOK_SECRET", sandbox::RESEND_WEBHOOK_SECRET.to_owned()),
            ("RESEND_BASE_URL", stand_ins.resend_url.clone()),
            ("UPSTREAM_SMTP_URL", sink.url().to_owned()),
            ("BASE_URL", BASE_URL.to_owned()),
            ("POSTMETER_ADMIN_TOKEN", ADMIN_TOKEN.to_owned()),
        ]);
        let nobody = Credential { username: String::new(), secret: String::new() };
        let mut meter = Self {
            stand_ins,
            sink,
            process: None,
            credential: nobody,
            environment,
            arguments,
            is_finished: false,
            mistakes,
            data: directory.join("data"),
            directory,
            database,
        };
        meter.says(&["customer", "add", CUSTOMER_ID, "--email", CUSTOMER_EMAIL, "--name", "Ann"]);
        meter.says(&["sender", "allow", CUSTOMER_ID, "example.com"]);
        meter.credential = meter.new_credential();
        meter
    }

    /// Starts the program, or starts it again on the same data.
    pub(crate) fn serve(&mut self) {
        let ready = self.launch().ready();
        self.adopt(ready.unwrap_or_else(|ended| panic!("it ended before it was ready:\n{}", ended.log())));
    }

    /// Starts the program without waiting for anything.
    pub(crate) fn launch(&self) -> Launched {
        assert!(self.process.is_none(), "it runs already");
        let mut command = self.command(&["serve"]);
        command.args(&self.arguments);
        Launched::start(command, &self.log_path())
    }

    /// This is the running program now.
    pub(crate) fn adopt(&mut self, process: Process) {
        let _in_runtime = RUNTIME.enter();
        self.stand_ins.dodo.deliver_webhooks_to(&format!("http://{}/webhooks/dodo", process.http));
        self.stand_ins.resend.deliver_webhooks_to(&format!("http://{}/webhooks/resend", process.http));
        self.process = Some(process);
    }

    /// SIGTERM; it must end well.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.take_process().stop();
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.take_process().kill();
    }

    /// The process, to be stopped by the test itself.
    pub(crate) fn take_process(&mut self) -> Process {
        self.process.take().expect("it runs")
    }

    /// The running process.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    /// A command with this system's configuration and environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = postmeter();
        command.args(arguments).arg("--config").arg(self.directory.join("postmeter.toml"));
        command.envs(&self.environment).current_dir(self.directory.path());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs a command that must succeed; what it prints.
    #[track_caller]
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
        said.out
    }

    /// Makes another credential for the customer.
    pub(crate) fn new_credential(&self) -> Credential {
        let made = self.says(&["credential", "create", "--customer", CUSTOMER_ID, "--json"]);
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        assert_eq!(made["customer_id"], CUSTOMER_ID);
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        Credential { username: text("username"), secret: text("secret") }
    }

    /// What an environment variable says from the next start on.
    pub(crate) fn set_environment(&mut self, name: &'static str, value: &str) {
        self.environment.insert(name, value.to_owned());
    }

    /// Takes all variables away.
    pub(crate) fn unset_environment(&mut self) {
        self.environment.clear();
    }

    /// Takes one away.
    pub(crate) fn remove_environment(&mut self, name: &str) {
        self.environment.remove(name);
    }

    /// What the environment says now.
    pub(crate) fn environment(&self) -> BTreeMap<&'static str, String> {
        self.environment.clone()
    }

    /// A signed-in session on the STARTTLS port.
    pub(crate) fn signed_in(&self) -> Smtp {
        self.sign_in(Smtp::starttls(self))
    }

    /// A signed-in session on the port with implicit TLS.
    pub(crate) fn signed_in_implicitly(&self) -> Smtp {
        self.sign_in(Smtp::implicit(self))
    }

    fn sign_in(&self, mut smtp: Smtp) -> Smtp {
        let Credential { username, secret } = &self.credential;
        let reply = smtp.auth_plain(username, secret);
        assert!(reply.starts_with("235 2.7.0 "), "{reply}");
        smtp
    }

    /// The stand-in for Dodo. Steps that send webhooks need [`RUNTIME`].
    pub(crate) fn dodo(&self) -> &DodoStandIn {
        &self.stand_ins.dodo
    }

    /// The stand-in for Resend.
    pub(crate) fn resend_stand_in(&self) -> &ResendStandIn {
        &self.stand_ins.resend
    }

    /// Every mail that Resend took.
    pub(crate) fn mails(&self) -> Vec<Mail> {
        self.stand_ins.resend.mails().unwrap()
    }

    /// The scripted SMTP upstream.
    pub(crate) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// The test's own directory.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The certificate that the program shows.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.join("cert.pem")
    }

    /// Where the program's log goes.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What the program has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// A number out of the database.
    pub(crate) fn number(&self, sql: &'static str) -> i64 {
        self.rows().number(sql)
    }

    /// The first column out of the database.
    pub(crate) fn read<T: Column>(&self, sql: &'static str) -> Vec<T>
    where
        (T,): for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> sqlx::FromRow<'r, PgRow>,
    {
        self.rows().column(sql)
    }

    /// Changes the database behind the program's back.
    pub(crate) fn tamper(&self, sql: &str) {
        assert!(self.rows().tamper(sql) > 0, "{sql} changed nothing");
    }

    /// The database, if it is PostgreSQL's.
    pub(crate) fn database(&self) -> Option<&Database> {
        self.database.as_ref()
    }

    /// Keeps the rows as they are; nobody may be using them.
    pub(crate) fn keep_rows(&self) {
        match &self.database {
            Some(database) => database.keep(),
            None => copy_files(&self.data, &self.directory.join("kept")),
        }
    }

    /// Has the rows that were kept, and no other.
    pub(crate) fn restore_rows(&self) {
        match &self.database {
            Some(database) => database.restore(),
            None => copy_files(&self.directory.join("kept"), &self.data),
        }
    }

    fn rows(&self) -> Rows<'_> {
        match &self.database {
            Some(database) => Rows::Postgres(database),
            None => Rows::File(&self.data),
        }
    }

    /// Waits until everything accepted is final and settled.
    #[track_caller]
    pub(crate) fn drain(&self) {
        const LEFT: &str = "SELECT (SELECT count(*) FROM message WHERE final_at IS NULL)
            + (SELECT count(*) FROM account WHERE held <> 0 OR owed <> 0)
            + (SELECT count(*) FROM entry WHERE state = 'open')
            + (SELECT count(*) FROM refund WHERE state IN ('waiting', 'due'))";
        until_is("what is neither final nor settled", 0, || self.number(LEFT));
    }

    /// Everything is drained and adds up; the program ends well.
    #[track_caller]
    pub(crate) fn finish(&mut self) {
        self.is_finished = true;
        if self.process.is_none() {
            self.serve();
        }
        self.drain();
        let captured = self.number(
            "SELECT (SELECT coalesce(sum(captured), 0) FROM message)
                  + (SELECT coalesce(sum(closed_captured), 0) FROM account)",
        );
        let customers: Vec<String> = self.read("SELECT customer_id FROM customer");
        let debited: u64 = customers.iter().map(|id| self.dodo().debited(id)).sum();
        assert_eq!(i64::try_from(debited).unwrap(), captured, "P3: debited at Dodo");
        let twice = self.resend_stand_in().sent_by_tag("postmeter").into_iter().filter(|(_, n)| *n != 1);
        assert_eq!(twice.collect::<Vec<_>>(), [], "P4: left Resend more than once");
        self.end();
    }

    /// The books add up and the program ends well; what Dodo debited is the test's own business.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        self.is_finished = true;
        self.stop();
        let audit = self.run(&["audit"]);
        assert_eq!(audit.code, Some(0), "{audit:?}");
        assert_eq!(*self.mistakes.lock().unwrap(), [""; 0], "calls that Resend's description does not allow");
        self.no_secret_is_logged();
    }

    fn no_secret_is_logged(&self) {
        let log = self.log();
        let fixed = [
            sandbox::DODO_API_KEY,
            sandbox::RESEND_API_KEY,
            sandbox::WEBHOOK_SECRET,
            sandbox::RESEND_WEBHOOK_SECRET,
            SINK_PASSWORD,
            ADMIN_TOKEN,
        ];
        for secret in fixed.into_iter().chain([self.credential.secret.as_str()]) {
            assert!(!log.contains(secret), "P10: a secret stands in the log:\n{log}");
        }
    }
}

fn copy_files(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if !self.is_finished && !std::thread::panicking() {
            self.finish();
        }
    }
}
