use super::*;

const CHUNK: (&str, &str) = ("BDAT 3", "250 2.0.0 3 octets received\r\n");
const LAST: (&str, &str) = ("BDAT 3 LAST", "250 2.0.0 Queued as m1, 6 email credits available\r\n");
/// Longer than the limit, shorter than what is drained.
const OVERSIZE: (&str, &str) = ("BDAT 1001", "552 5.3.4 Message is larger than 1000 octets\r\n");
const NO_END: &str = "421 4.7.0 Message goes on far beyond the size limit, closing the connection\r\n";
/// More than is ever drained.
const ENDLESS: usize = (64 << 20) + 1;

/// A stage, and the lines that lead to it.
type Place = (&'static str, Security, &'static [(&'static str, &'static str)]);

const PLACES: [Place; 9] = [
    ("connected", Security::Plain, &[]),
    ("connected under TLS", Security::Tls, &[]),
    ("greeted", Security::Plain, &[EHLO]),
    ("greeted under TLS", Security::Tls, &[EHLO]),
    ("ready", Security::Tls, &[EHLO, IN]),
    ("mail", Security::Tls, &[EHLO, IN, MAIL]),
    ("recipients", Security::Tls, &[EHLO, IN, MAIL, RCPT]),
    ("chunks", Security::Tls, &[EHLO, IN, MAIL, RCPT, CHUNK]),
    ("spoiled", Security::Tls, &[EHLO, IN, MAIL, RCPT, OVERSIZE]),
];

/// How many commands were answered: DATA has a word in between.
fn answers(talk: &Talk) -> usize {
    talk.said.iter().filter(|said| !said.starts_with("354 ")).count()
}

#[test]
fn every_command_in_every_stage() {
    let table = [
        ("EHLO c.example", "250 250 250 250 250 250 250 250 250"),
        ("HELO c.example", "250 250 250 250 250 250 250 250 250"),
        ("STARTTLS", "220 503 220 503 503 503 503 503 503"),
        (IN.0, "538 503 538 235 503 503 503 503 503"),
        (MAIL.0, "503 503 530 530 250 503 503 503 503"),
        (RCPT.0, "503 503 503 503 503 250 250 503 503"),
        ("DATA", "503 503 503 503 503 503 250 503 503"),
        ("BDAT 3", "503 503 503 503 503 503 250 250 552"),
        ("BDAT 3 LAST", "503 503 503 503 503 503 250 250 552"),
        ("BDAT 0", "503 503 503 503 503 503 250 250 552"),
        ("BDAT 0 LAST", "503 503 503 503 503 503 250 250 552"),
        ("BDAT 1001 LAST", "503 503 503 503 503 503 552 552 552"),
        ("BDAT 67108865", "421 421 421 421 421 421 421 421 421"),
        ("BDAT", "501 501 501 501 501 501 501 501 501"),
        ("BDAT -1", "501 501 501 501 501 501 501 501 501"),
        ("RSET", "250 250 250 250 250 250 250 250 250"),
        ("NOOP", "250 250 250 250 250 250 250 250 250"),
        ("VRFY a", "252 252 252 252 252 252 252 252 252"),
        ("HELP", "214 214 214 214 214 214 214 214 214"),
        ("QUIT", "221 221 221 221 221 221 221 221 221"),
        ("NONSENSE", "500 500 500 500 500 500 500 500 500"),
    ];
    for (line, wants) in table {
        for ((place, security, lines), want) in PLACES.into_iter().zip(wants.split(' ')) {
            let world = World::default();
            let mut talk = dialog(security, &world, lines);
            let before = answers(&talk);
            talk.line(line.as_bytes(), &world);
            assert!(talk.last().starts_with(want), "{line} when {place}: {}", talk.last());
            assert_eq!(answers(&talk), before + 1, "{line} when {place}: one reply");
            let closes = ["QUIT", "BDAT", "BDAT -1", "BDAT 67108865"].contains(&line);
            assert_eq!(matches!(talk.next, Next::Close), closes, "{line} when {place}");
        }
    }
}

#[test]
fn a_message_in_chunks_is_taken_like_any_other() {
    let world = World::default();
    let by_data = dialog(Security::Tls, &world, &[EHLO, IN, MAIL, RCPT, QUEUED]);
    assert!(by_data.said[1].contains("250-CHUNKING\r\n") && !by_data.said[1].contains("BINARYMIME"));
    let in_one = dialog(Security::Tls, &world, &[EHLO, IN, MAIL, RCPT, LAST]);
    assert_eq!(in_one.submitted, by_data.submitted);
    assert_eq!(in_one.last(), by_data.last());
    let none = ("BDAT 0", "250 2.0.0 0 octets received\r\n");
    let several = [EHLO, IN, MAIL, RCPT, none, CHUNK, none, ("NOOP", "250"), CHUNK, ("BDAT 0 LAST", LAST.1)];
    let talk = dialog(Security::Tls, &world, &several);
    assert_eq!(talk.submitted, [b"x\r\nx\r\n"]);
    let again = [EHLO, IN, MAIL, RCPT, CHUNK, LAST, MAIL, RCPT, QUEUED, MAIL, RCPT, LAST];
    assert_eq!(dialog(Security::Tls, &world, &again).submitted.len(), 3);
}

#[test]
fn a_message_that_was_begun_in_chunks_goes_on_in_chunks() {
    let lines = [
        EHLO,
        IN,
        MAIL,
        RCPT,
        CHUNK,
        ("DATA", "503 5.5.1 BDAT has begun"),
        ("RCPT TO:<late@d.example>", "503 5.5.1 BDAT has begun"),
        (MAIL.0, "503 5.5.1 A message is begun already"),
        LAST,
    ];
    let talk = dialog(Security::Tls, &World::default(), &lines);
    assert_eq!(talk.counted, [1], "nobody who came late gets it");
    assert_eq!(talk.submitted, [b"x\r\nx\r\n"]);
}

#[test]
fn rset_and_ehlo_drop_what_has_come_in_chunks() {
    for begun in [CHUNK, OVERSIZE] {
        for end in [("RSET", "250 2.0.0"), EHLO, ("HELO c.example", "250 mx.example")] {
            let nothing = ("BDAT 3 LAST", "503 5.5.1 Send MAIL first");
            let lines = [EHLO, IN, MAIL, RCPT, begun, end, nothing, MAIL, RCPT, LAST];
            let talk = dialog(Security::Tls, &World::default(), &lines);
            assert_eq!(talk.submitted, [b"x\r\n"]);
        }
    }
}

#[test]
fn p7_an_error_in_the_middle_holds_to_the_end_of_the_message() {
    let flawed = |octets: &[u8]| World { octets: octets.to_vec(), ..World::default() };
    let table = [
        (World { room: false, ..World::default() }, "BDAT 3", "452 4.3.1 No room"),
        (flawed(b"x\nx"), "BDAT 3", "554 5.6.0 Message holds an LF"),
        (flawed(b"x\rx"), "BDAT 3", "554 5.6.0 Message holds a CR"),
        (flawed(b"x\0x"), "BDAT 3", "554 5.6.0 Message holds a NUL"),
        (World::default(), "BDAT 1001", OVERSIZE.1),
    ];
    for (world, line, want) in table {
        for end in ["BDAT 3 LAST", "BDAT 0 LAST"] {
            let mut talk = dialog(Security::Tls, &world, &[EHLO, IN, MAIL, RCPT, (line, want)]);
            let sound = World::default();
            for line in ["BDAT 3", "BDAT 0", end] {
                talk.line(line.as_bytes(), &sound);
                assert!(talk.last().starts_with(want), "{line}: {}", talk.last());
            }
            for (line, want) in [(end, "503 5.5.1 Send MAIL first"), MAIL, RCPT, LAST] {
                talk.line(line.as_bytes(), &sound);
                assert!(talk.last().starts_with(want), "{line}: {}", talk.last());
            }
            assert_eq!(talk.submitted, [b"x\r\n"], "the one after it");
        }
    }
}

#[test]
fn the_limit_is_that_of_all_chunks_together() {
    let world = World { octets: vec![b'x'; 10], ..World::default() };
    let (half, more) = (("BDAT 500", "250"), ("BDAT 501", OVERSIZE.1));
    dialog(Security::Tls, &world, &[EHLO, IN, MAIL, RCPT, half, more, ("BDAT 0 LAST", OVERSIZE.1), MAIL]);
    dialog(Security::Tls, &world, &[EHLO, IN, MAIL, RCPT, half, ("BDAT 498 LAST", LAST.1)]);
    let no_room_for_a_line_end = ("BDAT 499 LAST", OVERSIZE.1);
    dialog(Security::Tls, &world, &[EHLO, IN, MAIL, RCPT, half, no_room_for_a_line_end, MAIL]);
}

#[test]
fn p7_what_would_never_end_is_not_waited_for() {
    let world = World { octets: vec![b'x'; 64 << 10], ..World::default() };
    let (half, most) = (format!("BDAT {}", ENDLESS / 2), format!("BDAT {}", usize::MAX));
    for (place, security, lines) in PLACES {
        let mut talk = dialog(security, &World::default(), lines);
        talk.line(most.as_bytes(), &world);
        assert_eq!(talk.last(), NO_END, "{place}");
        assert!(matches!(talk.next, Next::Close), "{place}");
    }
    let halves = [EHLO, IN, MAIL, RCPT, (half.as_str(), OVERSIZE.1), (half.as_str(), OVERSIZE.1)];
    let mut talk = dialog(Security::Tls, &world, &halves);
    assert!(matches!(talk.next, Next::Command(_)));
    talk.line(b"BDAT 1", &world);
    assert!(talk.last() == NO_END && matches!(talk.next, Next::Close));
    assert!(talk.submitted.is_empty());
}

#[test]
fn p7_oversize_has_the_same_end_by_data_and_by_chunks() {
    let most = rules().max_drained_octets();
    // How much comes; what is said to it, and whether the session goes on.
    let table = [(1_001, OVERSIZE.1, true), (most, OVERSIZE.1, true), (most + 1, NO_END, false)];
    for (octets, want, goes_on) in table {
        let world = World {
            body: Body::TooLarge,
            octets: vec![b'x'; 64 << 10],
            is_endless: octets > most,
            ..World::default()
        };
        for line in ["DATA".to_owned(), format!("BDAT {octets} LAST")] {
            let talk = dialog(Security::Tls, &world, &[EHLO, IN, MAIL, RCPT, (&line, want)]);
            assert_eq!(matches!(talk.next, Next::Command(_)), goes_on, "{line} of {octets}");
            assert!(talk.submitted.is_empty());
        }
    }
}

#[test]
fn chunks_of_nothing_lead_nowhere() {
    let world = World::default();
    let nothing = ("BDAT 0", "250 2.0.0 0 octets received\r\n");
    let told = "421 4.7.0 Too many commands without a message";
    // EHLO and MAIL are two of the twenty.
    let lines = [&[EHLO, IN, MAIL, RCPT][..], &[nothing; 18], &[("BDAT 0", told)]].concat();
    assert!(matches!(dialog(Security::Tls, &world, &lines).next, Next::Close));
    let spoiled = [&[EHLO, IN, MAIL, RCPT, OVERSIZE][..], &[("BDAT 0", OVERSIZE.1); 18], &[("BDAT 0", told)]];
    assert!(matches!(dialog(Security::Tls, &world, &spoiled.concat()).next, Next::Close));
    let lines = [&[EHLO, IN, MAIL, RCPT][..], &[CHUNK; 100], &[("BDAT 0 LAST", LAST.1)]].concat();
    assert_eq!(dialog(Security::Tls, &world, &lines).submitted[0].len(), 300, "what brings something may");
}

#[test]
fn chunks_out_of_turn_are_errors_like_any_other() {
    let early = ("BDAT 3", "503 5.5.1");
    let lines = [early, early, early, ("BDAT 3", "421 4.7.0")];
    assert!(matches!(dialog(Security::Plain, &World::default(), &lines).next, Next::Close));
    let nobody = ("BDAT 3", "503 5.5.1 No valid recipients");
    dialog(Security::Tls, &World::default(), &[EHLO, IN, MAIL, nobody, RCPT, LAST]);
}

#[test]
fn binarymime_is_not_offered_and_not_taken() {
    let binary = ("MAIL FROM:<a@b.example> BODY=BINARYMIME", "501 5.5.4");
    let too_early = (RCPT.0, "503 5.5.1 Send MAIL first");
    dialog(Security::Tls, &World::default(), &[EHLO, IN, binary, too_early, MAIL, RCPT, LAST]);
}

#[test]
fn p7_a_bdat_that_is_no_line_ends_the_session() {
    for (place, security, lines) in PLACES {
        let talk = dialog(security, &World::default(), lines);
        let Next::Command(session) = talk.next else { panic!("{place}") };
        let step = session.flawed(Flaw::Bdat, &rules());
        assert!(matches!(step.next, Next::Close), "{place}");
        let mut said = Vec::new();
        step.reply.unwrap().render(&mut said);
        assert!(said.starts_with(b"501 5.5.4 Syntax: BDAT octets [LAST]"), "{place}");
    }
}
