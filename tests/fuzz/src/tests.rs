//! A few hundred inputs for each property, made of the tokens that matter to its room, and
//! the seeds of the targets, among which is what once failed.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// A first octet, and the rest of tokens.
fn inputs(tokens: &'static [&'static [u8]], most: usize) -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), messages(tokens, most)).prop_map(|(choice, rest)| [vec![choice], rest].concat())
}

/// So many tokens at most and, now and then, a few octets that are none.
fn messages(tokens: &'static [&'static [u8]], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        30 => prop::sample::select(tokens).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(token, 0..=most).prop_map(|tokens| tokens.concat())
}

const LINES: &[&[u8]] = &[
    b"\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\x16\x03\x01",
    b" \t",
    b"BDAT 10",
    b"bd",
    b"AUTH ",
    b"mail ",
    b"NOOP",
    &[b' '; 509],
    &[b'x'; 300],
    &[b'x'; 506],
    &[b'x'; 1_058],
    &[b'x'; 12_000],
];

const BODIES: &[&[u8]] = &[
    b"\r\n",
    b"\r\n",
    b"text\r\n",
    b"text\r\n",
    b".\r\n",
    b".\r\n",
    b"..\r\n",
    b".text\r\n",
    b"\r\r\n.\r\n",
    b".",
    b"text",
    b"\r",
    b"\n",
    b"\0",
    &[b'x'; 90],
];

const COMMANDS: &[&[u8]] = &[
    b"MAIL FROM:<",
    b"MAIL FROM:<a@b.example>",
    b"RCPT TO:<",
    b"RCPT TO:<a@",
    b"MAIL FROM:<a@b.example> RET=FULL ENVID=a+2Bb",
    b"RCPT TO:<a@b.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b",
    b" NOTIFY=NEVER",
    b" ORCPT=utf-8;",
    b"EHLO ",
    b"EHLO c(.<example",
    b"BDAT ",
    b"AUTH PLAIN ",
    b"GET ",
    b"> ",
    b">",
    b"a@b.example",
    b"<",
    b"@r.example:",
    b"\"a b\\\">\"",
    b"\"plain\"",
    b"@",
    b".",
    b"b\xc3\xbccher",
    b"\xc4\xb0",
    b"xn--",
    b"[192.0.2.1]",
    b"[IPv6:::1]",
    b" SIZE=",
    b" SMTPUTF8",
    b" BODY=8BITMIME",
    b" AUTH=<>",
    b"99999999999999999999",
    b"10",
    b" LAST",
    b" ",
    &[b'x'; 60],
];

const RESPONSES: &[&[u8]] = &[
    b"\n",
    b"AHVzZXIAc2VjcmV0",
    b"dXNlcg==",
    b"c2VjcmV0",
    b"AA==",
    b"AAA=",
    b"AAB=",
    b"=",
    b"*",
    b"AHUA",
    b"dQB1AHM=",
    b"eAB1AHM=",
    b"/w==",
    b" ",
];

const HEADERS: &[&[u8]] = &[
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 01 25\r\n",
    b"PROXY TCP4 192.0.2.01 192.0.2.2 +1 25\r\n",
    b"PROXY TCP6 ::ffff:192.0.2.1 ::1 65535 0\r\n",
    b"PROXY TCP4 ",
    b"PROXY UNKNOWN",
    b"PROXY UNKNOWN a\nb\r\n",
    b" ",
    b"\r\n",
    b"\r",
    b"\n",
    b"192.0.2.1 ",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24",
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x08\x00",
    &[1; 12],
    &[0; 36],
    &[b'f'; 90],
];

/// What the world answers, and how far the client has come.
const OPENINGS: &[&[u8]] = &[
    b"t|EHLO a\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
    b"tyyyyn|EHLO a\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
    b"tyyx|EHLO a\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
    b"tx|EHLO a\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
    b"y|EHLO a\r\n|STARTTLS\r\n|EHLO a\r\n",
    b"n|EHLO a\r\n|STARTTLS\r\n|EHLO a\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
    b"t|",
    b"y|",
];

const SAID: &[&[u8]] = &[
    b"|",
    b"EHLO a\r\n",
    b"|STARTTLS\r\n|",
    b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
    b"AUTH LOGIN\r\ndXNlcg==\r\n",
    b"c2VjcmV0\r\n",
    b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n",
    b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n|DATA\r\n|",
    b"MAIL FROM:<>\r\n",
    b"RCPT TO:<c@d.example>\r\n",
    b"RCPT TO:<e@d.example>\r\n",
    b"|DATA\r\n|",
    b"text\r\n.\r\n",
    b"..text\r\n.\r\n",
    b"a\r\r\n.\r\n",
    b".\r\n|",
    b"BDAT 3\r\nx\r\n",
    b"BDAT 3\r\nx\r\n",
    b"BDAT 6 LAST\r\nx\r\ny\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 201\r\n",
    b"RSET\r\n",
    b"\r\n",
    b"\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
];

const MESSAGES: &[&[u8]] = &[
    b"From: a@x.example\r\n",
    b"Sender: ",
    b"To: ",
    b"Cc: (",
    b"bob@y.example",
    b"Carol <carol@z.example>, ",
    b"Bcc: h@x.example\r\n",
    b"bcc :\r\n\th@x.example\r\n",
    b"X-SES-A: 1\r\n",
    b"Received: r\r\n",
    b"Date: d\r\n",
    b"Message-ID: <1@x>\r\n",
    b"X-Postmeter-Idempotency-Key: k\r\n",
    b"Subject: =?utf-8?",
    b"q?",
    b"=0A",
    b"?=",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b" ",
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b"Content-Type: multipart/alternative; boundary=\"c\"\r\n",
    b"--b\r\n",
    b"--b--\r\n",
    b"--c\r\n",
    b"--c--",
    b"Content-Type: text/html\r\n",
    b"Content-Type: message/rfc822\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Transfer-Encoding: quoted-printable\r\n",
    b"=3",
    b"AA==",
    b"Content-Disposition: attachment; filename*0*=",
    b"utf-8''%",
    b"Content-ID: <i>\r\n",
    b"<img src=cid:i>",
    b"cid:%4",
    b"\"",
    b"\\",
    b"<",
    b">",
    b",",
    b";",
    b":",
    b"@",
    b"\xc3\xbc",
    b"\0",
    b"charset=iso-2022-jp",
    b"\x1b$B",
];

/// Recipes for bodies around one chunk and several, sound ones mostly.
fn recipes() -> impl Strategy<Value = Vec<u8>> {
    let pair = prop_oneof![
        3 => (0u8..7, 0u8..=255),
        2 => (5u8..7, 60u8..=255),
        1 => (7u8..10, 1u8..4),
        1 => (0u8..14, 0u8..2),
    ];
    let header = prop_oneof![Just(vec![]), Just(vec![3, 1, 0, 1]), Just(vec![3, 255, 0, 1])];
    (any::<u8>(), header, prop::collection::vec(pair, 0..8)).prop_map(|(how, header, pairs)| {
        let pairs = pairs.into_iter().flat_map(|(token, times)| [token, times]);
        [large::LARGE, how].into_iter().chain(header).chain(pairs).collect()
    })
}

/// Nothing is kept of a failure: what it prints belongs among the seeds, where the targets
/// begin with it too.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn p7_every_property_holds_for_its_seeds() {
    type Property = fn(&[u8]);
    let rooms: [(&str, Property); 10] = [
        ("bdat", bdat::check),
        ("command", command::check),
        ("data", data::check),
        ("envelope", envelope::check),
        ("line", line::check),
        ("mime", mime::check),
        ("proxy", proxy::check),
        ("sasl", sasl::check),
        ("session", session::check),
        ("tree", tree::check),
    ];
    for (room, check) in rooms {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(room);
        let seeds: Vec<_> = fs::read_dir(&seeds).unwrap().map(|seed| seed.unwrap().path()).collect();
        assert!(!seeds.is_empty(), "{room}");
        seeds.iter().for_each(|seed| check(&fs::read(seed).unwrap()));
    }
}

/// Each kind alone, and beside a text in each kind of multipart: what can be sent is taken,
/// what cannot is refused.
#[test]
fn p6_every_kind_of_part_is_taken_or_refused_wherever_it_stands() {
    const SEALED_TOO: u8 = 0;
    const TWO_PARTS: u8 = 4;
    const TEXT: [u8; 2] = [0, 0];
    for kind in 0..u8::try_from(tree::LEAVES.len()).unwrap() {
        for encoding in [0, 3, 6] {
            let leaf = [encoding, kind];
            tree::check(&[&[SEALED_TOO], leaf.as_slice()].concat());
            for subtype in 0..u8::try_from(tree::SUBTYPES.len()).unwrap() {
                let root = [SEALED_TOO, TWO_PARTS, subtype];
                tree::check(&[root.as_slice(), &TEXT, &leaf].concat());
                tree::check(&[root.as_slice(), &leaf, &TEXT].concat());
            }
        }
    }
}

proptest! {
    // Each has up to a million octets.
    #![proptest_config(ProptestConfig { cases: 32, ..config() })]

    #[test]
    fn p7_a_large_body_is_what_was_given_away_and_what_is_left(recipe in recipes()) {
        data::check(&recipe);
        bdat::check(&recipe);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn p7_lines_are_the_same_however_they_arrive(input in inputs(LINES, 40)) {
        line::check(&input);
    }

    #[test]
    fn p7_a_body_has_one_end_and_everybody_finds_it(input in inputs(BODIES, 12)) {
        data::check(&input);
    }

    #[test]
    fn p7_chunks_come_to_the_same_wherever_they_are_cut(input in inputs(BODIES, 12)) {
        bdat::check(&input);
    }

    #[test]
    fn p7_a_command_that_is_taken_keeps_its_limits(line in messages(COMMANDS, 6)) {
        command::check(&line);
    }

    #[test]
    fn p7_a_sign_in_is_what_a_plain_reading_says(input in inputs(RESPONSES, 8)) {
        sasl::check(&input);
    }

    #[test]
    fn p7_a_proxys_header_is_read_to_its_end_and_not_further(input in inputs(HEADERS, 6)) {
        proxy::check(&input);
    }

    #[test]
    fn p7_a_session_hands_in_what_was_sent_once_and_signed_in(
        opening in prop::sample::select(OPENINGS),
        said in messages(SAID, 40),
    ) {
        session::check(&[opening, &said].concat());
    }

    #[test]
    fn p5_whatever_a_message_says_its_envelope_decides(message in messages(MESSAGES, 40)) {
        mime::check(&message);
        mime::check(&[b"From: a@x.example\r\n".as_slice(), &message].concat());
    }

    #[test]
    fn p5_an_envelope_of_any_size_is_served_whole_and_nobody_else_is(
        pairs in prop::collection::vec(any::<[u8; 2]>(), 0..=envelope::MOST + 20),
    ) {
        envelope::check(pairs.as_flattened());
    }

    #[test]
    fn p6_every_leaf_is_carried_or_named_or_the_mail_is_refused(tree in prop::collection::vec(any::<u8>(), 0..60)) {
        tree::check(&tree);
    }
}
