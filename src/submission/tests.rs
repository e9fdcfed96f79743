use std::future::poll_fn;
use std::task::Poll;

use super::stand_in::{signed_in, submitted, submitted_to, with_handover};
use super::*;
use crate::mime::entity::MAX_PARTS;
use crate::mime::inspect::inspect;

#[tokio::test]
async fn p1_a_client_that_hangs_up_during_the_commit_has_its_mail_sent_at_once_all_the_same() {
    let mut config = Config::default();
    config.senders.policy = SenderPolicy::Any;
    let (submission, store, _directory, mut handed) = with_handover(&config).await;
    let who = signed_in(&store).await;
    let mut submitting = Box::pin(submission.submit(&who, submitted()));
    let waits = poll_fn(|context| Poll::Ready(submitting.as_mut().poll(context).is_pending())).await;
    assert!(waits, "for the commit");
    drop(submitting);
    let part = tokio::time::timeout(Duration::from_secs(10), handed.recv()).await.unwrap();
    assert_eq!(part.unwrap().part.recipients.len(), 1);
}

#[tokio::test]
async fn what_is_accepted_is_handed_over_leased_and_the_last_credit_is_the_last() {
    let (submission, store, _directory, mut handed) = with_handover(&Config::default()).await;
    let who = signed_in(&store).await;
    for left in [1, 0] {
        let accepted = submission.submit(&who, submitted()).await.unwrap();
        assert_eq!(accepted.available.map(Credits::get), Some(left));
        let handed = handed.try_recv().unwrap();
        assert_eq!((handed.part.message_id, handed.part.attempt), (accepted.message_id, 1));
    }
    let refused = submission.submit(&who, submitted()).await;
    assert!(matches!(refused, Err(Refusal::OutOfCredit { .. })), "P8: {refused:?}");
    assert!(handed.try_recv().is_err());
    assert_eq!(store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn credit_at_rcpt_is_asked_for_only_beyond_what_was_found() {
    let config: Config = toml::from_str("[billing]\nunit = \"recipient\"").unwrap();
    let (submission, store, _directory, _handed) = with_handover(&config).await;
    let who = signed_in(&store).await;
    // Nobody is there to be asked: what is covered must be known.
    let mut begun =
        Begun { senders: Vec::new(), available: Some(Credits::new(5).unwrap()), suppresses: false };
    assert_eq!(submission.check_credit(&who, &begun, 5).await, Ok(None));
    let refused = submission.check_credit(&who, &begun, 6).await;
    assert!(matches!(refused, Err(Refusal::OutOfCredit { .. })), "{refused:?}");
    begun.available = Some(Credits::ONE);
    let found = submission.check_credit(&who, &begun, 2).await.unwrap().unwrap();
    begun.covers(found);
    assert_eq!(submission.check_credit(&who, &begun, 2).await, Ok(None));
    let by_message = Begun { senders: Vec::new(), available: None, suppresses: false };
    assert_eq!(submission.check_credit(&who, &by_message, 50).await, Ok(None));
}

#[tokio::test]
async fn p3_whoever_was_left_out_at_first_gets_a_message_of_its_own_under_the_same_key() {
    let config: Config = toml::from_str("[billing]\nunit = \"recipient\"").unwrap();
    let (submission, store, _directory, mut handed) = with_handover(&config).await;
    let who = signed_in(&store).await;
    let bytes = [b"X-Postmeter-Idempotency-Key: k\r\n".as_slice(), &submitted().bytes].concat();
    let submit = |to: &'static [&'static str]| {
        let (submission, who) = (submission.clone(), who.clone());
        let submitted = Submitted { bytes: bytes.clone(), ..submitted_to(to) };
        async move { submission.submit(&who, submitted).await.unwrap() }
    };
    let first = submit(&["a@y.example"]).await;
    let second = submit(&["a@y.example", "b@Y.example"]).await;
    assert_eq!(second.available, Some(Credits::ZERO), "it costs what is new");
    for (accepted, to) in [(&first, "a@y.example"), (&second, "b@y.example")] {
        let part = handed.try_recv().unwrap().part;
        assert_eq!((&part.message_id, part.recipients.len()), (&accepted.message_id, 1));
        assert_eq!(part.recipients[0].to_string(), to);
    }
    // Without a credit left: nobody is new.
    for (to, want) in [
        (["a@y.example"].as_slice(), &first),
        (&["b@y.example"], &second),
        (&["b@y.example", "a@Y.EXAMPLE"], &second),
    ] {
        assert_eq!(submit(to).await.message_id, want.message_id, "{to:?}");
    }
    assert!(handed.try_recv().is_err());
    assert_eq!(store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_customer_who_sends_too_fast_is_told_when_to_come_again_and_others_are_not() {
    let config: Config = toml::from_str("[limits]\nmessages_per_s = 1\nmessages_burst = 2").unwrap();
    let (submission, store, _directory, _handed) = with_handover(&config).await;
    let who = signed_in(&store).await;
    let credential = |name: &str, customer_id: &CustomerId| crate::store::customer::Credential {
        username: Username::parse(name).unwrap(),
        customer_id: customer_id.clone(),
        label: None,
        created_at: Clock::system().now(),
        revoked_at: None,
        caps: Default::default(),
        last_used_at: None,
    };
    let hash = |secret: &str| crate::domain::credential::Secret::presented(secret).hash();
    store.add_credential(&credential("pm-1", &who.customer_id), &hash("a")).await.unwrap();
    let bob = CustomerId::parse("bob").unwrap();
    store.add_customer(&bob, None, None, Clock::system().now()).await.unwrap();
    store.add_credential(&credential("pm-2", &bob), &hash("b")).await.unwrap();
    let from = ReversePath::parse("app@x.example").unwrap();
    let mut refused = 0;
    for _ in 0..9 {
        match submission.begin(&who, &from).await {
            Err(Refusal::TooFast { retry_after_s: 1 }) => refused += 1,
            answer => assert!(answer.is_ok(), "{answer:?}"),
        }
    }
    // One more for each second that these nine may take.
    assert!((5..=7).contains(&refused), "{refused}");
    let bob = SignedIn { customer_id: bob, username: Some(Username::parse("pm-2").unwrap()) };
    let answer = submission.begin(&bob, &from).await;
    assert!(matches!(answer, Err(Refusal::SenderNotAllowed { .. })), "{answer:?}");
}

/// A large message, which Resend can carry or not.
fn large(is_carried: bool) -> Submitted {
    let parts = if is_carried { 1 } else { MAX_PARTS + 1 };
    let mut bytes = b"From: app@x.example\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n".to_vec();
    bytes.extend_from_slice("--b\r\n\r\nx\r\n".repeat(parts).as_bytes());
    bytes.extend_from_slice("and much more\r\n".repeat(CHUNK_BYTES / 10).as_bytes());
    bytes.extend_from_slice(b"--b--\r\n");
    Submitted { bytes, ..submitted() }
}

#[tokio::test]
async fn p2_large_mail_is_not_translated_without_credit_whatever_there_was_when_it_began() {
    let config = Config::default();
    let (submission, store, _directory, _handed) = with_handover(&config).await;
    let who = signed_in(&store).await;
    submission.submit(&who, submitted()).await.unwrap();
    let translating = &submission.0.tools.translating;
    let every_turn = translating.turn(config.upstream.max_bytes_translating).await.unwrap();
    let submit = |submitted: Submitted| {
        let (submission, who) = (submission.clone(), who.clone());
        tokio::spawn(async move { submission.submit(&who, submitted).await })
    };
    let first = submit(large(true));
    // Until it is the first of its customer's.
    let is_first = async {
        while tokio::time::timeout(Duration::ZERO, translating.first(&who.customer_id)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), is_first).await.expect("it waits for its turn");
    let second = submit(large(false));
    drop(every_turn);
    assert!(first.await.unwrap().is_ok());
    let refused = second.await.unwrap();
    assert!(matches!(refused, Err(Refusal::OutOfCredit { .. })), "what it is was not looked at: {refused:?}");
    // Nor does it wait for a turn.
    let _every_turn = translating.turn(config.upstream.max_bytes_translating).await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(30), submission.submit(&who, large(true))).await;
    assert!(matches!(refused, Ok(Err(Refusal::OutOfCredit { .. }))), "{refused:?}");
    assert_eq!(store.audit().await.unwrap(), []);
}

/// Room for so many chunks of all, and of one customer.
fn with_room(all: usize, each: usize) -> Config {
    let mut config = Config::default();
    config.smtp.max_bytes_spooled = all * CHUNK_BYTES;
    config.smtp.max_bytes_spooled_per_customer = each * CHUNK_BYTES;
    config
}

fn chunk() -> Vec<u8> {
    vec![b'x'; CHUNK_BYTES]
}

#[tokio::test]
async fn what_is_on_disk_and_not_accepted_is_limited_for_each_customer_and_for_all() {
    let (submission, _store, _directory, _handed) = with_handover(&with_room(4, 3)).await;
    let id = |name: &str| CustomerId::parse(name).unwrap();
    let mut spools = [id("ann"), id("ann"), id("bob")].map(|whose| submission.spool(&whose));
    // Whose, and whether there is room for one more chunk.
    for (nth, want) in [(0, true), (0, true), (1, true), (1, false), (0, false), (2, true), (2, false)] {
        let written = spools[nth].write(chunk()).await;
        assert_eq!(written, if want { Ok(()) } else { Err(Refusal::StoreUnavailable) }, "{nth}");
    }
    drop(spools);
    let again = async {
        loop {
            tokio::task::yield_now().await;
            let mut spool = submission.spool(&id("bob"));
            for _ in 0..3 {
                if spool.write(chunk()).await.is_err() {
                    break;
                }
            }
            if spool.octets() == 3 * CHUNK_BYTES {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again).await.expect("room, once the others have left");
}

#[tokio::test]
async fn an_accepted_message_takes_no_room_of_those_that_are_not_and_http_is_held_to_it_too() {
    let (submission, store, _directory, _handed) = with_handover(&with_room(9, 2)).await;
    let who = signed_in(&store).await;
    let whole = |chunks: usize| {
        let mut submitted = submitted();
        submitted.bytes.extend(std::iter::repeat_n(&b"x\r\n"[..], chunks * CHUNK_BYTES / 3 - 9).flatten());
        submitted
    };
    let refused = submission.submit(&who, whole(3)).await;
    assert_eq!(refused, Err(Refusal::StoreUnavailable), "more than a customer may have there");
    for nth in 0..2 {
        let accepting = async {
            loop {
                tokio::task::yield_now().await;
                // What was refused may take its time to leave; what was accepted takes none.
                match submission.submit(&who, whole(2)).await {
                    Err(Refusal::StoreUnavailable) if nth == 0 => {}
                    answer => return answer,
                }
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(30), accepting).await.expect("room");
        assert!(answer.is_ok(), "{nth}: {answer:?}");
    }
    assert_eq!(store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn what_is_asked_to_be_told_is_no_part_of_what_a_key_means() {
    use crate::domain::dsn::{Dsn, EnvelopeId, Notify, RecipientDsn, Ret};
    use crate::domain::envelope::Draft;
    use crate::domain::idempotency::{Fingerprint, Fingerprinting};
    let bytes = b"From: app@x.example\r\nX-Postmeter-Idempotency-Key: k\r\n\r\nWorld\r\n".to_vec();
    let inspection = inspect(&bytes).unwrap();
    let fingerprint = async |ret: &str, envelope_id: &str, notify: &str| -> Fingerprint {
        let dsn = Dsn::new(Ret::parse(ret).ok(), EnvelopeId::parse(envelope_id).ok());
        let mut draft = Draft::new(ReversePath::parse("app@x.example").unwrap(), 9).asking(dsn);
        let asked = RecipientDsn { notify: Notify::parse(notify).ok(), original: None };
        draft.add_asking(Mailbox::parse("a@y.example").unwrap(), asked);
        let submitted = Submitted { bytes: bytes.clone(), envelope: draft.seal().unwrap(), ..submitted() };
        retried::in_header(&submitted, &inspection).await.unwrap().unwrap().fingerprint
    };
    let mut before = Fingerprinting::of("message").field("from", b"app@x.example").field("message", b"");
    inspection.meant(&bytes).for_each(|piece| before.last(piece));
    let usual = fingerprint("", "", "").await;
    assert_eq!(usual, before.end(), "keys from before are still good");
    // A client that retries names its transaction anew.
    for (ret, envelope_id, notify) in
        [("", "", "NEVER"), ("FULL", "", ""), ("", "QQ", ""), ("HDRS", "Q2", "")]
    {
        assert_eq!(usual, fingerprint(ret, envelope_id, notify).await, "{ret} {envelope_id} {notify}");
    }
}

#[tokio::test]
async fn where_any_sender_goes_one_that_is_not_listed_gets_no_more_mail_than_failures_make() {
    use crate::domain::dsn::{Dsn, EnvelopeId, Notify, RecipientDsn, Ret};
    use crate::domain::envelope::Draft;
    let to = Mailbox::parse("a@y.example").unwrap();
    let own = SenderPattern::parse("x.example").unwrap();
    // The policy, the customer's list, and what is told then.
    let table = [
        (SenderPolicy::Any, vec![], "NEVER", Ret::Headers),
        (SenderPolicy::Any, vec![SenderPattern::parse("z.example").unwrap()], "NEVER", Ret::Headers),
        (SenderPolicy::Any, vec![own.clone()], "SUCCESS", Ret::Full),
        (SenderPolicy::Listed, vec![own], "SUCCESS", Ret::Full),
    ];
    for (policy, senders, notify, ret) in table {
        let mut config = Config::default();
        config.senders.policy = policy;
        let (submission, store, _directory, mut handed) = with_handover(&config).await;
        let who = signed_in(&store).await;
        let dsn = Dsn::new(Some(Ret::Full), EnvelopeId::parse("QQ").ok());
        let mut draft = Draft::new(ReversePath::parse("app@x.example").unwrap(), 9).asking(dsn);
        let asked = RecipientDsn { notify: Notify::parse("SUCCESS").ok(), original: None };
        draft.add_asking(to.clone(), asked);
        let begun = Begun { senders, available: None, suppresses: false };
        let asking = Submitted { begun, envelope: draft.seal().unwrap(), ..submitted() };
        submission.submit(&who, asking).await.unwrap();
        let dsn = handed.try_recv().unwrap().part.dsn;
        let told = dsn.of(&to).notify.map(|notify| notify.to_string());
        assert_eq!((told.as_deref(), dsn.ret()), (Some(notify), Some(ret)), "{policy:?}");
        assert_eq!(dsn.envelope_id().map(EnvelopeId::as_str), Some("QQ"));
    }
}

#[tokio::test]
async fn p6_a_field_that_is_taken_out_before_the_message_is_kept_is_among_its_notes() {
    let (submission, store, _directory, _handed) = with_handover(&Config::default()).await;
    let who = signed_in(&store).await;
    let bytes = [b"Resend-Tags: a\r\nX-SES-Configuration-Set: c\r\n".as_slice(), &submitted().bytes].concat();
    let accepted = submission.submit(&who, Submitted { bytes, ..submitted() }).await.unwrap();
    let log = store.message(&accepted.message_id).await.unwrap().unwrap();
    let wanted = ["Resend-Tags", "X-SES-Configuration-Set"];
    assert_eq!(log.notes, wanted.map(|name| format!("header {name}: is not carried")));
}
