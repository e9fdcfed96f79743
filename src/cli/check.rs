//! `postmeter check`: everything that could keep `serve` from running, one line
//! each, with what to do about it.
//!
//! A problem never ends the check; what cannot be known because of it is left
//! out. Nothing is changed: no database is made or brought up to date, no entry
//! posted, no mail sent. [`machine`] looks at this machine; the other rooms ask a
//! service and judge its answers in pure functions.

mod dkim;
mod dodo;
mod machine;
mod resend;
mod smtp;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

use super::print::plain;
use super::{Format, Place, Printout};
use crate::config::{Config, ConfigError, MissingEnv, Secrets};

/// The longest wait for one answer: an operator sits in front of this.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// It will run, and perhaps not as it was meant.
    Warn,
    /// It will not run, or lose money or mail.
    Fail,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    subject: &'static str,
    message: String,
    hint: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject, message: message.into(), hint: None }
    }

    fn warn(subject: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Warn, subject, message: message.into(), hint: Some(hint.into()) }
    }

    fn fail(subject: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Fail, subject, message: message.into(), hint: Some(hint.into()) }
    }

    /// For a message that says itself what to do.
    fn said(level: Level, subject: &'static str, message: impl ToString) -> Self {
        Self { level, subject, message: message.to_string(), hint: None }
    }

    fn line(&self) -> String {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{level:4} {:13} {}\n", self.subject, plain(&format!("{}{hint}", self.message)))
    }
}

pub(super) async fn run(format: Format, place: &Place<'_>) -> anyhow::Result<Printout> {
    let (mut config, invalid) = Config::load_readable(place.config_path);
    let (secrets, missing) = Secrets::readable_from_env(&config, place.environment);
    let mut findings = settings(&config, invalid);
    findings.extend(environment(&secrets, missing));
    // What is malformed has just been reported; what the file says is tried then.
    config.apply_port(place.environment).unwrap_or_default();
    config.apply_database_url(place.environment).unwrap_or_default();
    findings.push(machine::certificate(&config, place.clock.now()));
    findings.extend(machine::listeners(&config));
    findings.extend(machine::database(&config, &place.clock).await);
    findings.extend(dkim::findings(&config.dkim));
    let (billing, api, relay) = tokio::join!(
        dodo::findings(&secrets, &place.clock),
        resend::findings(&config, &secrets, &place.clock),
        smtp::findings(&config, &secrets),
    );
    findings.extend(billing.into_iter().chain(api).chain(relay));
    answer(&findings, format)
}

fn answer(findings: &[Finding], format: Format) -> anyhow::Result<Printout> {
    let is_success = findings.iter().all(|finding| finding.level != Level::Fail);
    let printout = if format.json {
        Printout::json(&findings)?
    } else {
        Printout::text(findings.iter().map(Finding::line).collect())
    };
    Ok(Printout { is_success, ..printout })
}

fn settings(config: &Config, invalid: Option<ConfigError>) -> Vec<Finding> {
    const SUBJECT: &str = "configuration";
    let mut findings = match invalid {
        None => vec![Finding::ok(SUBJECT, "every key and value is sound")],
        Some(ConfigError::Invalid { path, problems }) => {
            let findings = problems
                .iter()
                .map(|problem| Finding::said(Level::Fail, SUBJECT, format!("{}: {problem}", path.display())))
                .collect();
            if problems.iter().any(|problem| problem.key.is_empty()) {
                // Not a line of it was understood: a doubt about the defaults helps nobody.
                return findings;
            }
            findings
        }
        Some(unreadable @ ConfigError::Unreadable { .. }) => {
            return vec![Finding::fail(
                SUBJECT,
                unreadable.to_string(),
                "name a readable file with --config",
            )];
        }
    };
    findings.extend(config.warnings().iter().map(|text| Finding::said(Level::Warn, SUBJECT, text)));
    findings
}

fn environment(secrets: &Secrets, missing: Option<MissingEnv>) -> Vec<Finding> {
    const SUBJECT: &str = "environment";
    let mut findings = match missing {
        None => vec![Finding::ok(SUBJECT, "every variable that is needed is set")],
        Some(MissingEnv { problems }) => problems.into_iter().map(variable).collect(),
    };
    findings.extend(secrets.warnings().iter().map(|text| Finding::said(Level::Warn, SUBJECT, text)));
    findings
}

/// A problem reads `NAME: what is wrong`.
fn variable(problem: String) -> Finding {
    let unset = problem.strip_suffix(": is not set").map(str::to_owned);
    match unset {
        Some(name) => {
            let hint = format!("set it, or name a file that holds it in {name}_FILE");
            Finding::fail("environment", format!("{name} is not set"), hint)
        }
        None => Finding::said(Level::Fail, "environment", problem),
    }
}
