//! Media types (RFC 2045 §5) and the file names that go with them.

use super::parameters::{self, Parameters};

/// Longest Content-Type or Content-Disposition that is read, in octets.
pub const MAX_PARAMETERS_BYTES: usize = 16 * 1024;

/// Whether the value of a Content-Type or Content-Disposition is worth reading.
pub(super) fn is_readable(value: &[u8]) -> bool {
    value.len() <= MAX_PARAMETERS_BYTES
}

/// File name extensions and the one type that goes with each. An empty type:
/// tables of types disagree about this extension.
const EXTENSIONS: [(&str, &str); 62] = [
    ("txt", "text/plain"),
    ("html", "text/html"),
    ("csv", "text/csv"),
    ("ics", "text/calendar"),
    ("css", "text/css"),
    ("md", "text/markdown"),
    ("pdf", "application/pdf"),
    ("json", "application/json"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
    ("gz", "application/gzip"),
    ("tar", "application/x-tar"),
    ("7z", "application/x-7z-compressed"),
    ("eml", "message/rfc822"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("svg", "image/svg+xml"),
    ("tiff", "image/tiff"),
    ("bmp", "image/bmp"),
    ("heic", "image/heic"),
    ("avif", "image/avif"),
    ("mp3", "audio/mpeg"),
    ("ogg", "audio/ogg"),
    ("mp4", "video/mp4"),
    ("mpeg", "video/mpeg"),
    ("webm", "video/webm"),
    ("mov", "video/quicktime"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("ods", "application/vnd.oasis.opendocument.spreadsheet"),
    ("odp", "application/vnd.oasis.opendocument.presentation"),
    ("epub", "application/epub+zip"),
    ("p7s", "application/pkcs7-signature"),
    ("p7m", "application/pkcs7-mime"),
    ("bin", "application/octet-stream"),
    ("htm", "text/html"),
    ("text", "text/plain"),
    ("log", "text/plain"),
    ("conf", "text/plain"),
    ("ini", "text/plain"),
    ("jpeg", "image/jpeg"),
    ("jpe", "image/jpeg"),
    ("tif", "image/tiff"),
    ("mpg", "video/mpeg"),
    ("m4v", ""),
    ("m4a", ""),
    ("wav", ""),
    ("ico", ""),
    ("rar", ""),
    ("rtf", ""),
    ("vcf", ""),
    ("asc", ""),
    ("yaml", ""),
    ("yml", ""),
    ("tsv", ""),
];

/// A media type with its parameters; all but parameter values in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    kind: String,
    subtype: String,
    parameters: Parameters,
}

impl MediaType {
    /// A type without parameters.
    pub fn plain(kind: &str, subtype: &str) -> Self {
        let parameters = Parameters::default();
        Self { kind: kind.to_owned(), subtype: subtype.to_owned(), parameters }
    }

    /// Reads the value of a Content-Type field. What cannot be read is text if it
    /// says so, or else bytes of no known type (RFC 2045 §5.2).
    pub fn parse(value: &[u8]) -> Self {
        let unknown = Self::plain("application", "octet-stream");
        if !is_readable(value) {
            return unknown;
        }
        let parameters = parameters::parse(value);
        let (kind, subtype) = parameters.main.split_once('/').unwrap_or((&parameters.main, ""));
        let (kind, subtype) = (kind.trim().to_owned(), subtype.trim().to_owned());
        match () {
            () if kind == "text" && subtype.is_empty() => {
                Self { subtype: "plain".to_owned(), kind, parameters }
            }
            () if is_token(&kind) && is_token(&subtype) => Self { kind, subtype, parameters },
            () => Self { parameters, ..unknown },
        }
    }

    /// `text`, `image`, `multipart`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// `plain`, `png`, `mixed`.
    pub fn subtype(&self) -> &str {
        &self.subtype
    }

    /// Whether this is `kind/subtype`.
    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind == kind && self.subtype == subtype
    }

    /// `kind/subtype`, without parameters.
    pub fn essence(&self) -> String {
        format!("{}/{}", self.kind, self.subtype)
    }

    /// Whether a parameter is in no character set that it could be read by.
    pub(super) fn is_guessed(&self) -> bool {
        self.parameters.is_guessed
    }

    /// The names of its parameters, in lower case.
    pub fn parameter_names(&self) -> impl Iterator<Item = &str> {
        self.parameters.list.iter().map(|(name, _)| name.as_str())
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name)
    }
}

/// A Content-Disposition (RFC 2183): its kind in lower case, its file name, and whether
/// that was guessed.
pub(super) fn disposition(value: &[u8]) -> (String, Option<String>, bool) {
    if !is_readable(value) {
        return (String::new(), None, false);
    }
    let parameters = parameters::parse(value);
    let filename = parameters.get("filename").map(str::to_owned);
    (parameters.main, filename, parameters.is_guessed)
}

/// RFC 2045 §5.1.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
}

/// The extension of a file name, in lower case.
pub fn extension(filename: &str) -> Option<String> {
    let (_, extension) = filename.rsplit_once('.')?;
    Some(extension.to_lowercase())
}

/// What is known about the type of files with an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownType {
    /// Files with this extension are of this type.
    One(&'static str),
    /// Tables disagree.
    Disputed,
    /// Nothing is known about it.
    Unknown,
}

/// The type of files with that extension (lower case).
pub fn type_of_extension(extension: &str) -> KnownType {
    match EXTENSIONS.iter().find(|(known, _)| *known == extension) {
        None => KnownType::Unknown,
        Some((_, "")) => KnownType::Disputed,
        Some((_, known)) => KnownType::One(known),
    }
}

/// The usual extension of files of that type (`kind/subtype`). Where there is none, any
/// text can be read as plain text (RFC 2046 §4.1.4), and the rest is `bin`.
pub fn extension_of_type(essence: &str) -> &'static str {
    match EXTENSIONS.iter().find(|(_, known)| *known == essence) {
        Some((extension, _)) => extension,
        // A message in UTF-8 (RFC 6532 §3.7).
        None if essence == "message/global" => "eml",
        None if essence.starts_with("text/") => "txt",
        None => "bin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_as_they_are_meant() {
        let table: [(&[u8], &str); 7] = [
            (b" Text/HTML; charset=utf-8\r\n", "text/html"),
            (b"text\r\n", "text/plain"),
            (b"multipart/mixed;\r\n\tboundary=\"a b\"\r\n", "multipart/mixed"),
            (b"nonsense\r\n", "application/octet-stream"),
            (b"\r\n", "application/octet-stream"),
            (b"image/\r\n", "application/octet-stream"),
            (b"im\"age/png\r\n", "application/octet-stream"),
        ];
        for (value, want) in table {
            assert_eq!(MediaType::parse(value).essence(), want, "{value:?}");
        }
        let parsed = MediaType::parse(b"text/plain; CHARSET=\"ISO-8859-1\"; format=flowed");
        assert_eq!(parsed.parameter("charset"), Some("ISO-8859-1"));
        assert_eq!(parsed.parameter("name"), None);
    }

    #[test]
    fn extensions_and_types_agree() {
        for (extension, known) in EXTENSIONS.iter().filter(|(_, known)| !known.is_empty()) {
            assert_eq!(type_of_extension(extension), KnownType::One(known));
            assert_eq!(type_of_extension(extension_of_type(known)), KnownType::One(known));
        }
        assert_eq!(extension_of_type("application/x-unheard-of"), "bin");
        assert_eq!(extension_of_type("text/enriched"), "txt");
        assert_eq!(extension_of_type("message/global"), "eml");
        assert_eq!(extension("a.b.PDF").as_deref(), Some("pdf"));
        assert_eq!(extension("README"), None);
    }
}
