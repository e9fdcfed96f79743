//! Query strings as we write them: into links, into redirects and into headers.

/// The fields of a query. Whatever is no letter and no digit is percent-encoded, so that it
/// fits anywhere and ends nothing.
pub(super) fn query(fields: &[(&str, String)]) -> String {
    let octet = |octet: u8| match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(octet).to_string(),
        _ => format!("%{octet:02X}"),
    };
    let pair = |(name, text): &(&str, String)| {
        let text: String = text.bytes().map(octet).collect();
        format!("{name}={text}")
    };
    fields.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// The same behind a path.
pub(super) fn with_query(path: &str, fields: &[(&str, String)]) -> String {
    if fields.is_empty() { path.to_owned() } else { format!("{path}?{}", query(fields)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_typed_ends_a_link_or_a_header() {
        let fields = [("q", "a+b&c=\"<x>\r\nSet-Cookie: y".to_owned()), ("n", "ü".to_owned())];
        let want = "/p?q=a%2Bb%26c%3D%22%3Cx%3E%0D%0ASet-Cookie%3A%20y&n=%C3%BC";
        assert_eq!(with_query("/p", &fields), want);
        assert_eq!(with_query("/p", &[]), "/p");
    }
}
