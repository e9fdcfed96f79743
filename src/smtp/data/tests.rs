use proptest::prelude::*;

use super::*;

/// Decodes `stream` in pieces of the given lengths, the last one repeated; returns
/// the body and what follows it, or `None` if the end was not found.
fn decode(stream: &[u8], pieces: &[usize]) -> Option<(Body, Vec<u8>)> {
    let mut decoder = Decoder::new(1_000);
    let mut lengths = pieces.iter().copied().chain(std::iter::repeat(*pieces.last().unwrap()));
    let mut rest = stream;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(lengths.next().unwrap().clamp(1, rest.len()));
        if let Fed::End { consumed } = decoder.feed(piece) {
            return Some((decoder.finish(), [&piece[consumed..], later].concat()));
        }
        rest = later;
    }
    None
}

#[test]
fn dots_are_unstuffed_and_the_end_is_found() {
    let table: [(&[u8], &[u8], &[u8]); 9] = [
        (b".\r\n", b"", b""),
        (b".\r\nQUIT\r\n", b"", b"QUIT\r\n"),
        (b"a\r\n.\r\n", b"a\r\n", b""),
        (b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n", b""),
        (b"..a\r\n.b\r\n...\r\n.\r\n", b".a\r\nb\r\n..\r\n", b""),
        (b"a.\r\n.\r\n", b"a.\r\n", b""),
        (b"\r\n\r\n.\r\n.\r\n", b"\r\n\r\n", b".\r\n"),
        (b"a\r\n. \r\n.\r\n", b"a\r\n \r\n", b""),
        ("ü\r\n.\r\n".as_bytes(), "ü\r\n".as_bytes(), b""),
    ];
    for (stream, body, rest) in table {
        for pieces in [1, 2, 3, 1_000] {
            let want = Some((Body::Whole(body.to_vec().into()), rest.to_vec()));
            assert_eq!(decode(stream, &[pieces]), want, "{:?}", String::from_utf8_lossy(stream));
        }
    }
}

#[test]
fn p7_no_member_of_the_smuggling_family_ends_a_message() {
    let family: [&[u8]; 15] = [
        b"\n.\n",
        b"\n.\r\n",
        b"\r.\r",
        b"\r.\n",
        b"\n.\r",
        b"\r.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n.\r\r\n",
        b"\r\r\n.\r\n",
        b"\r\r\n.\r\r\n",
        b"\n\n.\r\n",
        b"\r\n.\n\r\n",
    ];
    for end in family {
        let stream =
            [b"a".as_slice(), end, b"MAIL FROM:<x@y.example>\r\nDATA\r\nb\r\n.\r\nQUIT\r\n"].concat();
        for pieces in [1, 2, 5, 1_000] {
            let (body, rest) = decode(&stream, &[pieces]).unwrap();
            assert!(matches!(body, Body::Malformed(_)), "{end:?}");
            assert_eq!(rest, b"QUIT\r\n", "{end:?}");
        }
    }
}

#[test]
fn a_message_that_ends_in_a_bare_cr_is_seen_to_pause_at_a_doubtful_end() {
    let mut decoder = Decoder::new(1_000);
    assert_eq!(decoder.feed(b"a\r\r\n.\r\n"), Fed::More);
    assert!(decoder.at_doubtful_end());
    assert_eq!(decoder.feed(b"."), Fed::More);
    assert!(!decoder.at_doubtful_end());
    assert_eq!(decoder.feed(b"\r\n"), Fed::End { consumed: 2 });
    assert_eq!(decoder.finish(), Body::Malformed(Flaw::BareCr));
}

#[test]
fn flaws_are_named() {
    let table: [(&[u8], Flaw); 5] = [
        (b"a\rb\r\n.\r\n", Flaw::BareCr),
        (b"a\nb\r\n.\r\n", Flaw::BareLf),
        (b"\n\r\n.\r\n", Flaw::BareLf),
        (b"a\0b\r\n.\r\n", Flaw::Nul),
        (b".\rx\r\n.\r\n", Flaw::BareCr),
    ];
    for (stream, flaw) in table {
        assert_eq!(decode(stream, &[9]), Some((Body::Malformed(flaw), Vec::new())));
    }
}

#[test]
fn what_is_too_large_is_read_to_its_end_and_not_kept() {
    for (length, want) in [(998, true), (999, false), (5_000, false)] {
        let text = [vec![b'x'; length].as_slice(), b"\r\n"].concat();
        let stream = [text.as_slice(), b".\r\nQUIT\r\n"].concat();
        let (body, rest) = decode(&stream, &[100]).unwrap();
        assert_eq!(body, if want { Body::Whole(text.into()) } else { Body::TooLarge });
        assert_eq!(rest, b"QUIT\r\n");
    }
    let mut decoder = Decoder::new(100);
    decoder.feed(b"abc");
    decoder.kept().give_up();
    assert_eq!(decoder.kept().memory(), None);
    decoder.feed(b"\r\n.\r\n");
    assert_eq!(decoder.finish(), Body::NoRoom);
}

proptest! {
    #[test]
    fn a_stuffed_message_comes_out_as_it_went_in(
        lines in prop::collection::vec("[.a-z ]{0,12}", 0..12),
        pieces in prop::collection::vec(1usize..20, 1..40),
    ) {
        let message: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let stuffed: String = lines
            .iter()
            .map(|line| if line.starts_with('.') { format!(".{line}\r\n") } else { format!("{line}\r\n") })
            .collect();
        let decoded = decode(format!("{stuffed}.\r\n").as_bytes(), &pieces);
        prop_assert_eq!(decoded, Some((Body::Whole(message.into_bytes().into()), Vec::new())));
    }
}
