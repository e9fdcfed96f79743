use std::time::Instant;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Executor};

use super::super::stand_in::{Directory, beside, submission};
use super::*;
use crate::clock::Clock;
use crate::config::{Config, Limits};
use crate::domain::ids::CustomerId;
use crate::handover::Handover;
use crate::store::customer::Credential;
use crate::store::{DATABASE_FILE, Store};

const SECRET: &str = "right";
const OLD_SECRET: &str = "right once";
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// Credentials `ann`, and `old`, which was revoked.
async fn town(limits: Limits) -> (Submission, Store, Directory) {
    let (submission, store, directory) = submission(&Config { limits, ..Config::default() }).await;
    let (now, customer_id) = (Clock::system().now(), CustomerId::parse("cus_ann").unwrap());
    store.add_customer(&customer_id, None, None, now).await.unwrap();
    for (name, secret) in [("ann", SECRET), ("old", OLD_SECRET)] {
        let username = Username::parse(name).unwrap();
        let customer_id = customer_id.clone();
        let (caps, last_used_at) = Default::default();
        let credential = Credential {
            username,
            customer_id,
            label: None,
            created_at: now,
            revoked_at: None,
            caps,
            last_used_at,
        };
        store.add_credential(&credential, &Secret::presented(secret).hash()).await.unwrap();
    }
    store.revoke_credential(&Username::parse("old").unwrap(), None, now).await.unwrap();
    (submission, store, directory)
}

impl Submission {
    async fn knock(&self, peer: IpAddr, username: &str, secret: &str) -> Result<(), Refusal> {
        self.sign_in(peer, username, &Secret::presented(secret)).await.map(drop)
    }
}

/// Whoever cannot sign in, and why does not show.
const WRONG: [(&str, &str); 5] =
    [("ann", "wrong"), ("nobody", SECRET), ("old", OLD_SECRET), ("not a\u{7}name", SECRET), ("", "")];

#[tokio::test]
async fn p9_whatever_is_wrong_is_one_refusal() {
    let (submission, _store, _directory) = town(Limits { sign_in_max_delay_s: 0, ..Limits::default() }).await;
    for (username, secret) in WRONG {
        assert_eq!(submission.knock(HERE, username, secret).await, Err(Refusal::BadCredential), "{username}");
    }
    assert_eq!(submission.knock(HERE, "ann", SECRET).await, Ok(()));
}

#[tokio::test]
async fn p9_failures_count_at_every_node_of_a_database() {
    let limits =
        Limits { sign_in_failures: 3, sign_in_max_delay_s: 0, sign_in_forgive_s: 3600, ..Limits::default() };
    let (here, store, _directory) = town(limits.clone()).await;
    if !store.is_shared() {
        return;
    }
    let there = beside(&Config { limits, ..Config::default() }, Handover::new(1 << 20, 2).0, &store).await;
    let put_off = Err(Refusal::TooManyFailures { retry_after_s: 3600 });
    for (node, want) in [(&here, false), (&there, false), (&here, false), (&there, true), (&here, true)] {
        let answer = node.knock(HERE, "ann", "wrong").await;
        assert_eq!(answer == put_off, want, "{answer:?}");
    }
    let elsewhere = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    assert_eq!(there.knock(elsewhere, "ann", "wrong").await, Err(Refusal::BadCredential));
    assert_eq!(there.knock(elsewhere, "ann", SECRET).await, Ok(()));
    // Whichever node it was that counted them, what is forgiven at one is forgiven at all.
    for (failing, forgiving) in [(&here, &there), (&there, &here), (&here, &there)] {
        for _ in 0..2 {
            assert_eq!(failing.knock(elsewhere, "ann", "wrong").await, Err(Refusal::BadCredential));
        }
        assert_eq!(forgiving.knock(elsewhere, "ann", SECRET).await, Ok(()));
    }
}

#[tokio::test]
async fn the_database_is_asked_the_same_whether_a_name_exists_or_not() {
    let (submission, _store, directory) = town(Limits::default()).await;
    let file = SqliteConnectOptions::new().filename(directory.0.join(DATABASE_FILE));
    let mut database = SqliteConnection::connect_with(&file).await.unwrap();
    database.execute("ALTER TABLE credential RENAME TO elsewhere").await.unwrap();
    for (username, secret) in WRONG.into_iter().chain([("ann", SECRET)]) {
        let answer = submission.knock(HERE, username, secret).await;
        assert_eq!(answer, Err(Refusal::StoreUnavailable), "{username}: answered without being asked");
    }
}

/// How often a time of the first kind is longer than one of the second, in percent; a tie is half of one.
fn share_longer(first: &[u128], second: &[u128]) -> usize {
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| (a, b)));
    let halves: usize = pairs.map(|(a, b)| usize::from(a > b) + usize::from(a >= b)).sum();
    50 * halves / (first.len() * second.len())
}

#[tokio::test]
async fn a_wrong_secret_takes_as_long_as_a_name_that_does_not_exist() {
    const TRIES: u32 = 80;
    // The first failure of an address: a hundredth of a second.
    let most = u32::MAX;
    let (submission, _store, _directory) = town(Limits {
        sign_in_failures: 10,
        sign_in_failures_per_address: most,
        sign_in_failures_per_username: most,
        sign_in_max_delay_s: 1,
        ..Limits::default()
    })
    .await;
    let mut took = [Vec::new(), Vec::new()];
    for n in 0..TRIES {
        let peer = IpAddr::V4((0x0a00_0000 + n).into());
        // Turn by turn, so that a busy machine slows both.
        let turns = if n % 2 == 0 { [0, 1] } else { [1, 0] };
        for turn in turns {
            let begun = Instant::now();
            let answer = submission.knock(peer, ["ann", "nobody"][turn], "wrong").await;
            took[turn].push(begun.elapsed().as_micros());
            assert_eq!(answer, Err(Refusal::BadCredential));
        }
    }
    assert!(took.iter().flatten().all(|micros| *micros >= 10_000), "{took:?}");
    let share = share_longer(&took[0], &took[1]);
    // Five standard deviations of Mann and Whitney's U.
    assert!((25..75).contains(&share), "{share}: {took:?}");
    let begun = Instant::now();
    assert_eq!(submission.knock(HERE, "ann", SECRET).await, Ok(()));
    println!("a right secret took {:?}, wrong ones {took:?}", begun.elapsed());
}

#[tokio::test]
async fn a_right_secret_is_let_in_from_elsewhere_while_the_name_is_hammered() {
    let limits = Limits {
        sign_in_failures: 3,
        sign_in_failures_per_username: 5,
        sign_in_max_delay_s: 0,
        ..Limits::default()
    };
    let (submission, _store, _directory) = town(limits).await;
    for n in 0..50u32 {
        let peer = IpAddr::V4((0x0a00_0000 + n / 10).into());
        let answer = submission.knock(peer, "ann", "wrong").await;
        match n % 10 {
            0..3 => assert_eq!(answer, Err(Refusal::BadCredential)),
            _ => assert!(matches!(answer, Err(Refusal::TooManyFailures { retry_after_s: 60 }))),
        }
    }
    let hammering = IpAddr::V4(0x0a00_0000.into());
    assert!(matches!(submission.knock(hammering, "ann", SECRET).await, Err(Refusal::TooManyFailures { .. })));
    assert_eq!(submission.knock(HERE, "ann", SECRET).await, Ok(()));
}
