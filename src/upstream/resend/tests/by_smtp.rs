//! What Resend's SMTP service is given counts under the rate of the API.

use secrecy::SecretString;
use tokio::time::Instant;

use super::*;
use crate::upstream::smtp::{Reuse, SmtpSettings, SmtpUpstream};

/// An SMTP server at which nobody listens.
fn closed(is_resend: bool) -> SmtpUpstream {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let second = Duration::from_secs(1);
    SmtpUpstream::new(&SmtpSettings {
        url: SecretString::from(url),
        allow_plaintext: true,
        hostname: "relay.example".to_owned(),
        timeout: Duration::from_secs(5),
        reuse: Reuse { max_messages: 1, max_age: second, max_idle: second },
        signer: Arc::default(),
        clock: Clock::system(),
        is_resend,
    })
    .unwrap()
}

fn outgoing() -> Outgoing {
    Outgoing {
        part_id: PartId::parse("m1-0").unwrap(),
        idempotency_key: "m1-0-0".to_owned(),
        reverse_path: ReversePath::Null,
        recipients: vec![Mailbox::parse("b@y.example").unwrap()],
        repeats: None,
        bytes: Bytes::from_static(b"From: a@x.example\r\n\r\nhi\r\n"),
        dsn: Arc::default(),
        tenure: crate::upstream::tenure::Tenure::for_good(),
    }
}

#[tokio::test(start_paused = true)]
async fn much_mail_at_once_is_spread_over_the_seconds_that_calls_are_counted_in() {
    let (resend, _stand_in) = client(&[]).await;
    resend.turns.learn(200, &RateInfo { limit: Some(2), ..RateInfo::default() });
    let began = Instant::now();
    let mails: Vec<_> = (0..30)
        .map(|nth| {
            let resend = resend.clone();
            tokio::spawn(async move {
                // Every third is a call of the API.
                match nth % 3 {
                    0 => resend.turn_of_one().await?.leave().await,
                    _ => resend.next_of_all().await?,
                }
                Ok(began.elapsed())
            })
        })
        .collect();
    let (mut left, mut put_off) = (Vec::new(), Vec::new());
    for mail in mails {
        match mail.await.unwrap() {
            Ok(at) => left.push(at),
            Err(outcome) => put_off.push(told(&outcome)),
        }
    }
    left.sort_unstable();
    assert!((18..=22).contains(&left.len()), "two of each of ten seconds: {left:?}");
    let too_soon = left.windows(3).find(|three| three[2] - three[0] < Duration::from_secs(1));
    assert_eq!(too_soon, None);
    assert_eq!(left.len() + put_off.len(), 30);
    assert!(put_off.iter().all(|told| told == "transient 4.4.5 10 counts=false"), "{put_off:?}");
}

#[tokio::test]
async fn only_mail_for_resends_own_service_waits_for_a_turn_there() {
    for (is_resend, want) in [(true, "transient 4.4.5"), (false, "transient 4.4.1")] {
        let (resend, _stand_in) = client(&[]).await;
        let retry_after = Some(Duration::from_secs(60));
        resend.turns.learn(429, &RateInfo { retry_after, ..RateInfo::default() });
        let smtp = Some(closed(is_resend));
        let upstreams = Upstreams { resend: Some(resend), smtp, translating: Translating::new(1 << 20) };
        let outcome = upstreams.prepare(Road::Smtp, outgoing()).await.unwrap().send().await;
        assert!(told(&outcome).starts_with(want), "{is_resend}: {}", told(&outcome));
    }
}
