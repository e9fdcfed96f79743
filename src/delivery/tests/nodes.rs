//! Two processes that deliver from one database; a database that is a file has one.

use std::collections::BTreeSet;

use axum::http::HeaderMap;

use super::*;
use crate::store::{Maker, StoreSettings};

/// A Resend that answers when it may; the key and the recipients of each mail that came.
async fn keyed(may: CancellationToken) -> (String, Arc<Mutex<Vec<(String, String)>>>) {
    let came = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&came);
    let answer = move |uri: Uri, headers: HeaderMap, body: Bytes| async move {
        let key = headers.get("idempotency-key").unwrap().to_str().unwrap().to_owned();
        noted.lock().unwrap().push((key, String::from_utf8_lossy(&body).into_owned()));
        may.cancelled().await;
        taken(uri.path(), &body)
    };
    (served(Router::new().fallback(answer)).await, came)
}

#[test]
fn p4_what_a_process_had_in_hand_when_it_died_goes_out_from_another_under_the_same_keys() {
    const MAILS: usize = 12;
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (one, other) = (runtime(), runtime());
    let may = CancellationToken::new();
    let (base_url, came) = other.block_on(keyed(may.clone()));
    let bench = one.block_on(Bench::start(&base_url, 4, 1));
    let beside = StoreSettings {
        data_dir: bench._directory.0.join("other"),
        ..stand_in::settings(&bench._directory.0, Maker::Serve)
    };
    if beside.database_url.is_none() {
        return;
    }
    let mut mails = Vec::new();
    for _ in 0..MAILS {
        mails.push(one.block_on(bench.submit(70 << 10)));
    }
    // Four are under way, and nobody hears of them any more.
    other.block_on(async {
        let all = async {
            while came.lock().unwrap().len() < 4 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("they leave");
    });
    one.shutdown_background();
    may.cancel();
    other.block_on(async {
        let store = Store::open(&beside, Metrics::new()).await.unwrap();
        let config: Config = toml::from_str("[upstream]\nmax_concurrency = 4").unwrap();
        let (handover, handed) = Handover::new(4 * LARGE, 4);
        let tools = tools(&config, &base_url, (&store, &handover), (&bench.clock, &bench.translating));
        let (tasks, stop) = (tools.tasks.clone(), tools.stop.clone());
        start(tools, &config, handed).await;
        bench.clock.advance(Duration::from_secs(3_600));
        for message_id in &mails {
            until(&store, message_id, |part| part.state == "sent").await;
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        assert_eq!(store.audit().await.unwrap(), []);
    });
    let came = came.lock().unwrap().clone();
    let keys: BTreeSet<&str> = came.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!((keys.len(), came.len()), (MAILS, MAILS + 4), "what was under way is asked for again");
    let calls: BTreeSet<&(String, String)> = came.iter().collect();
    assert_eq!(calls.len(), MAILS, "with the same bytes");
}
