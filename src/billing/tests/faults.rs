//! Whatever goes wrong with a call to Dodo: when it ends, everything adds up.

use super::*;
use crate::sandbox::dodo::{Amounts, Behaviour, RepeatedKey};

/// A fault of the calls that post entries, so often, and Dodo's manners meanwhile.
struct Case {
    name: &'static str,
    faults: Vec<(Misbehaviour, u64)>,
    manners: fn(&mut Behaviour),
}

fn case(name: &'static str, faults: Vec<(Misbehaviour, u64)>) -> Case {
    Case { name, faults, manners: |_| {} }
}

fn entry_faults() -> Vec<Case> {
    use Misbehaviour::{DropAfter, DropBefore, ForgetKeys, Garble, HangAfter, HangBefore, Late};
    let limited = || Reply::status(429).body(r#"{"code":"TOO_MANY_REQUESTS"}"#);
    let mut cases = vec![
        case("500", vec![(Reply::status(500).into(), 2)]),
        case("503 that is no JSON", vec![(Reply::status(503).body("<html>busy").into(), 1)]),
        case("500 after it was applied", vec![(Misbehaviour::AnswerAfter(Reply::status(500)), 2)]),
        case("408", vec![(Reply::status(408).into(), 1)]),
        case("429 that says how long", vec![(limited().header("retry-after", "1").into(), 2)]),
        case("429 in milliseconds", vec![(limited().header("retry-after-ms", "150").into(), 3)]),
        case("429 without a word", vec![(Reply::status(429).into(), 1)]),
        case("no answer, not applied", vec![(HangBefore, 1)]),
        case("no answer, applied", vec![(HangAfter, 1)]),
        case("an answer that comes too late", vec![(Late { delay_ms: 700 }, 1)]),
        case("connection lost before", vec![(DropBefore, 2)]),
        case("connection lost after", vec![(DropAfter, 2)]),
        case("half an answer", vec![(Garble, 2)]),
        case(
            "a 200 that was never Dodo's",
            vec![(Reply::status(200).body("<html>be right back</html>").into(), 2)],
        ),
        case("key forgotten, but nothing was applied", vec![(limited().into(), 1), (ForgetKeys, 1)]),
        case(
            "one thing after another",
            vec![
                (DropAfter, 1),
                (limited().header("retry-after-ms", "100").into(), 1),
                (Garble, 1),
                (Reply::status(500).into(), 1),
                (DropBefore, 1),
            ],
        ),
    ];
    let with = |name, manners| Case { name, faults: vec![(DropAfter, 2)], manners };
    cases.extend([
        with("a repeated key is answered 409", |b| b.repeated_key = RepeatedKey::Conflict),
        with("a repeated key is answered with the first, old balance", |b| {
            b.repeated_key = RepeatedKey::FirstAnswer;
        }),
        with("the balance is checked first, and covers it again", |b| b.balance_before_key = true),
        with("amounts are strings", |b| b.amounts = Amounts::String),
    ]);
    cases
}

#[tokio::test]
async fn p3_whatever_becomes_of_an_entry_each_message_is_debited_once() {
    let cases = entry_faults().into_iter().map(|case| async move {
        let bench = Bench::new(10).await;
        bench.services.dodo.behave(case.manners);
        // With so many at once on a busy machine the first look may come too late.
        while bench.ask().await.is_err() {}
        let many: u64 = case.faults.iter().map(|(_, times)| times).sum();
        for (fault, times) in case.faults {
            bench.fault(Fault::new(fault).on("POST", ENTRIES).times(times));
        }
        bench.billing.start();
        bench.send().await;
        let faults = bench.services.dodo.faults().clone();
        bench.until(case.name, |_| faults.struck() > 0).await;
        bench.send().await;
        bench.send().await;
        bench.until_settled(7).await;
        assert_eq!(bench.debits().iter().sum::<u64>(), 3, "{}", case.name);
        assert_eq!(faults.struck(), many, "{}: it was all of it", case.name);
        assert_eq!(bench.ask().await, Ok(()), "{}", case.name);
        assert_eq!(bench.account().await.available(), Some(7), "{}", case.name);
    });
    all_of(cases).await;
}

#[tokio::test]
async fn p9_a_balance_that_cannot_be_read_is_a_delay_and_no_refusal() {
    let faults: Vec<(&str, Misbehaviour)> = vec![
        ("500", Reply::status(500).into()),
        ("429", Reply::status(429).into()),
        ("401", Reply::status(401).into()),
        ("404: the entitlement is not there", Reply::status(404).body(r#"{"code":"NOT_FOUND"}"#).into()),
        ("no answer", Misbehaviour::HangBefore),
        ("connection lost", Misbehaviour::DropBefore),
        ("half an answer", Misbehaviour::Garble),
        ("no JSON", Reply::status(200).body("<html>").into()),
        ("no list", Reply::status(200).body(r#"{"balance": 3}"#).into()),
        ("somebody else's", Reply::status(200).body(r#"{"items":[{"customer_id":"x","balance":3}]}"#).into()),
    ];
    let cases = faults.into_iter().map(|(name, fault)| async move {
        let bench = Bench::new(10).await;
        bench.fault(Fault::new(fault).on("GET", BALANCES).always());
        let began = Instant::now();
        assert_eq!(bench.ask().await, Err(Refusal::BillingUnknown), "{name}");
        assert!(began.elapsed() < Duration::from_secs(5), "{name}");
        assert_eq!(bench.account().await.balance, None, "{name}");
        bench.services.dodo.faults().clear();
        let began = Instant::now();
        while bench.ask().await.is_err() {
            assert!(began.elapsed() < PATIENCE, "{name}");
        }
        assert_eq!(bench.account().await.balance, Some(10), "{name}");
    });
    all_of(cases).await;
}

/// Runs all at once; the first that fails fails the test.
async fn all_of(cases: impl Iterator<Item = impl Future<Output = ()> + 'static>) {
    let together = async {
        let mut running = tokio::task::JoinSet::new();
        cases.for_each(|case| drop(running.spawn_local(case)));
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
    };
    tokio::task::LocalSet::new().run_until(together).await;
}

#[tokio::test]
async fn calls_that_dodo_refuses_for_our_mistake_are_named_until_they_succeed() {
    let bench = Bench::with(10, "cde_of_nobody", Config::default()).await;
    assert_eq!(bench.ask().await, Err(Refusal::BillingUnknown));
    let metrics = &bench.billing.0.tools.metrics;
    assert_eq!((metrics.dodo_refuses(), metrics.is_dodo_up()), (vec!["read_balance"], true));

    let bench = Bench::new(10).await;
    bench.fault(Fault::new(Reply::status(401)).on("GET", BALANCES));
    assert_eq!(bench.ask().await, Err(Refusal::BillingUnknown));
    let metrics = &bench.billing.0.tools.metrics;
    assert_eq!(metrics.dodo_refuses(), ["read_balance"]);
    assert_eq!(bench.ask().await, Ok(()));
    assert_eq!(metrics.dodo_refuses(), [""; 0]);
    bench.fault(Fault::new(Reply::status(401)).on("POST", ENTRIES));
    bench.billing.start();
    bench.send().await;
    bench.until("it was refused", |_| !metrics.dodo_refuses().is_empty()).await;
    assert_eq!(metrics.dodo_refuses(), ["post_entry"]);
}

#[tokio::test]
async fn a_read_that_an_entry_overtakes_says_nothing() {
    let bench = Bench::new(10).await;
    bench.ask().await.unwrap();
    // The read is answered with 10, but late: the debit of 1 has come between.
    bench.fault(Fault::new(Misbehaviour::Late { delay_ms: 300 }).on("GET", BALANCES));
    let struck = bench.services.dodo.faults().clone();
    let (billing, ann) = (bench.billing.clone(), bench.ann.clone());
    let reading = tokio::spawn(async move { billing.read_balance(&ann).await });
    bench.until("the read is under way", |_| struck.struck() == 1).await;
    bench.billing.start();
    bench.send().await;
    assert_eq!(reading.await.unwrap().unwrap().balance, Some(9));
    bench.until_settled(9).await;
}

#[tokio::test]
async fn a_refusal_reads_live_once_in_five_seconds_and_at_once_after_news() {
    let bench = Bench::new(1).await;
    bench.ask().await.unwrap();
    bench.send().await;
    let reads = || bench.services.dodo.calls();
    let before = reads();
    for _ in 0..5 {
        assert!(matches!(bench.ask().await, Err(Refusal::OutOfCredit { .. })));
    }
    assert_eq!(reads() - before, 0, "what was read a moment ago is good for all of them");
    bench.services.dodo.grant("ann", 4, None).unwrap();
    assert!(bench.ask().await.is_err(), "nobody has told us yet");
    bench.billing.balance_changed(&bench.ann);
    assert_eq!(bench.ask().await, Ok(()));
    assert_eq!(reads() - before, 1);
}
