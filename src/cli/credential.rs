//! `postmeter credential`: what customers sign in with.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::print::{self, or_nothing};
use super::{Desk, Format, Printout, one_line_text};
use crate::config::Smtp;
use crate::domain::caps::Caps;
use crate::domain::credential::Secret;
use crate::domain::ids::{CustomerId, Username};
use crate::domain::sender::SenderPolicy;
use crate::random;
use crate::store::customer::Credential;

/// `postmeter credential …`
#[derive(Debug, Args)]
pub struct CredentialArgs {
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
    /// What to do.
    #[command(subcommand)]
    pub action: CredentialAction,
}

/// What to do with credentials.
#[derive(Debug, Subcommand)]
pub enum CredentialAction {
    /// Make a username and a secret; the secret is shown once
    Create {
        /// Whose it is
        #[arg(long = "customer", value_name = "ID")]
        customer_id: CustomerId,
        /// What it is for
        #[arg(long, value_parser = one_line_text)]
        label: Option<String>,
        /// The most messages in a day (UTC)
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        per_day: Option<u32>,
        /// The most messages in a minute
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        per_minute: Option<u32>,
    },
    /// List all credentials, without their secrets
    List,
    /// Let a credential sign in no more
    Revoke {
        /// The credential
        username: Username,
    },
}

/// A credential as programs see it.
#[derive(Serialize)]
pub(super) struct CredentialObject {
    username: Username,
    customer_id: CustomerId,
    label: Option<String>,
    created_at: Timestamp,
    revoked_at: Option<Timestamp>,
    per_day: Option<u32>,
    per_minute: Option<u32>,
    last_used_at: Option<Timestamp>,
}

/// A new credential as programs see it, this once with its secret.
#[derive(Serialize)]
struct CreatedObject<'a> {
    customer_id: CustomerId,
    username: Username,
    secret: &'a str,
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_day: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_minute: Option<u32>,
}

impl From<Credential> for CredentialObject {
    fn from(credential: Credential) -> Self {
        let Credential { username, customer_id, label, created_at, revoked_at, caps, last_used_at } =
            credential;
        let Caps { per_day, per_minute } = caps;
        Self { username, customer_id, label, created_at, revoked_at, per_day, per_minute, last_used_at }
    }
}

impl CredentialObject {
    /// In one line of `customer show`.
    pub(super) fn summary(&self) -> String {
        let label = self.label.as_ref().map(|label| format!(" ({label})")).unwrap_or_default();
        let revoked = self.revoked_at.map(|time| format!(", revoked {time}")).unwrap_or_default();
        format!("{}{label}{revoked}", self.username)
    }
}

pub(super) async fn run(args: CredentialArgs, desk: &Desk) -> anyhow::Result<Printout> {
    let CredentialArgs { format, action } = args;
    match action {
        CredentialAction::Create { customer_id, label, per_day, per_minute } => {
            create(desk, (customer_id, label), Caps { per_day, per_minute }, format).await
        }
        CredentialAction::List => list(desk, format).await,
        CredentialAction::Revoke { username } => {
            let now = desk.clock.now();
            desk.store.revoke_credential(&username, None, now).await?;
            if format.json {
                return Printout::json(&serde_json::json!({ "username": username, "revoked_at": now }));
            }
            Ok(Printout::text(format!("revoked {username}: it signs in no more\n")))
        }
    }
}

async fn create(
    desk: &Desk,
    (customer_id, label): (CustomerId, Option<String>),
    caps: Caps,
    format: Format,
) -> anyhow::Result<Printout> {
    let secret = Secret::generate(random::octets());
    let credential = Credential {
        username: Username::generate(random::octets()),
        customer_id,
        label,
        created_at: desk.clock.now(),
        revoked_at: None,
        caps,
        last_used_at: None,
    };
    desk.store.add_credential(&credential, &secret.hash()).await?;
    let Credential { username, customer_id, label, .. } = credential;
    if format.json {
        let (secret, label) = (secret.reveal(), label.as_deref());
        let Caps { per_day, per_minute } = caps;
        return Printout::json(&CreatedObject { customer_id, username, secret, label, per_day, per_minute });
    }
    let mut shown = vec![
        ("customer", vec![customer_id.to_string()]),
        ("server", servers(&desk.config.smtp)),
        ("username", vec![username.to_string()]),
        ("secret", vec![secret.reveal().to_owned()]),
    ];
    shown.extend(label.map(|label| ("label", vec![label])));
    shown.extend(caps.is_some().then(|| ("at most", vec![caps.to_string()])));
    let mut text = print::pairs(&shown) + "The secret is shown this once; only its hash is kept.\n";
    let listed = desk.config.senders.policy == SenderPolicy::Listed;
    if listed && desk.store.senders(&customer_id).await?.is_empty() {
        text += &print::next_steps(&desk.program, &[format!("sender allow {customer_id} example.com")]);
    }
    Ok(Printout::text(text))
}

/// Where a client connects, as the configuration has it.
fn servers(smtp: &Smtp) -> Vec<String> {
    let line = |port: u16, how: &str| format!("{}:{port} ({how})", smtp.hostname);
    let mut lines: Vec<String> =
        smtp.submission.iter().map(|address| line(address.port(), "STARTTLS")).collect();
    lines.extend(smtp.submissions.iter().map(|address| line(address.port(), "TLS")));
    lines.dedup();
    lines
}

async fn list(desk: &Desk, format: Format) -> anyhow::Result<Printout> {
    let credentials = desk.store.credentials(None).await?;
    if format.json {
        let objects: Vec<CredentialObject> = credentials.into_iter().map(Into::into).collect();
        return Printout::json(&objects);
    }
    if credentials.is_empty() {
        let step = print::next_steps(&desk.program, &["credential create --customer ID".to_owned()]);
        return Ok(Printout::text(format!("there are no credentials yet\n{step}")));
    }
    let rows: Vec<_> = credentials
        .into_iter()
        .map(|credential| {
            [
                credential.username.to_string(),
                credential.customer_id.to_string(),
                credential.created_at.to_string(),
                or_nothing(credential.last_used_at),
                or_nothing(credential.revoked_at),
                or_nothing(Some(credential.caps).filter(|caps| caps.is_some())),
                or_nothing(credential.label),
            ]
        })
        .collect();
    let head = ["USERNAME", "CUSTOMER", "CREATED", "LAST USED", "REVOKED", "AT MOST", "LABEL"];
    Ok(Printout::text(print::table(head, &rows)))
}
