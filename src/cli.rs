//! The command line: what can be typed, and the commands that do one thing and end.
//!
//! `serve` and `sandbox` are only parsed here; `main` hands them to `app`. Every
//! other command is an [`Errand`]: it opens what it needs, works safely beside a
//! running server (the database is shared, and every write is one transaction),
//! and gives back a [`Printout`] rather than print, so that a reader who went away
//! changes nothing about the exit code and tests need no process.
//!
//! This room must not know SQL, nor the wire formats of Dodo and Resend.

mod audit;
mod check;
mod credential;
mod customer;
mod entry;
mod explain;
mod migrate;
mod print;
mod queue;
mod sender;
mod setup;
mod suppression;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use secrecy::ExposeSecret;

use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl, Secrets};
use crate::store::{DATABASE_FILE, Maker, Store, StoreSettings, server};
use crate::telemetry::{LogFormat, Metrics};

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "postmeter",
    version,
    about = "A postage meter for SMTP: a relay that customers pay for in advance",
    after_help = "Begin with `postmeter sandbox`: it needs no account and no configuration.",
    disable_help_subcommand = true
)]
pub struct CommandLine {
    /// Configuration file [default: ./postmeter.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines on stderr are written: text or json
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on loopback, without an account or a configuration
    Sandbox(SandboxArgs),
    /// Run the real thing
    Serve,
    /// A command that does one thing and ends.
    #[command(flatten)]
    Errand(Errand),
}

/// Where the sandbox listens and lives.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SandboxArgs {
    /// SMTP with STARTTLS; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2525")]
    pub smtp: SocketAddr,
    /// SMTP under implicit TLS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2465")]
    pub smtps: SocketAddr,
    /// HTTP: the web page, the inbox, the API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000")]
    pub http: SocketAddr,
    /// Where its state is kept between runs
    #[arg(long, value_name = "DIR", default_value = "sandbox-data")]
    pub data_dir: PathBuf,
    /// A PostgreSQL database to keep its mail and credits in
    #[arg(long, value_name = "URL", value_parser = DatabaseUrl::parse)]
    pub database_url: Option<DatabaseUrl>,
}

/// A command that does one thing and ends.
#[derive(Debug, Subcommand)]
pub enum Errand {
    /// Make at Dodo what is sold, and its webhook, and write the environment that `serve` needs
    Setup(Box<setup::SetupArgs>),
    /// Say what is wrong with configuration, certificate, ports, database, Dodo and upstream
    Check(Format),
    /// Add, show, suspend and resume customers
    Customer(customer::CustomerArgs),
    /// Create, list and revoke the credentials that customers sign in with
    Credential(credential::CredentialArgs),
    /// Say which addresses and domains a customer may send from
    Sender(sender::SenderArgs),
    /// List, add and remove the addresses that a customer's mail is not taken for
    Suppression(suppression::SuppressionArgs),
    /// List and decide ledger entries of which nobody knows whether Dodo applied them
    Entry(entry::EntryArgs),
    /// List and show what waits to be sent, send it now or give it up
    Queue(queue::QueueArgs),
    /// Say what would become of a message: the calls to Resend, what is lost or changed; exit 1 if refused
    Explain(explain::ExplainArgs),
    /// Prove that messages, holds, captures and settlements add up; exit 1 if not
    Audit(audit::AuditArgs),
    /// Move everything from a SQLite file into an empty PostgreSQL database, check it on both sides, hand over
    Migrate(migrate::MigrateArgs),
}

/// How the answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct Format {
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
}

/// What an errand finds around it.
pub struct Place<'a> {
    /// `--config`.
    pub config_path: Option<&'a Path>,
    /// Looks one environment variable up.
    pub environment: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The time.
    pub clock: Clock,
    /// Asks the person at the terminal yes or no; `None`: nobody sits there.
    pub ask: &'a (dyn Fn(&str) -> Option<bool> + Sync),
}

impl Place<'_> {
    /// Asks before something that cannot be undone. `Ok`: the risk is taken.
    fn confirm(&self, question: &str) -> anyhow::Result<()> {
        match (self.ask)(question) {
            Some(true) => Ok(()),
            Some(false) => bail!("nothing was changed"),
            None => bail!("{question} Nothing was changed; --yes says that the risk is known"),
        }
    }
}

/// What an errand has to say, and whether all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printout {
    /// For stdout, with its last newline.
    pub text: String,
    /// `false`: exit 1.
    pub is_success: bool,
}

/// Does what was asked for.
pub async fn run(errand: Errand, place: &Place<'_>) -> anyhow::Result<Printout> {
    match errand {
        Errand::Check(format) => check::run(format, place).await,
        Errand::Setup(args) => setup::run(*args, place).await,
        Errand::Audit(args) => audit::run(args, place).await,
        Errand::Explain(args) => explain::run(&args, place),
        Errand::Entry(args) => entry::run(args, place).await,
        Errand::Migrate(args) => migrate::run(args, place).await,
        Errand::Customer(args) => customer::run(args, place).await,
        Errand::Credential(args) => credential::run(args, &Desk::open(place).await?).await,
        Errand::Queue(args) => queue::run(args, place).await,
        Errand::Sender(args) => sender::run(args, &Desk::open(place).await?).await,
        Errand::Suppression(args) => suppression::run(args, &Desk::open(place).await?).await,
    }
}

/// What `serve` needs, or everything that is wrong with file and environment at once.
pub fn serve_settings(
    config_path: Option<&Path>,
    environment: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<(Config, Secrets)> {
    let (mut config, invalid) = Config::load_readable(config_path);
    let (secrets, missing) = Secrets::readable_from_env(&config, &environment);
    match (invalid, missing) {
        (None, None) => {
            config.apply_port(&environment)?;
            config.apply_database_url(&environment)?;
            Ok((config, secrets))
        }
        (Some(invalid), None) => Err(invalid.into()),
        (None, Some(missing)) => Err(missing.into()),
        (Some(invalid), Some(missing)) => bail!("{invalid}\n{missing}"),
    }
}

/// An error with its causes, joined by `: `. A cause that the error before it has
/// already told is not told twice.
pub fn one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |mut line, cause| {
        if !line.ends_with(&cause) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&cause);
        }
        line
    })
}

/// The file, and the database that the environment names.
fn configured(place: &Place<'_>) -> anyhow::Result<Config> {
    let mut config = Config::load(place.config_path)?;
    config.apply_database_url(place.environment)?;
    Ok(config)
}

/// An open database and what is needed to work at it.
struct Desk {
    store: Store,
    config: Config,
    clock: Clock,
    /// `postmeter`, with the `--config` that was given: how a next step begins.
    program: String,
}

impl Desk {
    /// Opens the database, which must be there: an answer from a database that was
    /// made for the question would be true and worth nothing.
    async fn open(place: &Place<'_>) -> anyhow::Result<Self> {
        let config = configured(place)?;
        let is_there = match &config.database_url {
            None => config.data_dir.join(DATABASE_FILE).try_exists()?,
            Some(url) => server::is_there(url.secret().expose_secret()).await?,
        };
        if !is_there {
            let place = match &config.database_url {
                None => format!("in {}; check data_dir", config.data_dir.display()),
                Some(_) => "of ours at database_url; check it".to_owned(),
            };
            bail!(
                "there is no database {place} in the configuration (`postmeter serve` or `postmeter customer add` \
                 makes the database)"
            );
        }
        Self::with(config, place).await
    }

    /// Opens the database and makes it if there is none: customers may be prepared
    /// before the server runs for the first time.
    async fn open_or_make(place: &Place<'_>) -> anyhow::Result<Self> {
        Self::with(configured(place)?, place).await
    }

    async fn with(config: Config, place: &Place<'_>) -> anyhow::Result<Self> {
        let settings = StoreSettings {
            data_dir: config.data_dir.clone(),
            database_url: config.database_url.as_ref().map(DatabaseUrl::secret),
            maker: Maker::Command,
            low_balance_credits: config.billing.low_balance_credits,
            min_free_bytes: 0,
        };
        let store = Store::open(&settings, Metrics::new()).await?;
        let option = place.config_path.map(|path| format!(" --config {}", print::shell_word(path)));
        let program = format!("postmeter{}", option.unwrap_or_default());
        Ok(Self { store, config, clock: place.clock.clone(), program })
    }
}

/// A text that people typed and others will read in one line of a reply or a list.
fn one_line_text(text: &str) -> Result<String, String> {
    const MOST_CHARACTERS: usize = 200;
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("it must be one line without control characters".to_owned());
    }
    if text.chars().count() > MOST_CHARACTERS {
        return Err(format!("it is longer than {MOST_CHARACTERS} characters"));
    }
    Ok(text.to_owned())
}
