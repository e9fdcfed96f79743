//! What PGP and S/MIME hold by other names than multiparts of their own: a message that
//! nobody could read or verify any more, once it was written anew.

use crate::mime::entity::{Content, Entity};
use crate::mime::media::extension;

/// What begins and ends a text that is signed in clear (RFC 9580 §7), on lines of their own.
const SIGNED_BEGINS: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNED_ENDS: &str = "-----END PGP SIGNATURE-----";

/// What the whole message is, where that is one sealed thing: its readers go by the type
/// of the message, or by its file name where the type says nothing (RFC 8551 §3.2.1).
pub(super) fn whole(entity: &Entity<'_>) -> Option<&'static str> {
    if !matches!(entity.content, Content::Leaf(_)) {
        return None;
    }
    let subtype = entity.media.subtype();
    let subtype = subtype.strip_prefix("x-").unwrap_or(subtype);
    let is_application = entity.media.kind() == "application";
    let extension = entity.filename.as_deref().and_then(extension).unwrap_or_default();
    match subtype {
        "pkcs7-mime" if is_application => Some("an S/MIME message"),
        // A key is a file like any other.
        "pgp-keys" => None,
        _ if is_application && subtype.starts_with("pgp") => Some("a PGP message"),
        _ if matches!(extension.as_str(), "p7m" | "p7z") => Some("an S/MIME message"),
        _ => None,
    }
}

/// What a text is, where a PGP signature within it would not survive: lines that are put
/// together are not those that were signed, nor are octets in another character set.
pub(super) fn clearsigned(text: &str, is_unflowed: bool) -> Option<&'static str> {
    let (mut is_signed, mut any, mut is_ascii) = (false, false, true);
    for line in text.split('\n') {
        is_signed |= line.trim_ascii_end() == SIGNED_BEGINS;
        any |= is_signed;
        is_ascii &= !is_signed || line.is_ascii();
        is_signed &= line.trim_ascii_end() != SIGNED_ENDS;
    }
    match (is_ascii, is_unflowed) {
        (false, _) => Some("PGP-signed text that is not ASCII"),
        (true, true) if any => Some("PGP-signed text in format=flowed with DelSp"),
        (true, _) => None,
    }
}
