use proptest::prelude::*;

use super::*;

/// A header of version 2 with this block.
fn v2(version_and_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version_and_command, family], &length, block].concat()
}

fn block4() -> Vec<u8> {
    [[192, 0, 2, 1].as_slice(), &[198, 51, 100, 7], &[0x12, 0x34], &[0x02, 0x4b]].concat()
}

fn block6(source: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    [octets(source).as_slice(), &octets("2001:db8::7"), &[0x12, 0x34], &[0x02, 0x4b]].concat()
}

/// The header is whole, and nothing behind it is part of it.
fn source_of(octets: &[u8]) -> Option<SocketAddr> {
    let followed = [octets, b"\x16\x03\x01EHLO"].concat();
    let parsed = parse(&followed).unwrap_or_else(|error| panic!("{}: {error}", octets.escape_ascii()));
    let Parsed::Whole(header) = parsed else { panic!("{}: {parsed:?}", octets.escape_ascii()) };
    assert_eq!(header.octets, octets.len(), "{}", octets.escape_ascii());
    header.source
}

#[test]
fn a_line_names_the_client() {
    let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_LINE_OCTETS - 16));
    let table = [
        ("PROXY TCP4 192.0.2.1 198.51.100.7 4660 587\r\n", Some("192.0.2.1:4660")),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some("0.0.0.0:0")),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535")),
        ("PROXY TCP6 2001:db8::1 2001:db8::7 4660 587\r\n", Some("[2001:db8::1]:4660")),
        ("PROXY TCP6 :: :: 0 0\r\n", Some("[::]:0")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Some("192.0.2.1:1")),
        ("PROXY TCP6 ::FFFF:C000:0201 ::1 1 2\r\n", Some("192.0.2.1:1")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN whatever \r is said\r\n", None),
        (&long, None),
    ];
    for (line, want) in table {
        assert_eq!(source_of(line.as_bytes()), want.map(|text| text.parse().unwrap()), "{line}");
    }
    assert_eq!(source_of(b"PROXY UNKNOWN \xff\xfe\r\n"), None);
}

#[test]
fn a_binary_header_names_the_client() {
    let tlv = [0x04, 0, 3, 1, 2, 3];
    let mapped = block6("::ffff:192.0.2.1");
    let table = [
        (v2(0x21, 0x11, &block4()), Some("192.0.2.1:4660")),
        (v2(0x21, 0x11, &[block4(), tlv.to_vec()].concat()), Some("192.0.2.1:4660")),
        (v2(0x21, 0x11, &[block4(), vec![0; MAX_BLOCK_OCTETS - 12]].concat()), Some("192.0.2.1:4660")),
        (v2(0x21, 0x21, &block6("2001:db8::1")), Some("[2001:db8::1]:4660")),
        (v2(0x21, 0x21, &[mapped, tlv.to_vec()].concat()), Some("192.0.2.1:4660")),
        // LOCAL: whatever family and addresses are there are skipped.
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &block4()), None),
        (v2(0x20, 0xff, &tlv), None),
        // UNSPEC, UDP and UNIX name nobody that could have connected over TCP.
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x10, &block4()), None),
        (v2(0x21, 0x01, &tlv), None),
        (v2(0x21, 0x12, &block4()), None),
        (v2(0x21, 0x22, &block6("2001:db8::1")), None),
        (v2(0x21, 0x31, &[0; 216]), None),
    ];
    for (octets, want) in table {
        let want = want.map(|text| text.parse().unwrap());
        assert_eq!(source_of(&octets), want, "{}", octets.escape_ascii());
    }
}

#[test]
fn what_is_no_header_is_told_at_once() {
    let line = |text: &str| (text.as_bytes().to_vec(), Malformed::Line);
    let too_long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_LINE_OCTETS - 15));
    let endless = format!("PROXY UNKNOWN {}", "f".repeat(MAX_LINE_OCTETS));
    let table = [
        (b"EHLO client.example\r\n".to_vec(), Malformed::NotOne),
        (b"GET / HTTP/1.1\r\n".to_vec(), Malformed::NotOne),
        (b"\x16\x03\x01".to_vec(), Malformed::NotOne),
        (b"proxy TCP4 ".to_vec(), Malformed::NotOne),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Malformed::NotOne),
        (b"PROXY\r\n".to_vec(), Malformed::NotOne),
        line("PROXY \r\n"),
        line("PROXY TCP4\r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.7 1 2 3\r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n"),
        line("PROXY TCP4  192.0.2.1 198.51.100.7 1 2\r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.7 +1 2\r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.7 1 \r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.7 65536 2\r\n"),
        line("PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n"),
        line("PROXY TCP4 192.0.2.1 2001:db8::7 1 2\r\n"),
        line("PROXY TCP4 2001:db8::1 2001:db8::7 1 2\r\n"),
        line("PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n"),
        line("PROXY TCP6 fe80::1%eth0 2001:db8::7 1 2\r\n"),
        line("PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n"),
        line("PROXY UNKNOWNS\r\n"),
        line(&too_long),
        line(&endless),
        (v2(0x11, 0x11, &block4()), Malformed::Version),
        (v2(0x31, 0x11, &block4()), Malformed::Version),
        (v2(0x22, 0x11, &block4()), Malformed::Command),
        (v2(0x21, 0x41, &block4()), Malformed::Family),
        (v2(0x21, 0x13, &block4()), Malformed::Family),
        (v2(0x21, 0x11, &[0; 11]), Malformed::Length(11)),
        (v2(0x21, 0x21, &[0; 35]), Malformed::Length(35)),
        (v2(0x21, 0x11, &[0; MAX_BLOCK_OCTETS + 1]), Malformed::Length(MAX_BLOCK_OCTETS + 1)),
        (v2(0x20, 0x00, &[0; 65_535]), Malformed::Length(65_535)),
    ];
    for (octets, want) in table {
        assert_eq!(parse(&octets), Err(want), "{}", octets.escape_ascii());
    }
}

#[test]
fn a_long_header_is_refused_before_it_is_waited_for() {
    let octets = v2(0x21, 0x11, &[0; MAX_BLOCK_OCTETS + 1]);
    assert_eq!(parse(&octets[..FIXED_OCTETS]), Err(Malformed::Length(MAX_BLOCK_OCTETS + 1)));
}

/// Reads as a socket would, never more than what is missing, `step` octets at a time at most.
fn read(wire: &[u8], steps: &[usize]) -> (Result<Parsed, Malformed>, usize) {
    let mut steps = steps.iter().cycle();
    let mut taken = 0;
    loop {
        let parsed = parse(&wire[..taken]);
        let Ok(Parsed::Partial { missing }) = parsed else { return (parsed, taken) };
        assert!(missing > 0);
        let more = missing.min(*steps.next().unwrap()).min(wire.len() - taken);
        if more == 0 {
            return (parsed, taken);
        }
        taken += more;
    }
}

fn header() -> impl Strategy<Value = Vec<u8>> {
    let tlvs = proptest::collection::vec(any::<u8>(), 0..300);
    let address = (any::<[u8; 4]>(), any::<[u8; 16]>(), any::<u16>());
    let line4 = address.prop_map(|(v4, _, port)| {
        format!("PROXY TCP4 {} 192.0.2.1 {port} 25\r\n", Ipv4Addr::from(v4)).into_bytes()
    });
    let line6 = address.prop_map(|(_, v6, port)| {
        format!("PROXY TCP6 {} ::1 {port} 25\r\n", Ipv6Addr::from(v6)).into_bytes()
    });
    let unknown = "[^\r\n]{0,20}".prop_map(|rest| format!("PROXY UNKNOWN {rest}\r\n").into_bytes());
    let inet = tlvs.clone().prop_map(|tlvs| v2(0x21, 0x11, &[block4(), tlvs].concat()));
    let inet6 = tlvs.clone().prop_map(|tlvs| v2(0x21, 0x21, &[block6("2001:db8::1"), tlvs].concat()));
    let local = tlvs.prop_map(|tlvs| v2(0x20, 0, &tlvs));
    prop_oneof![line4, line6, unknown, inet, inet6, local]
}

proptest! {
    #[test]
    fn p7_a_header_is_read_to_its_end_and_not_further_however_it_arrives(
        header in header(),
        rest in proptest::collection::vec(any::<u8>(), 0..40),
        steps in proptest::collection::vec(1..40_usize, 1..8),
    ) {
        let wire = [header.as_slice(), &rest].concat();
        let (parsed, taken) = read(&wire, &steps);
        prop_assert_eq!(taken, header.len());
        prop_assert_eq!(parsed, parse(&header));
        let is_whole = matches!(parsed, Ok(Parsed::Whole(Header { octets, .. })) if octets == taken);
        prop_assert!(is_whole);
    }

    #[test]
    fn p7_hostile_octets_are_bounded_and_never_fatal(
        start in prop_oneof![Just(Vec::new()), Just(WORD.to_vec()), Just(SIGNATURE.to_vec()), header()],
        cut in 0..60_usize,
        rest in proptest::collection::vec(any::<u8>(), 0..3_000),
        steps in proptest::collection::vec(1..3_000_usize, 1..8),
    ) {
        let wire = [&start[..start.len().saturating_sub(cut)], &rest].concat();
        let (parsed, taken) = read(&wire, &steps);
        prop_assert!(taken <= FIXED_OCTETS + MAX_BLOCK_OCTETS);
        if let Ok(Parsed::Whole(header)) = parsed {
            prop_assert_eq!(header.octets, taken);
            prop_assert_eq!(parse(&wire), parsed);
        }
    }
}
