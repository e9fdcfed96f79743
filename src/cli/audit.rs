//! `postmeter audit`: the proof, printed.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use secrecy::ExposeSecret;

use super::{Desk, Format, Place, Printout, print};
use crate::billing::dodo::{Dodo, DodoSettings};
use crate::billing::reconcile::{Auditor, Difference};
use crate::config::Secrets;
use crate::store::account::Totals;
use crate::store::audit::Finding;
use crate::store::doubt::DoubtfulEntry;

/// What is audited.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Compare every customer's settled entries with Dodo's own ledger too, a page
    /// at a time (two calls a second at most)
    #[arg(long)]
    dodo: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(args: AuditArgs, place: &Place<'_>) -> anyhow::Result<Printout> {
    let desk = Desk::open(place).await?;
    let mut findings = desk.store.audit().await?;
    let mut remarks = String::new();
    if args.dodo {
        let (found, told) = against_dodo(&desk, place).await?;
        findings.extend(found);
        remarks = told;
    }
    let is_success = findings.is_empty();
    let printout = if args.format.json {
        Printout::json(&findings)?
    } else if is_success {
        let doubtful = desk.store.doubtful_entries().await?;
        Printout::text(all_well(&desk.store.totals().await?) + &in_doubt(&doubtful) + &remarks)
    } else {
        Printout::text(listed(findings) + &remarks)
    };
    Ok(Printout { is_success, ..printout })
}

/// Customer by customer, what Dodo's ledger shows otherwise: what is wrong, and a line
/// for each thing that only should be known.
async fn against_dodo(desk: &Desk, place: &Place<'_>) -> anyhow::Result<(Vec<Finding>, String)> {
    let (secrets, _) = Secrets::readable_from_env(&desk.config, place.environment);
    if secrets.dodo_api_key.expose_secret().is_empty() || secrets.credit_entitlement_id.is_empty() {
        bail!("set DODO_PAYMENTS_API_KEY and CREDIT_ENTITLEMENT_ID, as for `postmeter serve`");
    }
    let dodo = Dodo::new(DodoSettings {
        base_url: secrets.dodo_base_url,
        api_key: secrets.dodo_api_key,
        entitlement_id: secrets.credit_entitlement_id,
        timeout: Duration::from_secs(desk.config.billing.dodo_timeout_s),
        clock: desk.clock.clone(),
    })?;
    let auditor = Auditor::new(desk.store.clone(), dodo, &desk.clock);
    let (mut findings, mut remarks) = (Vec::new(), String::new());
    for customer in desk.store.customers().await? {
        let customer_id = customer.customer_id;
        for Difference { entry_id, problem, credits, is_remark } in auditor.differences(&customer_id).await? {
            let entry = entry_id.map(|entry_id| format!(" {entry_id}")).unwrap_or_default();
            let row = format!("{customer_id}{entry}");
            if is_remark {
                remarks += &format!("remark: {row}, {credits} credits: {problem}\n");
            } else {
                findings.push(Finding { table: "dodo", row, problem, credits: Some(credits) });
            }
        }
    }
    Ok((findings, remarks))
}

/// Nothing disagrees, and yet somebody should know.
fn in_doubt(doubtful: &[DoubtfulEntry]) -> String {
    let line = |DoubtfulEntry { entry, why, .. }: &DoubtfulEntry| {
        let why = why.as_deref().unwrap_or("it has not been looked up yet");
        let (entry_id, customer_id, amount) = (&entry.entry_id, &entry.customer_id, entry.amount);
        print::plain(&format!("in doubt: {entry_id} of {customer_id}, {amount} credits, still owed: {why}"))
            + "\n"
    };
    doubtful.iter().map(line).collect()
}

fn all_well(totals: &Totals) -> String {
    let Totals { held, owed, parts_queued, parts_held, entries_open } = totals;
    format!(
        "ok: {held} credits held, {owed} owed, {parts_queued} parts queued, {parts_held} parts held, \
         {entries_open} entries open\n"
    )
}

fn listed(findings: Vec<Finding>) -> String {
    let rows: Vec<_> = findings
        .into_iter()
        .map(|finding| {
            let credits = finding.credits.map(|credits| credits.to_string()).unwrap_or_default();
            [finding.table.to_owned(), finding.row, credits, finding.problem.to_owned()]
        })
        .collect();
    print::table(["TABLE", "ROW", "CREDITS", "PROBLEM"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_table_row_and_problem() {
        let finding =
            Finding { table: "account", row: "cus_1".to_owned(), problem: "held is wrong", credits: Some(2) };
        assert_eq!(
            listed(vec![finding]),
            "TABLE    ROW    CREDITS  PROBLEM\naccount  cus_1  2        held is wrong\n"
        );
    }
}
