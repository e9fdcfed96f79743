//! What is known before Dodo is asked: flags, the environment, and the file that an
//! earlier run or a person left.
//!
//! The environment goes before the file, as it does for `serve` where both are given.
//! Where the two disagree nothing is done, unless `--force` says that the file is to follow.

use anyhow::{Context, anyhow, bail};
use secrecy::ExposeSecret;

use super::dodo::{Part, Stock};
use super::env_file::{EnvFile, Setting, Standing};
use super::{SetupArgs, money};
use crate::billing::dodo::catalog::Price;
use crate::cli::Place;
use crate::config::{Config, MissingEnv, Secrets};
use crate::domain::credits::grouped;
use crate::domain::digest::hex;
use crate::random;

/// Without these there is nothing to begin with.
const NEEDED: [&str; 2] = ["DODO_PAYMENTS_API_KEY", "BASE_URL"];
/// These are used where they are set, so they must be sound.
const USED: [&str; 5] = [
    "DODO_PAYMENTS_ENVIRONMENT",
    "DODO_PAYMENTS_BASE_URL",
    "CREDIT_ENTITLEMENT_ID",
    "PLAN_PRODUCT_ID",
    "TOPUP_PRODUCT_ID",
];
const ADMIN_TOKEN: &str = "POSTMETER_ADMIN_TOKEN";
const WEBHOOK_KEY: &str = "DODO_WEBHOOK_KEY";

/// Everything that the run goes by.
pub(super) struct Inputs {
    pub(super) env_file: EnvFile,
    pub(super) config: Config,
    /// What is set now, as `serve` would read it.
    pub(super) secrets: Secrets,
    pub(super) is_live: bool,
    pub(super) plan: Goods,
    pub(super) top_up: Goods,
    /// What the file is to say whatever Dodo answers.
    known: Vec<Setting>,
}

/// What a product is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Goods {
    pub(super) name: String,
    pub(super) price: Price,
    pub(super) credits: u32,
    /// Days after which the credits lapse.
    pub(super) days: u32,
}

impl Inputs {
    pub(super) fn gather(args: &SetupArgs, place: &Place<'_>) -> anyhow::Result<Self> {
        let config = Config::load(place.config_path)?;
        let env_file = EnvFile::read(&args.env_file)?;
        let lookup = |name: &str| looked_up(args, place, &env_file, name);
        let (secrets, missing) = Secrets::readable_from_env(&config, lookup);
        sound(missing.map(|missing| missing.problems).unwrap_or_default())?;
        if !secrets.base_url.starts_with("https://") {
            bail!("BASE_URL must begin with https://: Dodo delivers webhooks to nothing else");
        }
        let mode = said(&lookup, "DODO_PAYMENTS_ENVIRONMENT").unwrap_or_else(|| "test_mode".to_owned());
        let mut known = vec![Setting::new("DODO_PAYMENTS_ENVIRONMENT", mode.as_str())];
        if said(&lookup, "DODO_PAYMENTS_BASE_URL").is_some() {
            known.push(Setting::new("DODO_PAYMENTS_BASE_URL", secrets.dodo_base_url.as_str()));
        }
        known.push(Setting {
            from_file: lookup("DODO_PAYMENTS_API_KEY_FILE").map(absolute).transpose()?,
            ..Setting::new("DODO_PAYMENTS_API_KEY", secrets.dodo_api_key.expose_secret())
        });
        known.push(Setting::new("BASE_URL", secrets.base_url.as_str()));
        for part in Part::ALL {
            let named = part.named_in(&secrets).filter(|id| !id.is_empty());
            known.extend(part.variable().zip(named).map(|(name, id)| Setting::new(name, id)));
        }
        if let Some(token) = &secrets.admin_token
            && env_file.standing(&Setting::new(ADMIN_TOKEN, "")) == Standing::Absent
        {
            known.push(Setting::new(ADMIN_TOKEN, token.expose_secret()));
        }
        let (plan, top_up) = goods(args)?;
        Ok(Self { env_file, config, secrets, is_live: mode == "live_mode", plan, top_up, known })
    }

    /// Whether the file says nothing else than what this run goes by.
    pub(super) fn agree(&self, force: bool) -> anyhow::Result<()> {
        self.known.iter().try_for_each(|setting| setting.line().map(drop))?;
        let different = |setting: &&Setting| self.env_file.standing(setting) == Standing::Different;
        let names: Vec<_> = self.known.iter().filter(different).map(|setting| setting.name).collect();
        self.refuse(&names, force)
    }

    /// The same for the webhook's secret, which only Dodo knows: one that is there and is
    /// not that of the endpoint was meant for another one.
    pub(super) fn agree_on_webhook(&self, stock: &Stock, force: bool) -> anyhow::Result<()> {
        let said = |secret: &str| self.env_file.standing(&Setting::new(WEBHOOK_KEY, secret));
        let is_another = match stock.secret() {
            Some(secret) => said(secret.expose_secret()) == Standing::Different,
            None => said("") != Standing::Absent,
        };
        self.refuse(if is_another { &[WEBHOOK_KEY] } else { &[] }, force)
    }

    fn refuse(&self, names: &[&str], force: bool) -> anyhow::Result<()> {
        if names.is_empty() || force {
            return Ok(());
        }
        bail!(
            "{} in {} says something else than this run goes by; nothing was done. Correct the one or the other, name \
             another file with --env-file, or overwrite it with --force",
            names.join(", "),
            self.env_file.path().display()
        )
    }

    /// The names that the file lacks, or says otherwise, in a dry run.
    pub(super) fn missing(&self, stock: &Stock) -> Vec<&'static str> {
        let is_missing = |setting: &&Setting| self.env_file.standing(setting) != Standing::Same;
        let mut names: Vec<_> = self.known.iter().filter(is_missing).map(|setting| setting.name).collect();
        for (name, value) in stock.settings() {
            let is_said = value.is_some_and(|value| {
                self.env_file.standing(&Setting::new(name, value.expose_secret())) == Standing::Same
            });
            if !is_said && !names.contains(&name) {
                names.push(name);
            }
        }
        if self.secrets.admin_token.is_none() {
            names.push(ADMIN_TOKEN);
        }
        names
    }

    /// Has the file say everything; the names that it did not say before.
    pub(super) fn fill(&mut self, stock: &Stock) -> anyhow::Result<Vec<&'static str>> {
        let mut settings = std::mem::take(&mut self.known);
        let made = stock.settings().into_iter().filter_map(|(name, value)| Some((name, value?)));
        settings.extend(made.map(|(name, value)| Setting::new(name, value.expose_secret())));
        if self.secrets.admin_token.is_none() {
            settings.push(Setting::new(ADMIN_TOKEN, hex(&random::octets::<32>())));
        }
        let mut names = Vec::new();
        for setting in &settings {
            if self.env_file.set(setting)? {
                names.push(setting.name);
            }
        }
        Ok(names)
    }
}

/// The environment's value, else the file's; a name and its `_FILE` are one.
fn looked_up(args: &SetupArgs, place: &Place<'_>, file: &EnvFile, name: &str) -> Option<String> {
    let flag = args.base_url.as_ref().filter(|_| name.trim_end_matches("_FILE") == "BASE_URL");
    if let Some(base_url) = flag {
        return (name == "BASE_URL").then(|| base_url.clone());
    }
    let other = name.strip_suffix("_FILE").map_or_else(|| format!("{name}_FILE"), str::to_owned);
    let set = |name: &str| (place.environment)(name).filter(|value| !value.trim().is_empty());
    match (set(name), set(&other)) {
        (Some(value), _) => Some(value),
        (None, Some(_)) => None,
        (None, None) => file.value(name),
    }
}

/// What a name says, by itself or by its file.
fn said(lookup: &impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    let by_file = || std::fs::read_to_string(lookup(&format!("{name}_FILE"))?).ok();
    lookup(name).or_else(by_file).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Stops at what is wrong with the names that are used here; the others are `check`'s.
fn sound(problems: Vec<String>) -> anyhow::Result<()> {
    let matters = |problem: &String| {
        let (name, what) = problem.split_once(": ").unwrap_or((problem, ""));
        NEEDED.contains(&name) || USED.contains(&name) && what != "is not set"
    };
    let problems: Vec<String> = problems.into_iter().filter(matters).collect();
    if problems.is_empty() { Ok(()) } else { Err(MissingEnv { problems }.into()) }
}

/// A path that means the same wherever the server is started.
fn absolute(path: String) -> anyhow::Result<String> {
    let absolute = std::path::absolute(path.trim()).context("DODO_PAYMENTS_API_KEY_FILE names no file")?;
    absolute.into_os_string().into_string().map_err(|_| anyhow!("DODO_PAYMENTS_API_KEY_FILE is no text"))
}

fn goods(args: &SetupArgs) -> anyhow::Result<(Goods, Goods)> {
    /// A month may have 31 days: with 30 its last day would be one without credits.
    const LONGEST_MONTH: u32 = 31;
    let price =
        |flag: &str, text: &str| money::price(text, &args.currency).map_err(|what| anyhow!("{flag}: {what}"));
    let plan = Goods {
        name: format!("{} emails a month", grouped(i64::from(args.plan_emails))),
        price: price("--plan-price", &args.plan_price)?,
        credits: args.plan_emails,
        days: LONGEST_MONTH,
    };
    let top_up = Goods {
        name: format!("{} emails", grouped(i64::from(args.top_up_emails))),
        price: price("--top-up-price", &args.top_up_price)?,
        credits: args.top_up_emails,
        days: args.top_up_days,
    };
    Ok((plan, top_up))
}
