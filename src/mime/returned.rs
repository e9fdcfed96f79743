//! What comes back of a message with the report about it (RFC 3461 §4.3, RFC 6522 §3).

use lettre::message::SinglePart;

use super::bounce::{About, Left, Shape};
use super::header::header_length;
use super::write::{Part, Seed, ascii, file, kind, multipart, text, text_file};
use crate::domain::dsn::Ret;

/// Largest message that is sent back whole to a sender who asked for that, in octets; of
/// a larger one the header is.
pub const MAX_RETURNED_BYTES: usize = 64 * 1024;
/// Longest line of a message that is sent back as it is (RFC 5322 §2.1.1).
const MAX_LINE_OCTETS: usize = 998;

/// What comes back of a message.
pub(super) enum Returned<'a> {
    /// All of it, as it is.
    Whole(&'a str),
    /// All of it, as a file, and its header.
    File(&'a [u8], Option<&'a str>),
    /// Its header.
    Header(&'a str),
    /// Its header, which cannot be read.
    Nothing,
    /// It is not kept any more.
    Gone,
}

impl<'a> Returned<'a> {
    /// All of it where the sender asked for that, and it is there and not too large.
    /// Reports are of seven bits, so that every server takes them: a message that is not
    /// travels as a file.
    pub(super) fn of(about: &About<'a>, header: Option<&'a str>, shape: Shape) -> Self {
        match about.left {
            Left::Message(bytes)
                if about.dsn.ret() == Some(Ret::Full)
                    && bytes.len() <= MAX_RETURNED_BYTES
                    && header_length(bytes).is_some_and(|length| length < bytes.len()) =>
            {
                let text = std::str::from_utf8(bytes).ok();
                let text = text.filter(|text| shape == Shape::Report && is_fit_to_stand(text));
                text.map_or(Self::File(bytes, header), Self::Whole)
            }
            _ => Self::header(header),
        }
    }

    pub(super) fn header(header: Option<&'a str>) -> Self {
        match header {
            Some("") => Self::Nothing,
            Some(header) => Self::Header(header),
            None => Self::Gone,
        }
    }

    pub(super) fn octets(&self) -> &'a [u8] {
        match self {
            Self::Whole(text) => text.as_bytes(),
            Self::File(bytes, _) => bytes,
            Self::Header(header) => header.as_bytes(),
            Self::Nothing | Self::Gone => b"",
        }
    }

    /// The first part of the report: the explanation. A report has three parts at most, and
    /// programs look for the header in the third; what goes into neither that nor the second
    /// belongs to the first (RFC 6522 §3), and so does the file.
    pub(super) fn first(&self, explanation: SinglePart, seed: &Seed, shape: Shape) -> Part {
        let explanation = Part::Single(explanation);
        match self {
            Self::File(bytes, _) if shape == Shape::Report => {
                Part::Multi(multipart("mixed", seed, vec![explanation, Part::Single(message_file(bytes))]))
            }
            _ => explanation,
        }
    }

    /// The third part.
    pub(super) fn third(self, shape: Shape) -> Option<SinglePart> {
        match (self, shape) {
            (Self::Whole(text), _) => Some(ascii(kind("message/rfc822"), text)),
            (Self::File(bytes, _), Shape::Plain) => Some(message_file(bytes)),
            (Self::File(_, header), Shape::Report) => Self::header(header).third(shape),
            (Self::Header(header), Shape::Report) => {
                Some(text(kind("text/rfc822-headers; charset=utf-8"), header))
            }
            (Self::Header(header), Shape::Plain) => Some(text_file("original-headers.txt", header)),
            (Self::Nothing | Self::Gone, _) => None,
        }
    }

    /// What the explanation says about it.
    pub(super) fn note(&self) -> &'static str {
        match self {
            Self::Whole(_) | Self::File(..) => "Attached: the same for programs, and your message.\n",
            Self::Header(_) => "Attached: the same for programs, and the header of your message.\n",
            Self::Nothing => "Attached: the same for programs.\n",
            Self::Gone => {
                "Attached: the same for programs. The message itself is not kept after it was sent, so its \
                 header cannot be attached.\n"
            }
        }
    }
}

fn message_file(bytes: &[u8]) -> SinglePart {
    file("original-message.eml", "application/octet-stream", None, bytes.to_vec())
}

/// Whether a message can be a part of seven bits as it is.
fn is_fit_to_stand(text: &str) -> bool {
    text.is_ascii() && text.split("\r\n").all(|line| line.len() <= MAX_LINE_OCTETS)
}
