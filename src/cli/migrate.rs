//! `postmeter migrate`: an installation leaves its SQLite file for PostgreSQL.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::{Format, Place, Printout, configured, print};
use crate::config::DatabaseUrl;
use crate::data_dir;
use crate::domain::digest::hex;
use crate::random;
use crate::store::{DATABASE_FILE, Maker, Store, StoreSettings};
use crate::telemetry::Metrics;

/// From where, and where to.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The SQLite file [default: the one in data_dir]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// An empty PostgreSQL database, postgres://… [default: DATABASE_URL, database_url]
    #[arg(long, value_name = "URL", value_parser = DatabaseUrl::parse)]
    to: Option<DatabaseUrl>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(args: MigrateArgs, place: &Place<'_>) -> anyhow::Result<Printout> {
    let config = configured(place)?;
    let data_dir = match &args.from {
        Some(from) => directory_of(from)?,
        None => config.data_dir.clone(),
    };
    if !data_dir.join(DATABASE_FILE).try_exists()? {
        bail!("there is no database in {}", data_dir.display());
    }
    let url = args.to.or(config.database_url).context("say where to: --to postgres://…, or DATABASE_URL")?;
    let _lock = data_dir::lock(&data_dir)?;
    let open = async |database_url| {
        let settings = StoreSettings {
            data_dir: data_dir.clone(),
            database_url,
            maker: Maker::Move,
            low_balance_credits: 0,
            min_free_bytes: 0,
        };
        Store::open(&settings, Metrics::new()).await
    };
    let (from, to) = (open(None).await?, open(Some(url.secret())).await?);
    let name = url.name()?;
    let moved = from.move_to(&to, &hex(&random::octets::<16>()), &name).await?;
    if args.format.json {
        return Printout::json(&moved);
    }
    let rows: Vec<_> = moved.iter().map(|moved| [moved.table.to_owned(), moved.rows.to_string()]).collect();
    Ok(Printout::text(
        print::table(["TABLE", "ROWS"], &rows)
            + &format!(
                "ok: both databases add up, and everything is in {name} now; set database_url to it. The file stays \
                 as it was, and cannot be served any more\n"
            ),
    ))
}

/// The directory of a database that was named by its file or by the directory.
fn directory_of(from: &Path) -> anyhow::Result<PathBuf> {
    if from.is_dir() {
        return Ok(from.to_owned());
    }
    if from.file_name().is_none_or(|name| name != DATABASE_FILE) {
        bail!("{} is not the database of a data_dir: that is called {DATABASE_FILE}", from.display());
    }
    let directory = from.parent().filter(|directory| !directory.as_os_str().is_empty());
    Ok(directory.map_or_else(|| PathBuf::from("."), PathBuf::from))
}
