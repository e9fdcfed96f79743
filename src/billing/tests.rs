//! Billing against the stand-in for Dodo: what is sent is debited once, whatever
//! happens to the answers.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dodo::DodoSettings;
use super::*;
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::credits::Unit;
use crate::domain::ids::MessageId;
use crate::domain::message::Road;
use crate::random;
use crate::sandbox::faults::{Fault, Misbehaviour, Reply};
use crate::sandbox::{self, StandIns};
use crate::store::accept::{Acceptance, Accepted, Kind, NewPart};
use crate::store::report::{Answered, News, Report};
use crate::submission::stand_in::{Directory, store};

mod doubt;
mod faults;
mod outage;
mod refunds;
mod settlement;
mod shortfall;
mod simulated;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const ENTRIES: &str = "/ledger-entries";
const BALANCES: &str = "/balances";

struct Bench {
    billing: Billing,
    store: Store,
    services: StandIns,
    clock: Clock,
    ann: CustomerId,
    _directory: Directory,
}

impl Bench {
    /// A known customer `ann` with so many credits at Dodo; nothing is read yet.
    async fn new(credits: u64) -> Self {
        Self::with(credits, sandbox::ENTITLEMENT_ID, Config::default()).await
    }

    async fn with(credits: u64, entitlement_id: &str, config: Config) -> Self {
        let clock = Clock::manual(Timestamp::now());
        let settings = sandbox::Settings { clock: clock.clone(), ..sandbox::Settings::default() };
        let services = StandIns::start(settings).await.unwrap();
        services.dodo.behave(|behaviour| (behaviour.per_second, behaviour.per_minute) = (0, 0));
        let (store, directory) = store().await;
        let dodo = Dodo::new(DodoSettings {
            base_url: services.dodo_url.clone(),
            api_key: secrecy::SecretString::from(sandbox::DODO_API_KEY),
            entitlement_id: entitlement_id.to_owned(),
            timeout: Duration::from_millis(500),
            clock: clock.clone(),
        });
        let tools = Tools {
            store: store.clone(),
            dodo: dodo.unwrap(),
            routing: Routing::new(&config),
            clock: clock.clone(),
            metrics: Metrics::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let from = NamedMailbox::parse("postmaster@example.com").unwrap();
        let billing = Billing::new(tools, Settings::new(&config, "https://postmeter.example", from));
        let bench = Self {
            billing,
            store,
            services,
            clock,
            ann: CustomerId::parse("ann").unwrap(),
            _directory: directory,
        };
        bench.add("ann", credits).await;
        bench
    }

    async fn add(&self, name: &str, credits: u64) -> CustomerId {
        let customer_id = CustomerId::parse(name).unwrap();
        self.services.dodo.add_customer(name, "ann@x.example", name).unwrap();
        if credits > 0 {
            self.services.dodo.grant(name, credits, None).unwrap();
        }
        self.store.add_customer(&customer_id, Some("ann@x.example"), None, self.clock.now()).await.unwrap();
        customer_id
    }

    async fn account(&self) -> Account {
        self.account_of(&self.ann).await
    }

    async fn account_of(&self, customer_id: &CustomerId) -> Account {
        self.store.account(customer_id).await.unwrap().unwrap()
    }

    /// What a client would hear at MAIL.
    async fn ask(&self) -> Result<(), Refusal> {
        self.ask_for(&self.ann).await
    }

    async fn ask_for(&self, customer_id: &CustomerId) -> Result<(), Refusal> {
        let account = self.account_of(customer_id).await;
        self.billing.check_credit(customer_id, &account, Credits::ONE).await.map(drop)
    }

    /// Accepts a message, and says that it was sent.
    async fn send(&self) -> MessageId {
        self.sent(&self.ann, 1).await.expect("out of credit")
    }

    /// The same for this customer and so many recipients, who cost a credit each;
    /// whether it was accepted.
    async fn try_send(&self, customer_id: &CustomerId, recipients: u64) -> bool {
        self.sent(customer_id, recipients).await.is_some()
    }

    async fn sent(&self, customer_id: &CustomerId, recipients: u64) -> Option<MessageId> {
        let to = |number| Mailbox::parse(&format!("a{number}@y.example")).unwrap();
        let to: Vec<_> = (0..recipients).map(to).collect();
        let part = NewPart { road: Road::Smtp, recipients: to.clone(), request_hash: None, batch_max: 1 };
        let now = self.clock.now();
        let message = Acceptance {
            message_id: MessageId::generate(now, random::octets()),
            customer_id: customer_id.clone(),
            username: None,
            kind: Kind::Submission,
            reverse_path: ReversePath::Null,
            header_from: "app@x.example".to_owned(),
            subject: None,
            bytes: Bytes::from_static(b"\r\n"),
            spooled: None,
            unit: Unit::Recipient,
            price: Credits::new(recipients).unwrap(),
            accepted_at: now,
            lifetime: Duration::from_secs(60),
            parts: vec![part],
            lease_until: Some(now),
            keyed: None,
            notes: Vec::new(),
            dsn: Arc::default(),
        };
        match self.store.accept(message.clone()).await.unwrap() {
            Accepted::Yes { .. } => {}
            Accepted::OutOfCredit => return None,
            other => panic!("{other:?}"),
        }
        let news = News::Answered(Answered { sent: to, ..Answered::default() });
        let message_id = message.message_id.clone();
        let report =
            Report { message_id, part_no: 0, attempt: 1, at: now, news, bounce: None, relayed: None };
        self.store.report(report).await.unwrap();
        self.billing.captured();
        Some(message.message_id)
    }

    fn fault(&self, fault: Fault) {
        self.services.dodo.faults().push(fault);
    }

    fn debits(&self) -> Vec<u64> {
        let lines = self.services.dodo.ledger("ann");
        lines.iter().filter(|line| !line.is_credit).map(|line| line.amount).collect()
    }

    /// Waits until the account is as it should be.
    async fn until(&self, what: &str, is_so: impl Fn(&Account) -> bool) {
        let began = Instant::now();
        loop {
            let account = self.account().await;
            if is_so(&account) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {account:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(self.store.audit().await.unwrap(), []);
    }

    async fn until_settled(&self, balance: i64) {
        let is_so = |a: &Account| a.owed == Credits::ZERO && a.balance == Some(balance);
        self.until("settled", is_so).await;
        assert_eq!(self.services.dodo.balance("ann"), u64::try_from(balance).ok());
    }
}

#[tokio::test]
async fn p3_a_single_message_is_settled_at_once_the_way_a_person_expects_to_see_it() {
    let bench = Bench::new(10).await;
    assert_eq!(bench.ask().await, Ok(()));
    bench.billing.start();
    let began = Instant::now();
    bench.send().await;
    bench.until_settled(9).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    let line = bench.services.dodo.ledger("ann").pop().unwrap();
    assert!(line.description.is_some_and(|text| text.starts_with("email send ")));
}

#[tokio::test]
async fn p3_what_is_sent_while_an_entry_is_on_its_way_gathers_in_the_next() {
    let bench = Bench::new(100).await;
    bench.ask().await.unwrap();
    bench.fault(Fault::new(Misbehaviour::Late { delay_ms: 2_000 }).on("POST", ENTRIES));
    bench.billing.start();
    bench.send().await;
    bench.until("an entry is open", |account| account.version > 1).await;
    for _ in 0..20 {
        bench.send().await;
    }
    bench.until_settled(79).await;
    // On a busy machine the last of them may miss the second entry.
    let debits = bench.debits();
    assert_eq!((debits.iter().sum::<u64>(), debits[0]), (21, 1), "{debits:?}");
    assert!(debits.len() <= 4, "{debits:?}");
}

#[tokio::test]
async fn p3_a_lost_answer_is_asked_for_again_and_debits_once() {
    use crate::sandbox::dodo::RepeatedKey;
    for repeated in [RepeatedKey::Conflict, RepeatedKey::FirstAnswer] {
        let bench = Bench::new(10).await;
        bench.services.dodo.behave(|behaviour| behaviour.repeated_key = repeated);
        bench.ask().await.unwrap();
        bench.fault(Fault::new(Misbehaviour::DropAfter).on("POST", ENTRIES).times(2));
        bench.billing.start();
        bench.send().await;
        bench.until_settled(9).await;
        assert_eq!(bench.debits(), [1]);
    }
}

#[tokio::test]
async fn p3_a_refusal_settles_what_there_is_and_the_next_top_up_pays_the_rest() {
    let bench = Bench::new(5).await;
    bench.ask().await.unwrap();
    for _ in 0..5 {
        bench.send().await;
    }
    bench.services.dodo.expire_credits("ann").unwrap();
    bench.services.dodo.grant("ann", 2, None).unwrap();
    bench.billing.start();
    bench.until("two are settled", |a| a.owed.get() == 3 && a.balance == Some(0)).await;
    assert_eq!(bench.debits().last(), Some(&2));
    assert!(matches!(bench.ask().await, Err(Refusal::OutOfCredit { .. })));
    bench.services.dodo.grant("ann", 10, None).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.until_settled(7).await;
    assert_eq!(bench.ask().await, Ok(()));
}

#[tokio::test]
async fn p8_a_bad_key_stops_no_mail_and_forgets_no_debt() {
    let bench = Bench::new(10).await;
    bench.ask().await.unwrap();
    bench.fault(Fault::new(Reply::status(401)).on("POST", ENTRIES).always());
    bench.billing.start();
    bench.send().await;
    let struck = bench.services.dodo.faults().clone();
    bench.until("it was refused", |_| struck.struck() > 0).await;
    assert_eq!((bench.account().await.owed, bench.ask().await), (Credits::ONE, Ok(())));
    // Reads work, and a top-up is seen although the entry waits.
    bench.services.dodo.grant("ann", 5, None).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.until("the top-up is seen", |account| account.balance == Some(15)).await;
    assert_eq!(bench.account().await.available(), Some(14));
}

#[tokio::test]
async fn p8_a_top_up_during_the_first_call_of_an_entry_that_stays_open_is_seen() {
    let bench = Bench::new(10).await;
    bench.ask().await.unwrap();
    // The first call hangs until we give it up, and no later one is taken either.
    bench.fault(Fault::new(Misbehaviour::HangBefore).on("POST", ENTRIES));
    bench.fault(Fault::new(Reply::status(401)).on("POST", ENTRIES).always());
    bench.billing.start();
    bench.send().await;
    let faults = bench.services.dodo.faults().clone();
    bench.until("the first call is under way", |_| faults.struck() > 0).await;
    bench.services.dodo.grant("ann", 5, None).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.until("the top-up is seen", |account| account.balance == Some(15)).await;
}

#[tokio::test]
async fn an_unknown_entitlement_is_no_empty_account() {
    let bench = Bench::with(10, "cde_of_nobody", Config::default()).await;
    assert_eq!(bench.ask().await, Err(Refusal::BillingUnknown));
    assert_eq!(bench.account().await.balance, None);
    let other = Bench::new(0).await;
    assert!(matches!(other.ask().await, Err(Refusal::OutOfCredit { .. })), "no grant yet");
    assert_eq!(other.account().await.balance, Some(0));
}

#[tokio::test]
async fn p8_known_credit_is_good_for_a_day_without_dodo() {
    let bench = Bench::new(10).await;
    bench.ask().await.unwrap();
    bench.fault(Fault::new(Reply::status(503)).always());
    bench.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(bench.ask().await, Ok(()));
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.ask().await, Err(Refusal::BillingUnknown));
    bench.services.dodo.faults().clear();
    assert_eq!(bench.ask().await, Ok(()));
}

#[tokio::test]
async fn an_operator_who_wants_every_balance_live_gets_it_live() {
    let mut config = Config::default();
    config.billing.balance_max_age_s = 0;
    let bench = Bench::with(1, sandbox::ENTITLEMENT_ID, config).await;
    assert_eq!(bench.ask().await, Ok(()));
    bench.services.dodo.expire_credits("ann").unwrap();
    assert!(matches!(bench.ask().await, Err(Refusal::OutOfCredit { .. })));
    bench.fault(Fault::new(Reply::status(503)).always());
    assert_eq!(bench.ask().await, Err(Refusal::BillingUnknown));
}

#[tokio::test]
async fn a_crowd_that_would_be_refused_makes_one_call_and_waits_for_it() {
    let bench = Bench::new(0).await;
    assert!(bench.ask().await.is_err());
    bench.billing.balance_changed(&bench.ann);
    bench.services.dodo.grant("ann", 5, None).unwrap();
    bench.fault(Fault::new(Misbehaviour::Late { delay_ms: 100 }).on("GET", "/balances"));
    let before = bench.services.dodo.calls();
    let account = bench.account().await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (billing, ann) = (bench.billing.clone(), bench.ann.clone());
        asking.spawn(async move { billing.check_credit(&ann, &account, Credits::ONE).await.map(drop) });
    }
    assert_eq!(asking.join_all().await, vec![Ok(()); 20]);
    assert_eq!(bench.services.dodo.calls() - before, 1);
}

#[tokio::test]
async fn more_strangers_than_calls_are_asked_for_together() {
    let bench = Bench::new(5).await;
    bench.services.dodo.behave(|behaviour| behaviour.per_minute = 240);
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..80 {
        let stranger = bench.add(&format!("cus_{number}"), 3).await;
        let account = bench.store.account(&stranger).await.unwrap().unwrap();
        let billing = bench.billing.clone();
        asking.spawn(async move { billing.check_credit(&stranger, &account, Credits::ONE).await.map(drop) });
    }
    let nobody = bench.add("cus_without", 0).await;
    let account = bench.store.account(&nobody).await.unwrap().unwrap();
    let refused = bench.billing.check_credit(&nobody, &account, Credits::ONE).await;
    assert!(matches!(refused, Err(Refusal::OutOfCredit { .. })), "{refused:?}");
    assert_eq!(asking.join_all().await, vec![Ok(()); 80]);
    assert!(bench.services.dodo.calls() < 25, "{}", bench.services.dodo.calls());
}

#[tokio::test]
async fn an_answer_that_comes_too_late_for_a_client_is_kept_all_the_same() {
    let bench = Bench::new(5).await;
    bench.fault(Fault::new(Misbehaviour::Late { delay_ms: 200 }).on("GET", "/balances"));
    let hung_up = tokio::time::timeout(Duration::from_millis(50), bench.ask()).await;
    assert!(hung_up.is_err());
    bench.until("the balance is known", |account| account.balance == Some(5)).await;
}

#[tokio::test]
async fn many_stale_balances_are_refreshed_by_list() {
    let bench = Bench::new(5).await;
    let mut everybody = vec![bench.ann.clone()];
    for number in 0..9 {
        everybody.push(bench.add(&format!("cus_{number}"), number).await);
    }
    for customer_id in &everybody {
        bench.billing.balance_changed(customer_id);
    }
    let before = bench.services.dodo.calls();
    bench.billing.start();
    let began = Instant::now();
    while bench.store.customers().await.unwrap().iter().any(|customer| customer.account.balance.is_none()) {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        bench.services.dodo.calls() - before,
        2,
        "a page for all, and one call for whoever is on none"
    );
    let customers = bench.store.customers().await.unwrap();
    let balances: Vec<_> = customers.iter().filter_map(|customer| customer.account.balance).collect();
    assert_eq!(balances, [5, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn what_could_not_be_refreshed_is_refreshed_when_dodo_is_back() {
    let bench = Bench::new(5).await;
    bench.fault(Fault::new(Reply::status(503)).on("GET", "/balances"));
    bench.billing.start();
    bench.billing.balance_changed(&bench.ann);
    bench.until("the balance is known", |account| account.balance == Some(5)).await;
}

#[tokio::test]
async fn p3_after_a_restart_an_open_entry_is_posted_again_under_its_key() {
    let bench = Bench::new(5).await;
    bench.ask().await.unwrap();
    bench.send().await;
    let entry_id = EntryId::generate(bench.clock.now(), random::octets());
    let entry =
        bench.store.open_entry(&bench.ann, &entry_id, None, bench.clock.now()).await.unwrap().unwrap();
    let dodo = &bench.billing.0.tools.dodo;
    dodo.post_debit(&entry.customer_id, &entry.entry_id, entry.amount, &entry.reason).await;
    bench.billing.start();
    bench.until_settled(4).await;
    assert_eq!(bench.debits(), [1]);
}

#[tokio::test]
async fn a_low_balance_is_mailed_once_to_the_customer() {
    let bench = Bench::new(12).await;
    bench.ask().await.unwrap();
    for _ in 0..4 {
        bench.send().await;
    }
    for _ in 0..3 {
        bench.billing.low_balance(&bench.ann, None);
    }
    bench.billing.0.tools.tasks.close();
    bench.billing.0.tools.tasks.wait().await;
    let messages = bench.store.messages(Some(&bench.ann), None, 99).await.unwrap();
    let notices: Vec<_> = messages.iter().filter(|message| message.kind == "notice").collect();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].recipients[0].address, "ann@x.example");
}
