//! How a system is set up before it starts: its configuration, line by line.

use std::collections::BTreeMap;

use postmeter::tls;

use super::Meter;
use super::database::Database;
use super::directory::Directory;
use super::meter::{CUSTOMER_EMAIL, CUSTOMER_ID};
use super::process::ON_TESTS;
use super::sink::{Security, Sink};

/// The credits that the customer has unless a test says otherwise.
const CREDITS: u64 = 10;

/// Where mail leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// The stand-in for Resend.
    Resend,
    /// The scripted SMTP server.
    Smtp(Security),
}

/// How the system is set up, before it starts.
#[derive(Debug)]
pub(crate) struct Plan {
    upstream: Upstream,
    credits: Option<u64>,
    sections: BTreeMap<&'static str, Vec<String>>,
    arguments: Vec<&'static str>,
}

impl Meter {
    /// With Resend as its upstream.
    pub(crate) fn resend() -> Plan {
        Self::with(Upstream::Resend)
    }

    /// With an SMTP server as its upstream, in the clear.
    pub(crate) fn smtp() -> Plan {
        Self::with(Upstream::Smtp(Security::None))
    }

    /// With this upstream.
    pub(crate) fn with(upstream: Upstream) -> Plan {
        Plan { upstream, credits: Some(CREDITS), sections: BTreeMap::new(), arguments: Vec::new() }
    }
}

impl Plan {
    /// Another number of credits; `None`: Dodo has never heard of any.
    pub(crate) fn credits(mut self, credits: impl Into<Option<u64>>) -> Self {
        self.credits = credits.into();
        self
    }

    /// One more line of a section of the configuration, or another one in its place; what has
    /// no name stands above all sections.
    pub(crate) fn set(mut self, section: &'static str, line: &str) -> Self {
        self.sections.entry(section).or_default().push(line.to_owned());
        self
    }

    /// One more argument of `serve`.
    pub(crate) fn argument(mut self, argument: &'static str) -> Self {
        self.arguments.push(argument);
        self
    }

    /// Everything is there, and the program does not run yet.
    pub(crate) fn prepare(mut self) -> Meter {
        let directory = Directory::new();
        let security = match self.upstream {
            Upstream::Resend => Security::None,
            Upstream::Smtp(security) => security,
        };
        let sink = Sink::start(security, &directory.join("sink.pem"));
        let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        tls::ensure_development(&cert, &key).unwrap();
        let kind = if self.upstream == Upstream::Resend { "resend" } else { "smtp" };
        let fixed = [
            ("smtp", "hostname = \"smtp.example.com\"".to_owned()),
            ("smtp", "submission = [\"127.0.0.1:0\"]".to_owned()),
            ("smtp", "submissions = [\"127.0.0.1:0\"]".to_owned()),
            ("smtp", format!("tls_cert = {cert:?}")),
            ("smtp", format!("tls_key = {key:?}")),
            ("http", "listen = \"127.0.0.1:0\"".to_owned()),
            ("notices", "from = \"Postmeter <postmaster@example.com>\"".to_owned()),
            ("upstream", format!("kind = {kind:?}")),
            // Few tests are about notices, and all count mails.
            ("billing", "low_balance_credits = 0".to_owned()),
            ("notices", "welcome = false".to_owned()),
            ("notices", "out_of_credit = false".to_owned()),
            ("notices", "top_up = false".to_owned()),
            ("queue", "retry_min_s = 1".to_owned()),
            ("queue", "lease_s = 5".to_owned()),
        ];
        for (section, line) in fixed {
            let key = line.split(' ').next().unwrap();
            let lines = self.sections.entry(section).or_default();
            if !lines.iter().any(|set| set.split(' ').next() == Some(key)) {
                lines.push(line);
            }
        }
        if security == Security::None && self.upstream != Upstream::Resend {
            self.sections.entry("upstream").or_default().push("allow_plaintext = true".to_owned());
        }
        let database = Database::new();
        let configuration = self.configuration(&directory, database.as_ref());
        std::fs::write(directory.join("postmeter.toml"), configuration).unwrap();
        Meter::new((directory, database), sink, self.credits, self.arguments)
    }

    /// The same at a database that is the test's own, and empty.
    pub(crate) fn prepare_at(self, database_url: &str) -> Meter {
        let mut meter = self.prepare();
        meter.set_environment("DATABASE_URL", database_url);
        // Clusters of tests do not wait for their disk.
        meter.set_environment(ON_TESTS, "postgres");
        meter.says(&["customer", "add", CUSTOMER_ID, "--email", CUSTOMER_EMAIL, "--name", "Ann"]);
        meter.says(&["sender", "allow", CUSTOMER_ID, "example.com"]);
        meter.credential = meter.new_credential();
        meter
    }

    /// The same, and it runs.
    pub(crate) fn start(self) -> Meter {
        let mut meter = self.prepare();
        meter.serve();
        meter
    }

    fn configuration(&self, directory: &Directory, database: Option<&Database>) -> String {
        let mut text = format!("data_dir = {:?}\n", directory.join("data"));
        if let Some(database) = database {
            text += &format!("database_url = {:?}\n", database.url());
        }
        for (section, lines) in &self.sections {
            let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
            text += &format!("{header}{}\n", lines.join("\n"));
        }
        text
    }
}
