//! The calls that two processes of one database make to Resend and to Dodo are counted
//! together, however many each would make by itself. The time of day stands still, or is moved
//! by the test: what either counts alone goes by another clock, and would let them pass.

use super::nodes::two;
use super::*;
use crate::billing::budget::{Budget, Purpose};
use crate::clock::Clock;
use crate::ration::Ration;
use crate::upstream::resend::{Resend, ResendSettings};

/// Dodo's limit for a minute, before it has said another.
const DODO_LIMIT: usize = 240;
/// Between two calls to Resend, before it has said another: ten leave in its second.
const RESEND_INTERVAL: Duration = Duration::from_millis(102);
/// Long enough for a call that nothing keeps back.
const LONG: Duration = Duration::from_millis(250);

fn resend(ration: Ration, clock: &Clock) -> Resend {
    let settings = ResendSettings {
        base_url: "http://127.0.0.1:9".to_owned(),
        api_key: "re_nobody".into(),
        timeout: Duration::from_secs(1),
        clock: clock.clone(),
    };
    Resend::new(&settings).unwrap().drawing_from(ration)
}

/// Whether a call to Resend may leave at this moment.
async fn leaves(resend: &Resend) -> bool {
    tokio::time::timeout(LONG, resend.next_of_all()).await.is_ok_and(|next| next.is_ok())
}

#[tokio::test]
async fn calls_to_resend_of_two_processes_stay_within_its_second() {
    let Some((here, there, _directory)) = two().await else { return };
    let clock = Clock::manual(at(0));
    let [here, there] = [here, there].map(|store| resend(Ration::of(&store, &clock), &clock));
    for (nth, (who, other)) in [(&here, &there), (&there, &here), (&here, &there)].into_iter().enumerate() {
        assert!(leaves(who).await, "{nth}: the next is due");
        assert!(!leaves(other).await, "{nth}: that was the one call of both");
        clock.advance(RESEND_INTERVAL);
    }
}

/// The calls that both make of full budgets, each as many as it may: for clients, and for entries.
async fn spent(budgets: &[Budget; 2]) -> usize {
    let mut calls = 0;
    for (purpose, tries) in [(Purpose::Answer, 14), (Purpose::Entry, 7)] {
        for _ in 0..tries {
            for budget in budgets {
                calls += usize::from(budget.try_take(purpose).await);
            }
        }
    }
    calls
}

#[tokio::test]
async fn calls_to_dodo_of_two_processes_stay_within_its_minute() {
    let Some((here, there, _directory)) = two().await else { return };
    let clock = Clock::manual(at(0));
    let full = || [&here, &there].map(|store| Budget::new(Ration::of(store, &clock)));
    let mut calls = spent(&full()).await;
    assert!((15..=DODO_LIMIT / 12).contains(&calls), "{calls} at once");
    for _ in 0..11 {
        clock.advance(Duration::from_secs(5));
        // As if both had just been started: what they count by themselves is forgotten.
        calls += spent(&full()).await;
    }
    assert!((DODO_LIMIT * 3 / 4..=DODO_LIMIT).contains(&calls), "{calls} in a minute");
    let alone = spent(&[Budget::new(Ration::default()), Budget::new(Ration::default())]).await;
    assert!(alone > DODO_LIMIT / 12, "each by itself would have made more: {alone}");
}
