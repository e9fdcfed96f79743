//! `postmeter audit`: the proof, printed.

use super::{Desk, Format, Printout, print};
use crate::store::account::Totals;
use crate::store::audit::Finding;

pub(super) async fn run(format: Format, desk: &Desk) -> anyhow::Result<Printout> {
    let findings = desk.store.audit().await?;
    let is_success = findings.is_empty();
    let printout = if format.json {
        Printout::json(&findings)?
    } else if is_success {
        Printout::text(all_well(&desk.store.totals().await?))
    } else {
        Printout::text(listed(findings))
    };
    Ok(Printout { is_success, ..printout })
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
        .map(|finding| [finding.table.to_owned(), finding.row, finding.problem.to_owned()])
        .collect();
    print::table(["TABLE", "ROW", "PROBLEM"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_table_row_and_problem() {
        let finding = Finding { table: "account", row: "cus_1".to_owned(), problem: "held is wrong" };
        assert_eq!(listed(vec![finding]), "TABLE    ROW    PROBLEM\naccount  cus_1  held is wrong\n");
    }
}
