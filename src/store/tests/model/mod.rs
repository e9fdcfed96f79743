//! Random histories of three customers, held against the promises after every step.
//!
//! The store is the real one, on a real database; what answers mean is decided by
//! the code that decides it in production ([`crate::billing::verdict`],
//! [`crate::billing::doubt`], [`crate::delivery::news`], the clients' readers of
//! answers); the services are the sandbox's stand-ins. The model is what lies
//! between: it drives the process step by step, and it is the network. Every remote
//! call is three steps (it leaves, it takes effect, its answer arrives or is lost),
//! and any other step may fall between. Time is simulated.
//!
//! `steps` says what may happen, `world` keeps everything, `customer`, `keys`, `settler`,
//! `doubt`, `sender`, `refund`, `operator`, `dodo` and `upstream` take the steps,
//! `law` says what must hold, `rest` brings everything to its end, and `mutation` is
//! the proof that the laws have teeth.

mod customer;
mod dodo;
mod doubt;
mod keys;
mod law;
mod mutation;
mod operator;
mod refund;
mod rest;
mod sender;
mod settler;
mod steps;
mod upstream;
mod world;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::store::sql::query_as;
use crate::store::stand_in::is_postgres;
use crate::store::tests::regressions;
use mutation::Mutation;
use steps::{Fate, Letter, Manner, Manners, Step, Upstream, history, plenty};
use world::World;

/// Histories in an ordinary run; `PROPTEST_CASES` says otherwise.
const HISTORIES: u32 = 100;
/// The same on PostgreSQL, where each step takes longer.
const HISTORIES_ON_POSTGRES: u32 = 20;
/// Histories within which every mistake is found.
const HISTORIES_TO_FIND_A_MISTAKE: u32 = 100;
/// Where the seeds of what failed are kept, from the root of the project.
const REGRESSIONS: &str = "tests/regressions/histories.txt";

/// A promise that was broken.
#[derive(Debug)]
struct Broken(String);

impl<E: std::error::Error> From<E> for Broken {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Takes the steps, looks after each, and lets everything come to rest.
fn live(manners: Manners, steps: &[Step], mutation: Option<Mutation>) -> Result<(), Broken> {
    runtime().block_on(async {
        let mut world = World::new(manners, mutation).await;
        for step in steps {
            let taken = match world.take(*step).await {
                Ok(()) => world.check().await,
                broken => broken,
            };
            taken.map_err(|Broken(told)| Broken(format!("after {step:?}: {told}")))?;
        }
        world.come_to_rest().await
    })
}

fn config() -> ProptestConfig {
    let is_asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: match is_asked {
            true => default.cases,
            false if is_postgres() => HISTORIES_ON_POSTGRES,
            false => HISTORIES,
        },
        max_shrink_iters: 2_000,
        failure_persistence: regressions(REGRESSIONS),
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn p1_p2_p3_p4_any_history_adds_up((manners, steps) in history()) {
        if let Err(Broken(told)) = live(manners, &steps, None) {
            return Err(TestCaseError::fail(told));
        }
    }
}

/// Makes a mistake in one history after another, always the same ones, until it is found.
fn is_found(mutation: Mutation) -> bool {
    // What the laws see depends on no database, and so many histories take long on this one.
    if is_postgres() {
        return true;
    }
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let history = history();
    (0..HISTORIES_TO_FIND_A_MISTAKE).any(|_| {
        let (manners, steps) = history.new_tree(&mut runner).unwrap().current();
        live(manners, &steps, Some(mutation)).is_err()
    })
}

macro_rules! mistakes_that_are_found {
    ($($name:ident: $mutation:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            assert!(is_found(Mutation::$mutation));
        })*
    };
}

mistakes_that_are_found! {
    the_model_sees_a_read_applied_that_was_overtaken: AppliesOvertakenReads,
    the_model_sees_a_read_that_lowers_while_an_entry_is_unknown: LowersWhileUnknown,
    the_model_sees_a_read_during_the_first_call_of_an_entry: ReadsDuringFirstCall,
    the_model_sees_a_repeated_answer_believed: TrustsRepeatedAnswers,
    the_model_sees_a_new_key_after_an_unknown_try: NewKeyAfterUnknown,
    the_model_sees_a_doubtful_entry_given_up: VoidsWhatIsDoubtful,
    the_model_sees_an_unknown_entry_taken_for_done: TakesUnknownForDone,
    the_model_sees_an_open_entry_trusted_after_a_restart: TrustsOpenEntries,
    the_model_sees_the_hold_of_a_sent_message_released: TakesUnansweredForRefused,
    the_model_sees_a_mail_sent_again_under_another_key: NewMailKeyAfterUnknown,
    the_model_sees_a_call_that_was_not_composed: DoesNotCompose,
    the_model_sees_a_forgotten_key_posted_again: PostsForgottenKeys,
    the_model_sees_a_refund_given_twice: GivesRefundsTwice,
    the_model_sees_a_refund_that_outlives_what_was_spent: OutlivesTheGrant,
    the_model_sees_refunds_above_the_cap: IgnoresTheCap,
    the_model_sees_a_key_that_stands_for_a_refusal: RemembersRefusals,
    the_model_sees_a_key_read_outside_the_transaction: ReadsKeysTooEarly,
    the_model_sees_rows_leave_without_their_sums: ForgetsSums,
    the_model_sees_a_message_leave_that_is_not_settled: LeavesUnsettled,
    the_model_sees_credits_counted_from_a_webhook: CountsWebhooks,
}

/// A message of one credit is sent.
const SENT: [Step; 4] = [
    Step::Accept(0, Letter::One, true),
    Step::SendLeaves(0),
    Step::SendTakesEffect(0, Upstream::Takes),
    Step::SendAnswered(0, Fate::Arrives),
];

#[test]
fn p3_a_mail_that_was_taken_and_refused_later_is_not_given_up() {
    let steps = [
        Step::Accept(0, Letter::One, true),
        Step::SendLeaves(0),
        Step::SendTakesEffect(0, Upstream::Takes),
        Step::SendAnswered(0, Fate::Lost),
        Step::Wait(60),
        Step::Poll,
        Step::SendLeaves(0),
        Step::SendTakesEffect(0, Upstream::Refuses),
        Step::SendAnswered(0, Fate::Arrives),
    ];
    live(Manners::default(), &steps, None).unwrap();
    assert!(live(Manners::default(), &steps, Some(Mutation::ForgetsWhoMayHaveIt)).is_err());
}

/// Three mails leave in one call, which is taken and not answered.
const TOGETHER: [Step; 6] = [
    Step::Accept(0, Letter::Mailed, true),
    Step::Accept(0, Letter::Mailed, true),
    Step::Accept(1, Letter::Mailed, true),
    Step::SendLeaves(255),
    Step::SendTakesEffect(0, Upstream::Takes),
    Step::SendAnswered(0, Fate::Lost),
];

#[test]
fn p3_news_of_one_mail_proves_all_of_its_call() {
    let steps = [TOGETHER.as_slice(), &[Step::LateNews(1)]].concat();
    live(Manners::default(), &steps, None).unwrap();
    assert!(live(Manners::default(), &steps, Some(Mutation::ProvesOneAlone)).is_err());
}

#[test]
fn p4_a_call_without_an_answer_stays_together() {
    for end in [Step::SendAnswered(0, Fate::Arrives), Step::Crash] {
        let again = [Step::Wait(40), Step::Poll, Step::SendLeaves(0)];
        let steps = [TOGETHER.as_slice(), &again, &[Step::SendTakesEffect(0, Upstream::Fails), end]].concat();
        live(Manners::default(), &steps, None).unwrap();
        assert!(live(Manners::default(), &steps, Some(Mutation::TakesCallsApart)).is_err());
    }
}

/// What is owed is posted, and this becomes of the answer.
const fn posted(fate: Fate) -> [Step; 3] {
    [Step::EntryLeaves(0), Step::EntryTakesEffect(0, Manner::Well), Step::EntryAnswered(0, fate)]
}

#[test]
fn p2_a_read_that_is_answered_after_an_entry_gives_nothing_back() {
    let read = [Step::ReadLeaves(0), Step::ReadTakesEffect(0, Manner::Well)];
    let answered = [Step::ReadAnswered(0, Fate::Arrives)];
    let steps = [SENT.as_slice(), &read, &posted(Fate::Arrives), &answered].concat();
    live(Manners::default(), &steps, None).unwrap();
}

/// A message of one credit is sent and settled, and bounces.
fn bounced() -> Vec<Step> {
    [SENT.as_slice(), &posted(Fate::Arrives), &[Step::Bounce(0, true)]].concat()
}

/// The customer's grants are read.
const GRANTS: [Step; 3] =
    [Step::GrantsLeave(0), Step::GrantsTakeEffect(0, Manner::Well), Step::GrantsAnswered(0, Fate::Arrives)];

/// What became of refunds after these steps: how many were given, how many were not.
fn given_and_capped(steps: &[Step]) -> (i64, i64) {
    const READ: &str = "
        SELECT count(*) FILTER (WHERE state IN ('due', 'released')), count(*) FILTER (WHERE state = 'capped') FROM refund";
    runtime().block_on(async {
        let mut world = World::new(Manners::default(), None).await;
        for step in steps {
            world.take(*step).await.unwrap();
        }
        world.check().await.unwrap();
        let counts = {
            let mut writer = world.process.store.writer.lock().await;
            query_as(READ).fetch_one(writer.connection()).await.unwrap()
        };
        world.come_to_rest().await.unwrap();
        counts
    })
}

#[test]
fn p3_of_a_day_one_in_twenty_is_given_back_and_one_in_any_case() {
    let one = bounced();
    assert_eq!(given_and_capped(&one), (1, 0));
    assert_eq!(given_and_capped(&one.repeat(2)), (1, 1));
    let days = [one.as_slice(), &[Step::Wait(50_000)], &[Step::Wait(50_000)], &one].concat();
    assert_eq!(given_and_capped(&days), (2, 0));
    // Of 42 credits.
    for is_debited in [false, true] {
        assert_eq!(given_and_capped(&plenty(0, is_debited)), (2, 1));
    }
}

#[test]
fn p3_a_grant_that_lapses_before_its_refund_is_opened_or_posted_is_outlived_by_nothing() {
    let bought = [Step::TopUp(0, 9, Some(1))];
    let lapses = [Step::Wait(4_000)];
    let entry = posted(Fate::Arrives);
    let before_reading = [bounced(), lapses.to_vec(), GRANTS.to_vec(), entry.to_vec()];
    let before_opening = [bounced(), GRANTS.to_vec(), lapses.to_vec(), entry.to_vec()];
    let before_posting = [bounced(), GRANTS.to_vec(), entry[..1].to_vec(), lapses.to_vec(), entry.to_vec()];
    for steps in [before_reading.concat(), before_opening.concat(), before_posting.concat()] {
        live(Manners::default(), &[bought.as_slice(), &steps].concat(), None).unwrap();
    }
}

#[test]
fn p3_a_grant_that_lapses_the_moment_it_was_spent_is_outlived_by_nothing() {
    let bought = [Step::Expire(0), Step::TopUp(0, 2, Some(1))];
    // Between these steps no time passes: what is left lapses at the time of the acceptance.
    let steps = [&bought, bounced().as_slice(), &[Step::Expire(0)], &GRANTS, &posted(Fate::Arrives)].concat();
    live(Manners::default(), &steps, None).unwrap();
}

#[test]
fn p2_p3_a_credit_whose_answer_was_lost_is_counted_once() {
    let debited = [bounced().as_slice(), &GRANTS].concat();
    let read =
        [Step::ReadLeaves(0), Step::ReadTakesEffect(0, Manner::Well), Step::ReadAnswered(0, Fate::Arrives)];
    for between in [read.as_slice(), &[Step::Crash], &[Step::TopUp(0, 3, None)], &[]] {
        let lost = [debited.as_slice(), &posted(Fate::Lost), between].concat();
        let steps = [lost.as_slice(), &SENT, &posted(Fate::Arrives)].concat();
        live(Manners::default(), &steps, None).unwrap();
    }
}

#[test]
fn p3_an_entry_is_not_given_up_while_a_call_for_it_may_be_under_way() {
    // The first call has left and nobody waits for it; what it would have taken has expired.
    let under_way = [Step::EntryLeaves(0), Step::EntryAnswered(0, Fate::Lost), Step::Expire(0)];
    let look =
        [Step::LookLeaves(0), Step::LookTakesEffect(0, Manner::Well), Step::LookAnswered(0, Fate::Arrives)];
    let arrives = [Step::TopUp(0, 3, None), Step::WindBlows(0)];
    let steps = [SENT.as_slice(), &under_way, &posted(Fate::Arrives), &look, &arrives].concat();
    live(Manners::default(), &steps, None).unwrap();
    assert!(live(Manners::default(), &steps, Some(Mutation::TrustsEarlyLooks)).is_err());
}

#[test]
fn p3_a_post_that_arrives_late_finds_its_key_still_known() {
    for wait in [82_795, 86_395] {
        let late = [
            Step::Wait(wait),
            Step::EntryLeaves(0),
            Step::Wait(10),
            Step::EntryTakesEffect(0, Manner::Well),
            Step::EntryAnswered(0, Fate::Arrives),
        ];
        let steps = [SENT.as_slice(), &posted(Fate::Lost), &late].concat();
        live(Manners::default(), &steps, None).unwrap();
    }
}

#[test]
fn p3_an_entry_whose_answer_was_lost_is_settled_once_though_it_emptied_the_account() {
    let spent = SENT.repeat(12);
    let again = [posted(Fate::Arrives).as_slice(), &[Step::Crash]].concat();
    let end = [Step::TopUp(0, 3, None)];
    let steps = [spent.as_slice(), &posted(Fate::Lost), &again, &again, &end].concat();
    for balance_before_key in [false, true] {
        let manners = Manners { balance_before_key, ..Manners::default() };
        live(manners, &steps, None).unwrap();
    }
}
