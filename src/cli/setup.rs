//! `postmeter setup`: from a key and a URL to everything that Dodo must have, and to the
//! environment that `serve` is started in.
//!
//! It looks before it makes: what an earlier run made is found again, so it may be run as
//! often as one likes, and one that was broken off is finished by the next. It changes and
//! deletes nothing: what is there and not as it was asked for is told, with exit 1. All
//! that speaks against it is known before the first thing is made.

mod dodo;
mod env_file;
mod inputs;
mod money;
mod steps;
mod told;

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::{Format, Place, Printout};
use crate::billing::dodo::{Dodo, DodoError, DodoSettings, KeyRights, LIVE_HOST};
use dodo::Stock;
use inputs::Inputs;

/// No entitlement has this id: the key is tried on it.
const NO_ENTITLEMENT: &str = "postmeter-setup-no-such-entitlement";

/// What is to be sold, and where.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// Public https URL of the HTTP side [default: BASE_URL]
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// The file with the environment: read, and written with mode 0600
    #[arg(long, value_name = "FILE", default_value = "postmeter.env")]
    env_file: PathBuf,
    /// Currency of both prices
    #[arg(long, value_name = "CODE", default_value = "USD")]
    currency: String,
    /// Price of the plan, a month, with all its decimals
    #[arg(long, value_name = "AMOUNT", default_value = "19.00")]
    plan_price: String,
    /// Credits that the plan grants every month
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    plan_emails: u32,
    /// Price of the top-up, with all its decimals
    #[arg(long, value_name = "AMOUNT", default_value = "9.00")]
    top_up_price: String,
    /// Credits that the top-up grants
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    top_up_emails: u32,
    /// Days after which a top-up's credits lapse
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    top_up_days: u32,
    /// Make nothing, write nothing; say what would be
    #[arg(long)]
    dry_run: bool,
    /// Overwrite what the file with the environment says otherwise
    #[arg(long)]
    force: bool,
    /// Make what is missing in live mode without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(args: SetupArgs, place: &Place<'_>) -> anyhow::Result<Printout> {
    let mut inputs = Inputs::gather(&args, place)?;
    inputs.agree(args.force)?;
    let dodo = Dodo::new(DodoSettings {
        base_url: inputs.secrets.dodo_base_url.clone(),
        api_key: inputs.secrets.dodo_api_key.clone(),
        entitlement_id: NO_ENTITLEMENT.to_owned(),
        timeout: super::check::TIMEOUT,
        clock: place.clock.clone(),
    })?;
    usable(dodo.key_rights().await, &inputs.secrets.dodo_base_url)?;
    let mut stock = Stock::find(&dodo, &inputs).await?;
    inputs.agree_on_webhook(&stock, args.force)?;
    if args.dry_run {
        let names = inputs.missing(&stock);
        return told::answer(&inputs, &stock, &told::File::WouldWrite(names), args.format);
    }
    inputs.env_file.is_writable()?;
    if inputs.is_live && stock.is_incomplete() && !args.yes {
        place.confirm(
            "LIVE MODE: this makes products that take real money. Are the prices right, and has Dodo agreed to \
             your business?",
        )?;
    }
    stock.complete(&dodo, &inputs).await?;
    let names = inputs.fill(&stock)?;
    let file = if inputs.env_file.write()? { told::File::Written(names) } else { told::File::Unchanged };
    told::answer(&inputs, &stock, &file, args.format)
}

/// The key must read and write here.
fn usable(rights: Result<KeyRights, DodoError>, base_url: &str) -> anyhow::Result<()> {
    match rights? {
        KeyRights::Writes => Ok(()),
        KeyRights::ReadsOnly => bail!(
            "the API key may only read; make one with write access (\"Enable write access\") in Dodo's dashboard and \
             put it in DODO_PAYMENTS_API_KEY"
        ),
        KeyRights::OtherHost(host) => {
            let mode = if host == LIVE_HOST { "live_mode" } else { "test_mode" };
            bail!(
                "the API key is one of {mode}, and {base_url} is not its host; set DODO_PAYMENTS_ENVIRONMENT={mode}, \
                 or use a key of the other mode"
            )
        }
        KeyRights::Bad => {
            bail!(
                "{base_url} refuses the API key; copy it again from Dodo's dashboard, in the mode that is meant"
            )
        }
    }
}
