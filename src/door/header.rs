//! The PROXY header, octets in and an address out: versions 1 and 2 of
//! haproxy's `proxy-protocol.txt`, whose sections are named here.
//!
//! Pure and bounded. While a header is partial the parser says how many more octets
//! belong to it at least, so that whoever reads never takes an octet of what follows.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// A version 1 line with its CRLF (§2.1).
const MAX_LINE_OCTETS: usize = 107;
/// `PROXY UNKNOWN` and CRLF: no header of either version is shorter.
const MIN_OCTETS: usize = 15;
/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";
/// How version 2 begins (§2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What every header of version 2 has: signature, version, command, family, length.
const FIXED_OCTETS: usize = 16;
/// What may follow that: addresses take 216 octets at most, the rest is for TLVs,
/// which senders keep within one segment and which are not looked at.
const MAX_BLOCK_OCTETS: usize = 2_048;

/// What is known so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// Sound so far; at least `missing` more octets belong to it, and at least one.
    Partial {
        /// Octets.
        missing: usize,
    },
    /// All of it.
    Whole(Header),
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The client, an IPv4 address never in its IPv6 form. `None`: the connection is the
    /// proxy's own (LOCAL), or has an address that is not one of TCP (UNKNOWN, UNSPEC, UNIX, UDP).
    pub source: Option<SocketAddr>,
    /// The header's length in octets.
    pub octets: usize,
}

/// Why this is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Something else was sent.
    #[error("it does not begin with a PROXY header")]
    NotOne,
    /// A line that is too long, does not end in CRLF, or does not say what it must.
    #[error("its PROXY line is malformed")]
    Line,
    /// Not 2.
    #[error("its PROXY header is of a version that is not known")]
    Version,
    /// Neither LOCAL nor PROXY.
    #[error("its PROXY header holds a command that is not known")]
    Command,
    /// A family or a protocol that does not exist.
    #[error("its PROXY header holds an address family that is not known")]
    Family,
    /// Too short for its addresses, or longer than is taken.
    #[error("its PROXY header has a length of {0} octets, which cannot be")]
    Length(usize),
}

/// Parses what has arrived of a connection.
///
/// # Errors
/// As soon as it cannot become a header any more.
pub fn parse(octets: &[u8]) -> Result<Parsed, Malformed> {
    if agree(octets, WORD) {
        line(octets)
    } else if agree(octets, SIGNATURE) {
        binary(octets)
    } else {
        Err(Malformed::NotOne)
    }
}

/// As far as both go.
fn agree(octets: &[u8], fixed: &[u8]) -> bool {
    octets.iter().zip(fixed).all(|(octet, wanted)| octet == wanted)
}

/// Version 1 (§2.1).
fn line(octets: &[u8]) -> Result<Parsed, Malformed> {
    let Some(end) = octets.windows(2).position(|pair| pair == b"\r\n") else {
        let missing = if octets.last() == Some(&b'\r') { 1 } else { 2 };
        if octets.contains(&b'\n') || octets.len() + missing > MAX_LINE_OCTETS {
            return Err(Malformed::Line);
        }
        return Ok(Parsed::Partial { missing: missing.max(MIN_OCTETS.saturating_sub(octets.len())) });
    };
    let octets_in_all = end + 2;
    let fields = octets.get(WORD.len()..end).unwrap_or_default();
    // What stands behind UNKNOWN is not looked at, whatever it is.
    let is_unknown = fields == b"UNKNOWN" || fields.starts_with(b"UNKNOWN ");
    let source = if is_unknown { None } else { Some(named(fields).ok_or(Malformed::Line)?) };
    if octets_in_all > MAX_LINE_OCTETS {
        return Err(Malformed::Line);
    }
    Ok(Parsed::Whole(Header { source, octets: octets_in_all }))
}

/// `TCP4 SOURCE DESTINATION PORT PORT`, and nothing else.
fn named(fields: &[u8]) -> Option<SocketAddr> {
    let words: Vec<&str> = std::str::from_utf8(fields).ok()?.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = *words.as_slice() else {
        return None;
    };
    port(destination_port)?;
    let port = port(source_port)?;
    match family {
        "TCP4" => {
            destination.parse::<Ipv4Addr>().ok()?;
            Some((source.parse::<Ipv4Addr>().ok()?, port).into())
        }
        "TCP6" => {
            destination.parse::<Ipv6Addr>().ok()?;
            Some((source.parse::<Ipv6Addr>().ok()?.to_canonical(), port).into())
        }
        _ => None,
    }
}

/// Decimal, without a sign or zeros in front.
fn port(text: &str) -> Option<u16> {
    let is_plain =
        text.bytes().all(|octet| octet.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok())?
}

/// Version 2 (§2.2).
fn binary(octets: &[u8]) -> Result<Parsed, Malformed> {
    let Some((fixed, rest)) = octets.split_first_chunk::<FIXED_OCTETS>() else {
        return Ok(Parsed::Partial { missing: FIXED_OCTETS.saturating_sub(octets.len()) });
    };
    let [.., version_and_command, family, high, low] = *fixed;
    let is_local = match (version_and_command >> 4, version_and_command & 0x0f) {
        (2, 0) => true,
        (2, 1) => false,
        (2, _) => return Err(Malformed::Command),
        _ => return Err(Malformed::Version),
    };
    if !is_local && (family >> 4 > 3 || family & 0x0f > 2) {
        return Err(Malformed::Family);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BLOCK_OCTETS {
        return Err(Malformed::Length(length));
    }
    let Some(block) = rest.get(..length) else {
        return Ok(Parsed::Partial { missing: length.saturating_sub(rest.len()) });
    };
    let source = match family {
        _ if is_local => None,
        0x11 => Some(inet(block).ok_or(Malformed::Length(length))?),
        0x21 => Some(inet6(block).ok_or(Malformed::Length(length))?),
        _ => None,
    };
    Ok(Parsed::Whole(Header { source, octets: FIXED_OCTETS + length }))
}

/// TCP over IPv4: two addresses, two ports, the source's first.
fn inet(block: &[u8]) -> Option<SocketAddr> {
    let (addresses, ports) = block.split_first_chunk::<8>()?;
    let [a, b, c, d, ..] = *addresses;
    let [high, low, ..] = *ports.first_chunk::<4>()?;
    Some((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into())
}

/// TCP over IPv6.
fn inet6(block: &[u8]) -> Option<SocketAddr> {
    let (addresses, ports) = block.split_first_chunk::<32>()?;
    let source = Ipv6Addr::from(*addresses.first_chunk::<16>()?);
    let [high, low, ..] = *ports.first_chunk::<4>()?;
    Some((source.to_canonical(), u16::from_be_bytes([high, low])).into())
}

#[cfg(test)]
mod tests;
