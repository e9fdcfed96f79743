//! Which names a customer may prove. Pure.
//!
//! A name under which strangers register their own, such as `co.uk` or `github.io`,
//! is nobody's to send from: the Public Suffix List knows those, its private part
//! included, and every top-level name besides.

use psl::{List, Psl};

use crate::domain::address::Domain;

/// Longest name that leaves room for the label that stands before it in DNS.
const MAX_OCTETS: usize = 230;

/// Why a name cannot be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotProvable {
    /// No domain name at all.
    #[error("is not a domain name such as example.com")]
    Malformed,
    /// One label, or a name under which others register theirs.
    #[error("is shared by many owners; add the domain that is registered to you, such as example.{0}")]
    Suffix(SuffixOf),
    /// A label too many.
    #[error("is too long")]
    TooLong,
}

/// What to show as an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuffixOf {
    /// A name that stands in the list.
    Listed,
    /// A single label.
    Label,
}

impl std::fmt::Display for SuffixOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Listed => "co.uk",
            Self::Label => "com",
        })
    }
}

/// Reads a name as a customer writes it: any case, one dot at the end, letters of
/// any script. What comes out is in lower case and A-labels.
pub fn provable(text: &str) -> Result<Domain, NotProvable> {
    let text = text.trim();
    let text = text.strip_suffix('.').unwrap_or(text);
    let spelt = Domain::parse(text).map_err(|_| NotProvable::Malformed)?;
    let ascii = spelt.to_ascii().to_ascii_lowercase();
    let is_host = ascii.split('.').all(|label| label.len() <= 63 && is_host_label(label));
    let ends_in_digits =
        ascii.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if !is_host || ends_in_digits {
        return Err(NotProvable::Malformed);
    }
    if ascii.len() > MAX_OCTETS {
        return Err(NotProvable::TooLong);
    }
    if !ascii.contains('.') {
        return Err(NotProvable::Suffix(SuffixOf::Label));
    }
    if List.domain(ascii.as_bytes()).is_none() {
        return Err(NotProvable::Suffix(SuffixOf::Listed));
    }
    Domain::parse(&ascii).map_err(|_| NotProvable::Malformed)
}

/// Letters, digits and hyphens, not at the ends.
fn is_host_label(label: &str) -> bool {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !label.is_empty() && label.bytes().all(sound) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_in_one_spelling() {
        let table = [
            ("example.com", "example.com"),
            (" Example.COM. ", "example.com"),
            ("mail.example.co.uk", "mail.example.co.uk"),
            ("Bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example.", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("someone.github.io", "someone.github.io"),
            ("corp.internal", "corp.internal"),
        ];
        for (text, want) in table {
            assert_eq!(provable(text).map(|domain| domain.to_string()), Ok(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_or_not_one_owners_is_refused() {
        use NotProvable as N;
        let long = format!("{}.example.com", ["a"; 115].join("."));
        let table = [
            ("", N::Malformed),
            (".", N::Malformed),
            ("example.com..", N::Malformed),
            (".example.com", N::Malformed),
            ("*.example.com", N::Malformed),
            ("a@example.com", N::Malformed),
            ("[192.0.2.1]", N::Malformed),
            ("192.0.2.1", N::Malformed),
            ("_dmarc.example.com", N::Malformed),
            ("exa mple.com", N::Malformed),
            ("-a.example.com", N::Malformed),
            ("localhost", N::Suffix(SuffixOf::Label)),
            ("com", N::Suffix(SuffixOf::Label)),
            ("co.uk", N::Suffix(SuffixOf::Listed)),
            ("CO.UK.", N::Suffix(SuffixOf::Listed)),
            ("github.io", N::Suffix(SuffixOf::Listed)),
            ("公司.cn", N::Suffix(SuffixOf::Listed)),
            ("xn--55qx5d.cn", N::Suffix(SuffixOf::Listed)),
            (long.as_str(), N::TooLong),
        ];
        for (text, want) in table {
            assert_eq!(provable(text), Err(want), "{text}");
        }
    }
}
