//! What a run has to say: what is at Dodo, what the file says now, and what is left to a
//! person, with the values that they need. No secret is among them.

use serde::Serialize;

use super::dodo::{Item, Stock};
use super::inputs::{Goods, Inputs};
use super::money;
use crate::cli::print::{self, or_nothing, plain};
use crate::cli::{Format, Printout};
use crate::domain::credits::grouped;

/// What became of the file; names only.
pub(super) enum File {
    WouldWrite(Vec<&'static str>),
    Written(Vec<&'static str>),
    Unchanged,
}

/// The answer for programs.
#[derive(Serialize)]
struct Answer<'a> {
    mode: &'static str,
    host: &'a str,
    dry_run: bool,
    /// Whether everything is as it was asked for.
    ok: bool,
    items: Vec<ItemObject<'a>>,
    env_file: FileObject,
    remarks: &'a [String],
    steps: Vec<String>,
}

#[derive(Serialize)]
struct ItemObject<'a> {
    what: &'static str,
    state: &'static str,
    id: Option<&'a str>,
    name: &'a str,
    differences: &'a [String],
}

#[derive(Serialize)]
struct FileObject {
    path: String,
    state: &'static str,
    names: Vec<&'static str>,
}

pub(super) fn answer(
    inputs: &Inputs,
    stock: &Stock,
    file: &File,
    format: Format,
) -> anyhow::Result<Printout> {
    let is_success = stock.items().iter().all(|item| item.differences.is_empty());
    let answer = Answer {
        mode: if inputs.is_live { "live_mode" } else { "test_mode" },
        host: &inputs.secrets.dodo_base_url,
        dry_run: matches!(file, File::WouldWrite(_)),
        ok: is_success,
        items: stock.items().into_iter().map(ItemObject::from).collect(),
        env_file: file_object(inputs, file),
        remarks: &stock.remarks,
        steps: super::steps::left(inputs),
    };
    let printout = if format.json { Printout::json(&answer)? } else { Printout::text(text(&answer, inputs)) };
    Ok(Printout { is_success, ..printout })
}

impl<'a> From<&'a Item> for ItemObject<'a> {
    fn from(item: &'a Item) -> Self {
        let state = match (&item.id, item.is_made) {
            (None, _) => "missing",
            (Some(_), true) => "made",
            (Some(_), false) => "found",
        };
        Self {
            what: item.part.what(),
            state,
            id: item.id.as_deref(),
            name: &item.name,
            differences: &item.differences,
        }
    }
}

fn file_object(inputs: &Inputs, file: &File) -> FileObject {
    let (state, names) = match file {
        File::WouldWrite(names) => ("would be written", names.clone()),
        File::Written(names) => ("written", names.clone()),
        File::Unchanged => ("unchanged", Vec::new()),
    };
    FileObject { path: inputs.env_file.path().display().to_string(), state, names }
}

fn text(answer: &Answer<'_>, inputs: &Inputs) -> String {
    let mut text = if inputs.is_live {
        format!("LIVE MODE at {}: what is sold there takes real money\n", plain(answer.host))
    } else {
        format!("test mode at {}: no real money\n", plain(answer.host))
    };
    text += &format!("plan    {}\n", offered(&inputs.plan, " a month"));
    text += &format!("top-up  {}\n\n", offered(&inputs.top_up, ""));
    let rows: Vec<_> = answer
        .items
        .iter()
        .map(|item| [item.state.to_owned(), item.what.to_owned(), or_nothing(item.id), item.name.to_owned()])
        .collect();
    text += &print::table(["STATE", "WHAT", "ID", "NAME"], &rows);
    for item in &answer.items {
        for difference in item.differences {
            let line = format!(
                "DIFFERS: the {} {}: {difference}; it was left as it is: change it in Dodo's dashboard, or ask for what \
                 is there",
                item.what,
                or_nothing(item.id)
            );
            text += &format!("{}\n", plain(&line));
        }
    }
    for remark in answer.remarks {
        text += &format!("note: {}\n", plain(remark));
    }
    let path = plain(&answer.env_file.path);
    text += &match (answer.env_file.state, answer.env_file.names.join(", ")) {
        ("unchanged", _) => format!("\n{path} says all of it already\n"),
        (state, names) if names.is_empty() => format!("\n{path} {state} (mode 0600)\n"),
        (state, names) => format!("\n{path} {state} (mode 0600): {names}\n"),
    };
    if answer.dry_run {
        return text + "\nthis was a dry run: nothing was made, nothing was written\n";
    }
    text += "\nleft to do by hand:\n";
    for (index, step) in answer.steps.iter().enumerate() {
        text += &format!("{:2}. {}\n", index + 1, plain(step));
    }
    text
}

fn offered(goods: &Goods, term: &str) -> String {
    format!("{} emails for {}{term}", grouped(i64::from(goods.credits)), money::told(&goods.price))
}
