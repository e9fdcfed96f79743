//! The sandbox put together: the very server, before stand-ins of both services on loopback.
//!
//! Only here is the credential made that everybody knows; `serve` refuses a database that has it.

use std::time::Duration;

use anyhow::Context;

use super::stopping::Signals;
use super::{Running, Sockets, open_store, say};
use crate::cli::SandboxArgs;
use crate::clock::Clock;
use crate::config::{Config, ProofBy};
use crate::crash::CrashAt;
use crate::data_dir;
use crate::domain::caps::Caps;
use crate::domain::credential::Secret;
use crate::domain::ids::{CustomerId, Username};
use crate::domain::sender::SenderPattern;
use crate::sandbox::{self, StandIns};
use crate::store::customer::{ChangeError, Credential};
use crate::store::{Maker, Store};
use crate::tls;

/// Runs everything on loopback with stand-ins for both services.
pub async fn sandbox(args: SandboxArgs) -> anyhow::Result<()> {
    let config = sandbox_config(&args);
    let made = tls::ensure_development(&config.smtp.tls_cert, &config.smtp.tls_key)?;
    if made {
        tracing::info!(path = %config.smtp.tls_cert.display(), "development certificate made");
    }
    let _lock = data_dir::lock(&config.data_dir)?;
    let (store, metrics) = open_store(&config, Maker::Sandbox, CrashAt::default()).await?;
    seed(&store).await?;
    let sockets = Sockets::bind(&config).await?;
    let base_url = format!("http://{}", sockets.http.local_addr()?);
    let settings = sandbox::Settings {
        data_dir: Some(config.data_dir.clone()),
        base_url: Some(base_url.clone()),
        clock: Clock::system(),
    };
    let stand_ins = StandIns::start(settings).await.context("the stand-ins could not be started")?;
    let secrets = stand_ins.secrets(&base_url);
    let mut signals = Signals::listen()?;
    let running =
        Running::start(&config, &secrets, (store, metrics), sockets, Some(stand_ins.pages())).await?;
    stand_ins.answer_at(running.front.1.clone());
    // Read before anyone signs in, so that the first reply can tell the credits.
    running.billing.balance_changed(&CustomerId::parse(sandbox::CUSTOMER_ID)?);
    say(&running.ready_line());
    if let (Some(smtp), Some(smtps)) = (running.smtp, running.smtps) {
        say(&sandbox::welcome(smtp, smtps, running.http));
    }
    let ended = running.run(&mut signals, Duration::ZERO).await;
    stand_ins.stop().await;
    ended
}

fn sandbox_config(args: &SandboxArgs) -> Config {
    let mut config = Config::default();
    config.data_dir.clone_from(&args.data_dir);
    config.database_url.clone_from(&args.database_url);
    config.smtp.submission = vec![args.smtp];
    config.smtp.submissions = vec![args.smtps];
    config.smtp.tls_cert = "certs/sandbox-cert.pem".into();
    config.smtp.tls_key = "certs/sandbox-key.pem".into();
    config.http.listen = args.http;
    config.notices.from = Some(sandbox::NOTICES_FROM.to_owned());
    config.senders.starter_domain = Some(sandbox::STARTER_DOMAIN.to_owned());
    config.senders.proof = ProofBy::Resend;
    config
}

/// The seeded customer, who may send as anybody; safe to repeat.
async fn seed(store: &Store) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let customer_id = CustomerId::parse(sandbox::CUSTOMER_ID)?;
    let (email, name) = (Some(sandbox::CUSTOMER_EMAIL), Some(sandbox::CUSTOMER_NAME));
    match store.add_customer(&customer_id, email, name, now).await {
        Ok(()) | Err(ChangeError::CustomerExists(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let credential = Credential {
        username: Username::parse(sandbox::USERNAME)?,
        customer_id: customer_id.clone(),
        label: Some("sandbox".to_owned()),
        created_at: now,
        revoked_at: None,
        caps: Caps::default(),
        last_used_at: None,
    };
    match store.add_credential(&credential, &Secret::presented(sandbox::SECRET).hash()).await {
        Ok(()) | Err(ChangeError::UsernameTaken(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let standing = store.standing(&credential.username).await?;
    if standing.is_some_and(|standing| standing.is_revoked) {
        tracing::warn!("the sandbox's credential was revoked; delete its data directory to begin anew");
    }
    store.allow_sender(&customer_id, &SenderPattern::Any, now).await?;
    Ok(())
}
