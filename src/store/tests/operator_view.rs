//! What the operator's page reads.

use super::*;
use crate::store::node::Duty;
use crate::store::operator::Waiting;

async fn page(
    store: &Store,
    search: Option<&str>,
    after: Option<&str>,
    limit: u32,
) -> (Vec<String>, Option<String>) {
    let after = after.map(|id| CustomerId::parse(id).unwrap());
    let page = store.customer_page(search, after.as_ref(), limit).await.unwrap();
    let ids = page.customers.iter().map(|customer| customer.customer_id.to_string()).collect();
    (ids, page.next.map(|id| id.to_string()))
}

#[tokio::test]
async fn customers_come_page_by_page_and_are_found_by_what_is_known_of_them() {
    let (store, _directory) = store().await;
    for (id, email, name) in [
        ("cus_a", Some("Ann@Example.com"), None),
        ("cus_b", None, Some("100% Bob!")),
        ("cus_c", Some("c_d@example.net"), None),
        ("cus_d", Some("cxd@example.net"), None),
    ] {
        let id = CustomerId::parse(id).unwrap();
        store.add_customer(&id, email, name, at(1)).await.unwrap();
    }
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let (first, next) = page(&store, None, None, 3).await;
    assert_eq!((first, next.as_deref()), (ids(&["cus_a", "cus_b", "cus_c"]), Some("cus_c")));
    assert_eq!(page(&store, None, next.as_deref(), 3).await, (ids(&["cus_d"]), None));
    let table: [(&str, &[&str]); 8] = [
        ("ann@", &["cus_a"]),
        ("EXAMPLE.NET", &["cus_c", "cus_d"]),
        ("c_d", &["cus_c"]),
        ("100%", &["cus_b"]),
        ("b!", &["cus_b"]),
        ("%", &["cus_b"]),
        ("cus_", &["cus_a", "cus_b", "cus_c", "cus_d"]),
        ("nobody", &[]),
    ];
    for (search, want) in table {
        assert_eq!(page(&store, Some(search), None, 9).await.0, ids(want), "{search}");
    }
}

#[tokio::test]
async fn a_search_looks_at_so_many_and_says_where_to_go_on() {
    const CUSTOMERS: &str =
        "INSERT INTO customer (customer_id, created_at) SELECT value ->> 0, 0 FROM json_each($1)";
    const ACCOUNTS: &str = "INSERT INTO account (customer_id) SELECT value ->> 0 FROM json_each($1)";
    let (store, _directory) = store().await;
    let rows: Vec<[String; 1]> = (10_000..16_000).map(|number| [format!("cus_{number}")]).collect();
    for text in [CUSTOMERS, ACCOUNTS] {
        let mut writer = store.writer.lock().await;
        let mut tx = writer.begin().await.unwrap();
        query(text).bind(json(&rows).unwrap()).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
    let (found, next) = page(&store, Some("15500"), None, 50).await;
    assert!(found.is_empty() && next.as_deref() == Some("cus_14999"), "{next:?}");
    let (found, next) = page(&store, Some("15500"), next.as_deref(), 50).await;
    assert_eq!((found, next), (vec!["cus_15500".to_owned()], None));
}

#[tokio::test]
async fn why_parts_wait_is_told_by_state_and_error_with_the_most_frequent_first() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    assert_eq!(store.waiting_for().await.unwrap(), []);
    let later = || News::Retry {
        due: at(900),
        error: "x".repeat(300),
        unknown: false,
        maybe_taken: Vec::new(),
        counts: true,
        batch_max: None,
    };
    let news = [Some(News::Hold { reason: "a day old".to_owned() }), Some(later()), Some(later()), None];
    for news in news {
        let accepted = accepted(&store, message(&ann, &["a@y.example"])).await;
        if let Some(news) = news {
            store.report(report(&accepted, 1, news)).await.unwrap();
        }
    }
    let told = store.waiting_for().await.unwrap();
    let first = told.first().unwrap();
    assert_eq!((first.state, first.parts), (Waiting::Queued, 2), "{told:?}");
    assert_eq!(first.reason.as_ref().map(String::len), Some(160), "shortened");
    let held = told.iter().find(|row| row.state == Waiting::Held).unwrap();
    assert_eq!((held.reason.as_deref(), held.parts), (Some("a day old"), 1));
    assert_eq!(told.iter().map(|row| row.parts).sum::<u64>(), 4);
}

#[tokio::test]
async fn who_has_which_duty_is_told() {
    let (store, _directory) = store().await;
    assert!(store.takes(Duty::Books, at(1_000), std::time::Duration::from_secs(60)).await.unwrap());
    let crew = store.crew().await.unwrap();
    let (name, _, until) = crew.duties.first().unwrap();
    assert!(name == "books" && *until > at(1_000), "{crew:?}");
}
