//! Questions that are gathered: whatever was asked while the last look ran is answered by
//! the next one, so that many connections cost the database no more journeys than one.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{mpsc, oneshot};

use super::StoreError;

/// Most questions answered by one look.
const MAX_QUESTIONS: usize = 256;
/// Questions that may wait for the next look; beyond them askers wait.
const MAX_WAITING: usize = super::WRITES_WAITING;

/// Where questions about a `K` are asked, of which an `A` is known, or nothing.
#[derive(Debug, Clone)]
pub(super) struct Questions<K, A>(mpsc::Sender<Question<K, A>>);

#[derive(Debug)]
struct Question<K, A> {
    about: K,
    answer: oneshot::Sender<Result<Option<A>, StoreError>>,
}

impl<K, A> Questions<K, A>
where
    K: Ord + Clone + Send + Sync + 'static,
    A: Clone + Send + 'static,
{
    /// Has them answered by `look` until the last asker is gone.
    pub(super) fn answered_by<L, F>(look: L) -> Self
    where
        L: Fn(BTreeSet<K>) -> F + Send + 'static,
        F: Future<Output = Result<BTreeMap<K, A>, StoreError>> + Send,
    {
        let (questions, mut asked) = mpsc::channel::<Question<K, A>>(MAX_WAITING);
        tokio::spawn(async move {
            while let Some(first) = asked.recv().await {
                let mut batch = vec![first];
                while batch.len() < MAX_QUESTIONS {
                    let Ok(next) = asked.try_recv() else { break };
                    batch.push(next);
                }
                let looked = look(batch.iter().map(|question| question.about.clone()).collect()).await;
                for Question { about, answer } in batch {
                    // The asker may have hung up.
                    let _ = answer.send(match &looked {
                        Ok(found) => Ok(found.get(&about).cloned()),
                        Err(error) => Err(error.clone()),
                    });
                }
            }
        });
        Self(questions)
    }

    /// What is known about it, by a look that begins after the question.
    pub(super) async fn ask(&self, about: K) -> Result<Option<A>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let gone = || StoreError::Unavailable("the reader has stopped".to_owned());
        self.0.send(Question { about, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}
