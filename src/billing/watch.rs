//! The watch over the books: now and then, on the running system, whether the sums
//! still agree with the rows that they are sums of. They must, whatever happened;
//! where they do not, money was moved by something that may not, and somebody has
//! to look.

use super::{Billing, Tools};
use crate::store::audit::Finding;
use crate::store::node::Duty;

/// Findings written to the log at most.
const LOGGED: usize = 10;

impl Billing {
    /// Compares the sums at the start and then now and then, until it is told to stop.
    pub(super) async fn watch_books(self) {
        let stop = self.0.tools.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.compare_sums() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.0.settings.audit_interval) => {}
            }
        }
    }

    async fn compare_sums(&self) {
        let Tools { store, clock, metrics, .. } = &self.0.tools;
        match store.takes(Duty::Books, clock.now(), self.0.settings.audit_interval).await {
            Ok(true) => {}
            // Another process tells.
            Ok(false) => return metrics.set_ledger_drift(0),
            Err(error) => return error.tell("the books could not be audited"),
        }
        let drift = match store.drift().await {
            Ok(drift) => drift,
            Err(error) => {
                error.tell("the books could not be audited");
                return;
            }
        };
        metrics.set_ledger_drift(u64::try_from(drift.credits).unwrap_or(u64::MAX));
        for Finding { table, row, problem, credits } in drift.findings.into_iter().take(LOGGED) {
            tracing::error!(
                table,
                row = ?row,
                problem,
                amount = credits,
                "the books disagree with themselves; `postmeter audit` shows everything"
            );
        }
    }
}
