//! Balances of many at once: the list call answers a hundred customers, and is
//! made where there are more questions than calls.
//!
//! A client's question makes its own call while the budget has one. When it has
//! none, questions gather, and the first whose turn comes asks for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::Billing;
use super::budget::Purpose;
use super::dodo::{BalanceAnswer, DodoError};
use crate::domain::ids::CustomerId;
use crate::telemetry::DodoCall;

/// So many questions at once are asked with the list call.
pub(super) const LIST_FROM: usize = 5;
/// A page that answers fewer questions costs more than it saves.
const WORTH_A_PAGE: usize = 2;

/// Questions that wait for a call, one a customer. What comes back is the balance,
/// or `None` if Dodo did not answer; nothing at all: ask for yourself.
#[derive(Debug, Default)]
pub(super) struct Crowd(Mutex<BTreeMap<CustomerId, oneshot::Sender<Option<i64>>>>);

type Waiting = BTreeMap<CustomerId, oneshot::Sender<Option<i64>>>;

impl Crowd {
    fn join(&self, customer_id: &CustomerId) -> oneshot::Receiver<Option<i64>> {
        let (answer, answered) = oneshot::channel();
        self.waiting().insert(customer_id.clone(), answer);
        answered
    }

    /// The whole crowd, if it is one.
    fn disperse(&self, own: &CustomerId) -> Option<Waiting> {
        let mut waiting = self.waiting();
        if waiting.len() >= LIST_FROM && waiting.contains_key(own) {
            return Some(std::mem::take(&mut waiting));
        }
        waiting.remove(own);
        None
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Billing {
    /// Asks for a balance that a client waits for.
    pub(super) async fn ask_for_client(&self, customer_id: &CustomerId) -> Option<i64> {
        if self.0.budget.try_take(Purpose::Answer).await {
            return self.ask_alone(customer_id).await;
        }
        let mut answered = self.0.crowd.join(customer_id);
        tokio::select! {
            biased;
            answer = &mut answered => match answer {
                Ok(balance) => return balance,
                Err(_) => self.0.budget.take(Purpose::Answer).await,
            },
            () = self.0.budget.take(Purpose::Answer) => {
                if let Some(crowd) = self.0.crowd.disperse(customer_id) {
                    self.ask_for_all(crowd).await;
                    if let Ok(balance) = answered.await {
                        return balance;
                    }
                    self.0.budget.take(Purpose::Answer).await;
                }
            }
        }
        self.ask_alone(customer_id).await
    }

    /// One customer's balance; the call is paid for.
    pub(super) async fn ask_alone(&self, customer_id: &CustomerId) -> Option<i64> {
        let reply = self.0.tools.dodo.balance(customer_id).await;
        match self.made(DodoCall::ReadBalance, reply) {
            Ok(answer) => Some(answer.credits()),
            Err(error) => {
                tracing::warn!(%customer_id, %error, "the balance could not be read");
                None
            }
        }
    }

    /// Answers whom the list names. Who is on no page that was read asks for himself.
    async fn ask_for_all(&self, mut crowd: Waiting) {
        let wanted = crowd.keys().cloned().collect();
        // Whoever has left does not need the answer.
        match self.list_balances(&wanted, Purpose::Answer).await {
            Ok(balances) => {
                for (customer_id, balance) in balances {
                    let _ = crowd.remove(&customer_id).map(|answer| answer.send(Some(balance)));
                }
            }
            Err(_) => crowd.into_values().for_each(|answer| {
                let _ = answer.send(None);
            }),
        }
    }

    /// Reads page after page while that answers more questions than calls for one
    /// customer would. The first call is paid for.
    pub(super) async fn list_balances(
        &self,
        wanted: &BTreeSet<CustomerId>,
        purpose: Purpose,
    ) -> Result<BTreeMap<CustomerId, i64>, DodoError> {
        let mut found = BTreeMap::new();
        for page in 0.. {
            if page > 0 {
                self.0.budget.take_next(purpose).await;
            }
            let reply = self.0.tools.dodo.balances(page).await;
            let list = self.made(DodoCall::ListBalances, reply).inspect_err(|error| {
                tracing::warn!(%error, "the balances could not be read");
            })?;
            let before = found.len();
            let balances = list.balances.into_iter().filter(|(id, _)| wanted.contains(id));
            found.extend(balances.map(|(id, balance)| (id, BalanceAnswer::Known(balance).credits())));
            let is_worth_it = found.len().saturating_sub(before) >= WORTH_A_PAGE;
            if list.is_last || !is_worth_it || found.len() == wanted.len() {
                break;
            }
        }
        Ok(found)
    }
}
