//! Random histories of three customers, held against the promises after every step.
//!
//! The store is the real one, on a real database; what answers mean is decided by
//! the code that decides it in production ([`crate::billing::verdict`],
//! [`crate::delivery::news`], the clients' readers of answers); the services are
//! the sandbox's stand-ins. The model is what lies between: it drives the process
//! step by step, and it is the network. Every remote call is three steps (it
//! leaves, it takes effect, its answer arrives or is lost), and any other step may
//! fall between. Time is simulated.
//!
//! `steps` says what may happen, `world` keeps everything, `settler`, `sender`,
//! `dodo` and `upstream` take the steps, `law` says what must hold, `rest` brings
//! everything to its end, and `mutation` is the proof that the laws have teeth.

mod dodo;
mod law;
mod mutation;
mod rest;
mod sender;
mod settler;
mod steps;
mod upstream;
mod world;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{FileFailurePersistence, RngAlgorithm, TestRng, TestRunner};

use mutation::Mutation;
use steps::{Manners, Step, history};
use world::World;

/// Histories in an ordinary run; `PROPTEST_CASES` says otherwise.
const HISTORIES: u32 = 150;
/// Histories within which every mistake is found.
const HISTORIES_TO_FIND_A_MISTAKE: u32 = 150;
/// Where what failed is kept, from the root of the project.
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
        cases: if is_asked { default.cases } else { HISTORIES },
        max_shrink_iters: 2_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
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

/// How many histories it takes to find a mistake.
fn histories_until_found(mutation: Mutation) -> Option<u32> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let history = history();
    (1..=HISTORIES_TO_FIND_A_MISTAKE).find(|_| {
        let (manners, steps) = history.new_tree(&mut runner).unwrap().current();
        live(manners, &steps, Some(mutation)).is_err()
    })
}

#[test]
fn scratch_mutations() {
    use Mutation::*;
    for m in [
        AppliesOvertakenReads,
        LowersWhileUnknown,
        ReadsDuringFirstCall,
        TrustsRepeatedAnswers,
        NewKeyAfterUnknown,
        VoidsWhatIsDoubtful,
        TakesUnknownForDone,
        TrustsOpenEntries,
        TakesUnansweredForRefused,
        NewMailKeyAfterUnknown,
        CountsWebhooks,
    ] {
        let t = std::time::Instant::now();
        println!("{m:?} {:?} {:?}", histories_until_found(m), t.elapsed());
    }
}
