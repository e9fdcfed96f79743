//! Several messages that are to be taken in together or not at all: what would be refused
//! is told before the first of them is accepted. What is found here may be otherwise when
//! they are; the acceptance of each decides.

use super::{Accepted, SignedIn, Standing, Submission, Submitted};
use crate::domain::credits::Credits;
use crate::domain::refusal::Refusal;

impl Submission {
    /// What a message will cost that would be taken in as it is. Nothing is written.
    pub async fn check(&self, who: &SignedIn, submitted: &Submitted) -> Result<Credits, Refusal> {
        let checked = async {
            let inspection = self.inspect(submitted)?;
            let senders = &submitted.begun.senders;
            inspection.from.iter().try_for_each(|from| self.check_sender(senders, from))?;
            let now = self.0.tools.clock.now();
            Ok(self.acceptance(who, submitted, &inspection, now).await?.0.price)
        };
        self.counted(Some(who), checked.await)
    }

    /// Whether there is the credit for all of them, and the credential's caps let so many pass.
    pub async fn check_all(&self, who: &SignedIn, price: Credits, messages: usize) -> Result<(), Refusal> {
        let checked = async {
            let Standing { customer_id, account, tally, .. } = self.standing(who).await?;
            let messages = u32::try_from(messages).unwrap_or(u32::MAX);
            tally.check_for(messages, self.0.tools.clock.now()).map_err(Refusal::Capped)?;
            self.0.tools.billing.check_credit(&customer_id, &account, price).await
        };
        self.counted(Some(who), checked.await.map(|_| ()))
    }

    /// Takes them in, all at once: so they share commits, and little comes between them. Each
    /// is answered in its place. A client that hangs up leaves none of them out.
    pub async fn submit_all(&self, who: &SignedIn, all: Vec<Submitted>) -> Vec<Result<Accepted, Refusal>> {
        let tasks = &self.0.tools.tasks;
        let submit = |submitted| {
            let (submission, who) = (self.clone(), who.clone());
            tasks.spawn(async move { submission.submit(&who, submitted).await })
        };
        let submitting: Vec<_> = all.into_iter().map(submit).collect();
        let mut answers = Vec::with_capacity(submitting.len());
        for task in submitting {
            answers.push(task.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a submission ended without an answer");
                Err(Refusal::StoreUnavailable)
            }));
        }
        answers
    }
}
