//! Whatever people send with: the letter arrives whole, costs one credit, and the
//! reply says how many are left.

use mail_parser::MessageParser;

use crate::harness::client::{BCC, Client, FROM, Port, SUBJECT, TEXT, TO, has, run};
use crate::harness::plan::Upstream;
use crate::harness::sink::Security;
use crate::harness::{CUSTOMER_ID, Meter, until};

/// Over both ports, one after the other.
fn sends(client: Client, upstream: Upstream) {
    let meter = Meter::with(upstream).credits(10).start();
    for (nth, (port, left)) in [(Port::StartTls, 9), (Port::Tls, 8)].into_iter().enumerate() {
        let Some(said) = client.send(&meter, port) else { return };
        assert!(said.contains("2.0.0 Queued as "), "{said}");
        assert!(said.contains(&format!(", {left} email credits available")), "{said}");
        match upstream {
            Upstream::Resend => left_resend(&meter, nth),
            Upstream::Smtp(_) => left_smtp(&meter, nth),
        }
    }
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 2);
    assert_eq!(meter.dodo().balance(CUSTOMER_ID), Some(8));
}

fn left_resend(meter: &Meter, nth: usize) {
    let mail = until("the mail at Resend", || meter.mails().get(nth).cloned());
    let email = mail.email;
    let list = |list: &Option<postmeter::sandbox::resend::Addresses>| {
        list.as_ref().map(|list| list.as_slice().join(",")).unwrap_or_default()
    };
    assert!(email.from.as_deref().unwrap().contains(FROM), "{email:?}");
    assert_eq!(
        (list(&email.to), list(&email.cc), list(&email.bcc)),
        (TO.into(), "".into(), BCC.into()),
        "P5"
    );
    assert_eq!(email.subject.as_deref(), Some(SUBJECT));
    assert_eq!(email.text.as_deref().map(str::trim_end), Some(TEXT));
    let headers = email.headers.unwrap_or_default();
    assert!(!headers.keys().any(|name| name.eq_ignore_ascii_case("bcc")), "P5: {headers:?}");
    assert!(!headers.values().any(|value| value.contains(BCC)), "P5: {headers:?}");
}

fn left_smtp(meter: &Meter, nth: usize) {
    let mail = until("the mail at the upstream", || meter.sink().mails().get(nth).cloned());
    assert_eq!((mail.from.as_str(), mail.to), (FROM, vec![TO.to_owned(), BCC.to_owned()]));
    let parsed = MessageParser::default().parse(&mail.bytes).unwrap();
    assert_eq!(parsed.subject(), Some(SUBJECT));
    assert_eq!(parsed.body_text(0).as_deref().map(str::trim_end), Some(TEXT));
    let text = String::from_utf8_lossy(&mail.bytes);
    assert!(!text.contains(BCC) && !text.to_lowercase().contains("\r\nbcc"), "P5: {text}");
    assert!(text.starts_with("Received: from "), "{text}");
}

macro_rules! sends {
    ($($name:ident: $client:ident over $upstream:expr;)*) => {
        $(#[test]
        fn $name() {
            sends(Client::$client, $upstream);
        })*
    };
}

sends! {
    swaks_sends_through_resend: Swaks over Upstream::Resend;
    curl_sends_through_resend: Curl over Upstream::Resend;
    msmtp_sends_through_resend: Msmtp over Upstream::Resend;
    smtplib_sends_through_resend: Smtplib over Upstream::Resend;
    nodemailer_sends_through_resend: Nodemailer over Upstream::Resend;
    lettre_sends_through_resend: Lettre over Upstream::Resend;
    swaks_sends_through_smtp: Swaks over Upstream::Smtp(Security::StartTls);
    curl_sends_through_smtp: Curl over Upstream::Smtp(Security::Implicit);
    msmtp_sends_through_smtp: Msmtp over Upstream::Smtp(Security::None);
    smtplib_sends_through_smtp: Smtplib over Upstream::Smtp(Security::StartTls);
    nodemailer_sends_through_smtp: Nodemailer over Upstream::Smtp(Security::Implicit);
    lettre_sends_through_smtp: Lettre over Upstream::Smtp(Security::None);
}

#[test]
fn curl_sends_over_http() {
    if !has("curl", &["--version"]) {
        return;
    }
    let meter = Meter::resend().start();
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "-H", "Content-Type: application/json", "--data-binary", "@-"]);
    curl.args(["-u", &format!("{}:{}", meter.credential.username, meter.credential.secret)]);
    curl.arg(format!("http://{}/send", meter.process().http));
    let letter = serde_json::json!({ "from": FROM, "to": TO, "bcc": BCC, "subject": SUBJECT, "text": TEXT });
    let said = run(curl, letter.to_string().as_bytes());
    assert!(said.starts_with("{\"id\":\""), "{said}");
    left_resend(&meter, 0);
}
