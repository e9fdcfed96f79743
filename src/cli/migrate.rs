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
    /// The SQLite file, whatever its name is, or its directory [default: the one in data_dir]
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
    let file = match args.from {
        Some(from) if from.is_dir() => from.join(DATABASE_FILE),
        Some(from) => from,
        None => config.data_dir.join(DATABASE_FILE),
    };
    if !file.try_exists()? {
        bail!("there is no database at {}", file.display());
    }
    let data_dir = directory_of(&file);
    let url = args.to.or(config.database_url).context("say where to: --to postgres://…, or DATABASE_URL")?;
    let _lock = data_dir::lock(&data_dir)?;
    let from = Store::open_to_move(&file).await?;
    let settings = StoreSettings {
        data_dir,
        database_url: Some(url.secret()),
        maker: Maker::Move,
        low_balance_credits: 0,
        min_free_bytes: 0,
    };
    let to = Store::open(&settings, Metrics::new()).await?;
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

/// Where a file lies, and the lock of whoever serves it.
fn directory_of(file: &Path) -> PathBuf {
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
    directory.map_or_else(|| PathBuf::from("."), PathBuf::from)
}
