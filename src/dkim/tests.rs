//! Whose mail is signed, with which fields. Whether the signatures hold is for others
//! to say: `tests/integration/dkim.rs` asks dkimpy.

use std::path::Path;

use super::*;

const RSA: &str = include_str!("tests/rsa.pem");
const ED25519: &str = include_str!("tests/ed25519.pem");
/// `openssl pkey -pubout -outform DER` of the same files; of the second the last 32 octets.
const RSA_RECORD: &str = concat!(
    "v=DKIM1; k=rsa; p=",
    "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAsjSdwJ7b26+n4xqBFND0cp+0ua912XaQBrWw",
    "aFtiBn04Tg/fkavAAxK4iL6NPjD5MqA+BAeTzAjqH2mY9OrCJLjs2H3yhhg40wuKvJgZcX8ESHv+hBnZ",
    "FXuRKGeqLFJTwlLEzJUypgcKQNiJDflIx9ZXthAfPNHONm0a38dpkL6BphKYt3ZlTuXBETzeTYyJcUYU",
    "rS1r4tjy5GH86m6sZMZOAZKEDvmuuMlcCUuu0UpudOPX9TBa43v7iTLy8e4FhnirJxFcgCR7pXXzFgeJ",
    "YoLHs8puIuK1Gq113WZqt/KcFnPzcnS3L1GsOV+tn7n8K47sBL7Ia3P2YUAVT8FhhwIDAQAB",
);
const ED25519_RECORD: &str = "v=DKIM1; k=ed25519; p=Zo5DMLhWNOi8hTqfbdzWmRuoXjlAKm0tU6GDV3cgb0Q=";

fn settings(domain: &str, file: &str, default: bool) -> KeySetting {
    let key_file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dkim/tests").join(file);
    KeySetting { domain: domain.to_owned(), selector: "s1".to_owned(), key_file, default }
}

fn signer(keys: &[(&str, bool)]) -> Signer {
    let settings: Vec<KeySetting> =
        keys.iter().map(|(domain, default)| settings(domain, "ed25519.pem", *default)).collect();
    Signer::load(&settings).unwrap()
}

fn signed(signer: &Signer, message: &[u8]) -> String {
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    String::from_utf8(signer.sign(message, now).unwrap()).unwrap()
}

/// The values of a tag, one for each signature.
fn values(fields: &str, tag: &str) -> Vec<String> {
    let unfolded: String = fields.replace("\r\n\t", "");
    let tag = format!("{tag}=");
    let words =
        unfolded.split([';', '\r', '\n']).map(|word| word.trim().trim_start_matches("DKIM-Signature: "));
    words.filter_map(|word| word.strip_prefix(&tag)).map(str::to_owned).collect()
}

#[test]
fn keys_in_every_form_give_the_record_to_publish() {
    let table = [("rsa.pem", RSA_RECORD), ("rsa-pkcs1.pem", RSA_RECORD), ("ed25519.pem", ED25519_RECORD)];
    for (file, want) in table {
        let signer = Signer::load(&[settings("Example.com", file, false)]).unwrap();
        let want = Record { name: "s1._domainkey.example.com".to_owned(), value: want.to_owned() };
        assert_eq!(signer.records(), [want], "{file}");
    }
}

#[test]
fn p10_what_is_no_key_is_refused_and_no_key_is_shown() {
    let ecdsa = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let table = [
        ("", UnusableKey::Pem),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", UnusableKey::Pem),
        (include_str!("tests/rsa-1024.pem"), UnusableKey::Kind("TooSmall".to_owned())),
        (&ecdsa, UnusableKey::Kind("WrongAlgorithm".to_owned())),
    ];
    for (pem, want) in table {
        assert_eq!(Key::from_pem(pem.as_bytes()).unwrap_err(), want, "{pem}");
    }
    assert!(matches!(
        Signer::load(&[settings("example.com", "none.pem", false)]),
        Err(InvalidDkim::Unreadable { .. })
    ));
    for pem in [RSA, ED25519] {
        let shown = format!("{:?}", Key::from_pem(pem.as_bytes()).unwrap());
        assert!(shown.ends_with("-sha256"), "{shown}");
    }
}

#[test]
fn the_key_of_the_nearest_domain_signs_or_the_default() {
    let own = [("example.com", false), ("mail.example.com", false), ("b\u{fc}cher.example", false)];
    let with_default = [&own[..], &[("relay.example", true)]].concat();
    let table = [
        ("a@example.com", &["example.com"][..]),
        ("Ann <a@EXAMPLE.com>", &["example.com"]),
        ("a@mail.example.com", &["mail.example.com"]),
        ("a@x.y.mail.example.com", &["mail.example.com"]),
        ("a@news.example.com", &["example.com"]),
        ("a@notexample.com", &[]),
        ("a@com", &[]),
        ("a@b\u{fc}cher.example", &["xn--bcher-kva.example"]),
        ("a@xn--bcher-kva.example", &["xn--bcher-kva.example"]),
        ("a@example.com, b@elsewhere.example", &["example.com"]),
        ("nonsense", &[]),
    ];
    for (from, want) in table {
        let message = format!("From: {from}\r\n\r\nbody\r\n");
        assert_eq!(values(&signed(&signer(&own), message.as_bytes()), "d"), want, "{from}");
        let want = if want.is_empty() { &["relay.example"] } else { want };
        assert_eq!(values(&signed(&signer(&with_default), message.as_bytes()), "d"), want, "{from}");
    }
    assert_eq!(signed(&signer(&own), b"Subject: nobody's\r\n\r\n"), "");
}

#[test]
fn every_key_of_the_domain_signs() {
    let keys = [settings("example.com", "rsa.pem", false), settings("example.com", "ed25519.pem", false)];
    let fields = signed(&Signer::load(&keys).unwrap(), b"From: a@example.com\r\n\r\nbody\r\n");
    assert_eq!(values(&fields, "a"), ["rsa-sha256", "ed25519-sha256"]);
    assert_eq!(values(&fields, "t"), ["1700000000", "1700000000"]);
    assert_eq!(values(&fields, "c"), ["relaxed/relaxed", "relaxed/relaxed"]);
    assert!(values(&fields, "l").is_empty());
    assert!(fields.lines().all(|line| line.len() <= 78) && fields.is_ascii(), "{fields}");
}

#[test]
fn fields_are_signed_once_more_than_they_are_there() {
    let message = b"Received: from x\r\nFrom: a@example.com\r\nTO: b@y.example\r\nto: c@y.example\r\n\
        List-Id: <l>\r\nX-Other: x\r\n\r\nbody\r\n";
    let names = values(&signed(&signer(&[("example.com", false)]), message), "h");
    let want = "From:From:To:To:To:Cc:Subject:Date:Reply-To:Message-ID:MIME-Version:Content-Type:\
                Content-Transfer-Encoding:List-Id";
    assert_eq!(names, [want]);
}

#[test]
fn what_is_signed_depends_on_the_message_alone() {
    let signer = signer(&[("example.com", false)]);
    let base: &[u8] = b"From: a@example.com\r\nSubject: a  b\r\n\r\nbody\r\n";
    let table: [(&[u8], bool); 6] = [
        (base, true),
        (b"FROM: a@example.com\r\nSubject:  a\r\n\tb \r\n\r\nbody \r\n\r\n", true),
        (b"X: y\r\nFrom: a@example.com\r\nSubject: a b\r\n\r\nbody", true),
        (b"From: a@example.com\r\nSubject: a b\r\n\r\nBody\r\n", false),
        (b"From: a@example.com\r\nSubject: A b\r\n\r\nbody\r\n", false),
        (b"From: a@example.com\r\nSubject: a b\r\nCc: d@y.example\r\n\r\nbody\r\n", false),
    ];
    for (message, is_same) in table {
        let same = values(&signed(&signer, message), "b") == values(&signed(&signer, base), "b");
        assert_eq!(same, is_same, "{}", String::from_utf8_lossy(message));
    }
}
