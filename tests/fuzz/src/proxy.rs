//! The PROXY header: it is read to its end and not an octet further, and says the same
//! however it arrives.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use postmeter::door::header::{Header, Parsed, parse};

use super::split_choice;

/// Longest header of all: 16 octets of version 2, and what may follow them.
const MAX_OCTETS: usize = 16 + 2_048;
/// Longest line of version 1.
const MAX_LINE_OCTETS: usize = 107;

/// The first octet: how the rest arrives.
pub fn check(input: &[u8]) {
    let (choice, wire) = split_choice(input);
    let at_once = parse(wire);
    let wanted = by_reference(wire);
    match (at_once, wanted) {
        (Ok(Parsed::Whole(header)), Some(own)) => assert_eq!(header, own, "{}", wire.escape_ascii()),
        (Ok(Parsed::Partial { .. }) | Err(_), None) => {}
        (got, wanted) => panic!("{}: {got:?} instead of {wanted:?}", wire.escape_ascii()),
    }
    for step in [1, usize::from(choice) + 1, usize::MAX] {
        let mut taken = 0;
        let last = loop {
            let parsed = parse(&wire[..taken]);
            let Ok(Parsed::Partial { missing }) = parsed else { break parsed };
            assert!(missing > 0 && taken + missing <= MAX_OCTETS);
            let more = missing.min(step).min(wire.len() - taken);
            if more == 0 {
                break parsed;
            }
            taken += more;
        };
        match last {
            Ok(Parsed::Whole(header)) => assert_eq!((Some(header), header.octets), (wanted, taken)),
            // All of it was read, and it may still become one.
            Ok(Parsed::Partial { .. }) => assert_eq!(at_once, last),
            Err(_) => assert!(at_once.is_err(), "{}: {last:?} and {at_once:?}", wire.escape_ascii()),
        }
    }
}

/// The header that the octets begin with, if all of it is there.
fn by_reference(wire: &[u8]) -> Option<Header> {
    if let Some(rest) = wire.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n") {
        let [command, family, high, low, rest @ ..] = rest else { return None };
        let length = usize::from(*high) << 8 | usize::from(*low);
        let block = rest.get(..length).filter(|_| length <= MAX_OCTETS - 16)?;
        return Some(Header { source: binary(*command, *family, block)?, octets: 16 + length });
    }
    let end = wire.windows(2).position(|pair| pair == b"\r\n")?;
    let line = wire[..end].strip_prefix(b"PROXY ").filter(|_| end + 2 <= MAX_LINE_OCTETS)?;
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") && !line.contains(&b'\n') {
        return Some(Header { source: None, octets: end + 2 });
    }
    let text = std::str::from_utf8(line).ok()?;
    let words: Vec<&str> = text.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words[..] else { return None };
    let (source_port, _) = (port(source_port)?, port(destination_port)?);
    let source = match family {
        "TCP4" => {
            destination.parse::<Ipv4Addr>().ok()?;
            SocketAddr::from((source.parse::<Ipv4Addr>().ok()?, source_port))
        }
        "TCP6" => {
            destination.parse::<Ipv6Addr>().ok()?;
            SocketAddr::new(source.parse::<Ipv6Addr>().ok()?.to_canonical(), source_port)
        }
        _ => return None,
    };
    Some(Header { source: Some(source), octets: end + 2 })
}

/// Who is named, if anybody; `None` if it is no header.
fn binary(command: u8, family: u8, block: &[u8]) -> Option<Option<SocketAddr>> {
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    match (command, family) {
        (0x20, _) => Some(None),
        (0x21, 0x11) => {
            let source: [u8; 4] = block.get(..12)?[..4].try_into().ok()?;
            Some(Some((source, port(8)).into()))
        }
        (0x21, 0x21) => {
            let source: [u8; 16] = block.get(..36)?[..16].try_into().ok()?;
            Some(Some((Ipv6Addr::from(source).to_canonical(), port(32)).into()))
        }
        (0x21, family) if family >> 4 <= 3 && family & 0xf <= 2 => Some(None),
        _ => None,
    }
}

/// As it would be written.
fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port: &u16| port.to_string() == text)
}
