//! Submissions on their way to the store, and the mistakes that could be made with
//! their keys.

use super::Broken;
use super::law::law;
use super::mutation::Mutation;
use super::world::World;
use crate::domain::idempotency::IdempotencyKey;
use crate::store::StoreError;
use crate::store::accept::{Acceptance, Accepted};
use crate::store::tests::{account, together};

impl World {
    /// Asks for all of these at the same time. Nobody is refused for lack of credit
    /// while there is enough for everybody.
    pub(super) async fn submit(
        &mut self,
        asked: Vec<Acceptance>,
    ) -> Result<Vec<Result<Accepted, StoreError>>, Broken> {
        let Some(first) = asked.first() else { return Ok(Vec::new()) };
        let customer_id = first.customer_id.clone();
        let available = account(&self.process.store, &customer_id).await.available().unwrap_or(0);
        let price: i64 = asked.iter().map(|acceptance| acceptance.price.to_i64()).sum();
        let own: Vec<_> =
            asked.iter().map(|a| a.keyed.as_ref().map(|k| (a.customer_id.clone(), k.key.clone()))).collect();
        let answers = together(&self.process.store, self.mistaken_keys(asked)).await;
        let answers: Vec<_> = answers
            .into_iter()
            .zip(own)
            .map(|(answer, own)| match (answer, own) {
                (Ok(Accepted::OutOfCredit), Some(own)) => {
                    self.process.refused.insert(own);
                    Ok(Accepted::OutOfCredit)
                }
                (Ok(_), Some(own))
                    if self.is(Mutation::RemembersRefusals) && self.process.refused.contains(&own) =>
                {
                    Ok(Accepted::OutOfCredit)
                }
                (answer, _) => answer,
            })
            .collect();
        let is_refused = answers.iter().any(|answer| matches!(answer, Ok(Accepted::OutOfCredit)));
        law!(!is_refused || available < price, "P2: {customer_id} is refused {price} of {available} credits");
        Ok(answers)
    }

    /// Of several under one key each sees that the key is free.
    fn mistaken_keys(&self, mut asked: Vec<Acceptance>) -> Vec<Acceptance> {
        if self.is(Mutation::ReadsKeysTooEarly) {
            let mut seen: Vec<IdempotencyKey> = Vec::new();
            for acceptance in &mut asked {
                acceptance.keyed = acceptance.keyed.take().filter(|keyed| !seen.contains(&keyed.key));
                seen.extend(acceptance.keyed.iter().map(|keyed| keyed.key.clone()));
            }
        }
        asked
    }
}
