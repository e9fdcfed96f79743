//! A PostgreSQL that may forget what was acknowledged is refused whenever it is connected to, and
//! not at the start alone: who takes over from another, or comes back, may be set up worse.

use super::outage::{cluster, until};
use super::*;
use crate::store::lane::Patience;
use crate::store::opening::{self, Opened};
use crate::store::server::Demands;

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(2),
    gathered: Duration::from_secs(10),
    lock: Duration::from_secs(5),
    transaction: Duration::from_secs(10),
    answer: Duration::from_secs(5),
};

/// Whether a gathered commit and a rare one can be made now.
async fn may_write(opened: &Opened) -> (Result<(), String>, Result<(), String>) {
    let mut gathering = opened.writer.gathering().await;
    let gathered = match gathering.begin().await {
        Ok(tx) => tx.commit().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    gathering.note(gathered.is_ok());
    let mut turn = opened.writer.lock().await;
    let rare = match turn.begin().await {
        Ok(tx) => tx.commit().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    (gathered, rare)
}

#[tokio::test]
async fn p1_a_server_that_may_forget_by_now_is_refused_until_it_may_not() {
    const END: &str = "
        SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'postmeter'";
    let safe = "-c max_connections=20 -c fsync=on -c full_page_writes=on";
    let Some(cluster) = cluster(safe) else { return };
    let url = format!("postgres://postmeter@localhost/postmeter?host={}", cluster.home.display());
    let (url, directory) = (SecretString::from(url), Directory::new());
    let open =
        async || opening::postgres(&url, &directory.0, Maker::Serve, (PATIENCE, Demands::Safety)).await;
    let opened = open().await.unwrap();
    assert_eq!(may_write(&opened).await, (Ok(()), Ok(())));
    // As if another took over, which waits for no disk.
    cluster.read("postmeter", "ALTER ROLE postmeter SET synchronous_commit = off");
    // It is found by another connection; the one that is there for gathered commits goes on.
    opened.writer.trouble().unwrap().judge(Some("synchronous_commit is off"));
    let (gathered, _) = may_write(&opened).await;
    assert!(gathered.unwrap_err().contains("synchronous_commit is off"), "nothing is acknowledged on it");
    cluster.read("postmeter", END);
    for _ in 0..2 {
        let (gathered, rare) = may_write(&opened).await;
        let (gathered, rare) = (gathered.unwrap_err(), rare.unwrap_err());
        assert!(gathered.contains("synchronous_commit is off"), "{gathered}");
        assert!(rare.contains("may forget what is acknowledged"), "{rare}");
    }
    assert!(matches!(open().await, Err(OpenError::Unfit { .. })), "nor is it begun with");
    cluster.read("postmeter", "ALTER ROLE postmeter RESET synchronous_commit");
    until("it to be taken again", async || (may_write(&opened).await == (Ok(()), Ok(()))).then_some(()))
        .await;
}
