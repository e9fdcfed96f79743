//! The JSON of `POST /send`, field by field.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use lettre::message::header::ContentType;
use serde_json::{Map, Value};

use super::{Composition, File, InvalidField, REQUIRED};
use crate::mime::address_list::NamedMailbox;
use crate::mime::entity::file_name;
use crate::mime::media::{KnownType, extension, type_of_extension};

/// Files of a request, at most.
const MAX_ATTACHMENTS: usize = 100;
/// Fields in `headers`, at most.
const MAX_HEADERS: usize = 100;
/// Longest subject and longest value of a header, in octets.
const MAX_VALUE_BYTES: usize = 8 * 1024;
/// Longest word in a value: a line of a message has at most 998 octets (RFC 5322 §2.1.1).
const MAX_WORD_BYTES: usize = 900;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Fields that this relay or the upstream writes.
const RESERVED: [&str; 15] = [
    "From",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "Subject",
    "Sender",
    "Return-Path",
    "Received",
    "MIME-Version",
    "Date",
    "Delivered-To",
    "DKIM-Signature",
    "Authentication-Results",
    "Message-ID",
];

/// Families of such fields.
const RESERVED_PREFIXES: [&str; 6] = ["Content-", "Resent-", "Resend-", "X-SES-", "X-Postmeter-", "ARC-"];

pub(super) fn read(request: Map<String, Value>) -> Result<Composition, InvalidField> {
    let mut request = Request { fields: request, path: String::new() };
    let composition = Composition {
        from: request.mailboxes("from")?.pop(),
        to: request.mailboxes("to")?,
        cc: request.mailboxes("cc")?,
        bcc: request.mailboxes("bcc")?,
        reply_to: request.mailboxes("reply_to")?,
        subject: request.required("subject")?,
        html: request.text("html")?,
        text: request.text("text")?,
        headers: headers(&mut request)?,
        attachments: attachments(&mut request)?,
    };
    request.end()?;
    if composition.to.is_empty() {
        return Err(InvalidField::new("to", REQUIRED));
    }
    if composition.html.is_none() && composition.text.is_none() {
        return Err(InvalidField::new("text", "text or html is required"));
    }
    one_line("subject", &composition.subject)?;
    for (name, text) in [("html", &composition.html), ("text", &composition.text)] {
        if text.as_ref().is_some_and(|text| text.contains('\0')) {
            return Err(InvalidField::new(name, "must not contain NUL"));
        }
    }
    Ok(composition)
}

/// A JSON object whose fields are taken out one by one; `null` is absent.
struct Request {
    fields: Map<String, Value>,
    /// What stands before the names in errors.
    path: String,
}

impl Request {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    fn invalid(&self, name: &str, problem: &str) -> InvalidField {
        InvalidField::new(format!("{}{name}", self.path), problem)
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, InvalidField> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(name, "must be a string")),
        }
    }

    fn required(&mut self, name: &str) -> Result<String, InvalidField> {
        self.text(name)?.ok_or_else(|| self.invalid(name, REQUIRED))
    }

    fn mailboxes(&mut self, name: &str) -> Result<Vec<NamedMailbox>, InvalidField> {
        let list = match self.take(name) {
            None => Vec::new(),
            Some(Value::Array(list)) if name != "from" => list,
            Some(one) => vec![one],
        };
        let mailbox = |value: &Value| {
            let text =
                value.as_str().ok_or_else(|| self.invalid(name, "must be a string or a list of strings"))?;
            let problem = "must be one address, such as ann@example.com or Ann <ann@example.com>";
            NamedMailbox::parse(text).map_err(|_| self.invalid(name, problem))
        };
        list.iter().map(mailbox).collect()
    }

    fn end(self) -> Result<(), InvalidField> {
        match self.fields.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => {
                let name: String = name.chars().take(80).collect();
                Err(self.invalid(&name, "is not a field of this request"))
            }
            None => Ok(()),
        }
    }
}

fn headers(request: &mut Request) -> Result<Vec<(String, String)>, InvalidField> {
    let map = match request.take("headers") {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) if map.len() <= MAX_HEADERS => map,
        Some(Value::Object(_)) => {
            return Err(InvalidField::new("headers", format!("at most {MAX_HEADERS} headers")));
        }
        Some(_) => return Err(InvalidField::new("headers", "must be an object of strings")),
    };
    let mut headers = Vec::with_capacity(map.len());
    for (name, value) in map {
        let path = format!("headers.{}", name.chars().take(80).collect::<String>());
        let Value::String(value) = value else { return Err(InvalidField::new(path, "must be a string")) };
        header_name(&path, &name)?;
        one_line(&path, &value)?;
        if value.split(' ').any(|word| word.len() > MAX_WORD_BYTES) {
            return Err(InvalidField::new(path, format!("has a word of more than {MAX_WORD_BYTES} bytes")));
        }
        headers.push((name, value));
    }
    Ok(headers)
}

fn header_name(path: &str, name: &str) -> Result<(), InvalidField> {
    let is_name = (1..=76).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    if !is_name {
        return Err(InvalidField::new(path, "is not the name of a header"));
    }
    let starts =
        |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let reserved = RESERVED.into_iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
        || RESERVED_PREFIXES.into_iter().any(starts);
    if reserved {
        return Err(InvalidField::new(path, "is written by the relay and cannot be set here"));
    }
    Ok(())
}

/// No line end, so that no field can become two (RFC 5322 §2.2).
fn one_line(path: &str, value: &str) -> Result<(), InvalidField> {
    if value.chars().any(char::is_control) {
        return Err(InvalidField::new(path, "must be one line without control characters"));
    }
    if value.len() > MAX_VALUE_BYTES {
        return Err(InvalidField::new(path, format!("must have at most {MAX_VALUE_BYTES} bytes")));
    }
    Ok(())
}

fn attachments(request: &mut Request) -> Result<Vec<File>, InvalidField> {
    let list = match request.take("attachments") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MAX_ATTACHMENTS => list,
        Some(Value::Array(_)) => {
            return Err(InvalidField::new("attachments", format!("at most {MAX_ATTACHMENTS} attachments")));
        }
        Some(_) => return Err(InvalidField::new("attachments", "must be a list")),
    };
    list.into_iter().enumerate().map(|(index, value)| attachment(index, value)).collect()
}

fn attachment(index: usize, value: Value) -> Result<File, InvalidField> {
    let path = format!("attachments[{index}]");
    let Value::Object(fields) = value else { return Err(InvalidField::new(path, "must be an object")) };
    let mut request = Request { fields, path: format!("{path}.") };
    let filename = request.required("filename")?;
    let filename =
        file_name(&filename).ok_or_else(|| request.invalid("filename", "must be the name of a file"))?;
    let mut content = request.required("content")?;
    content.retain(|c| !c.is_ascii_whitespace());
    let content = BASE64.decode(content).map_err(|_| request.invalid("content", "must be Base64"))?;
    let content_type = content_type(&mut request, &filename)?;
    let content_id = content_id(&mut request)?;
    request.end()?;
    Ok(File { filename, content_type, content_id, content })
}

/// The type that is given, or else the one that goes with the extension.
fn content_type(request: &mut Request, filename: &str) -> Result<String, InvalidField> {
    const UNKNOWN: &str = "application/octet-stream";
    // A message or a multipart may not be written in Base64 (RFC 2045 §6.4).
    let is_whole = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.starts_with("multipart/") || text.starts_with("message/")
    };
    let Some(given) = request.text("content_type")? else {
        return Ok(match extension(filename).as_deref().map(type_of_extension) {
            Some(KnownType::One(known)) if !is_whole(known) => known.to_owned(),
            _ => UNKNOWN.to_owned(),
        });
    };
    let sound = given.len() <= 200 && given.bytes().all(|b| matches!(b, b' '..=b'~'));
    if !sound || ContentType::parse(&given).is_err() {
        return Err(request.invalid("content_type", "must be a media type, such as application/pdf"));
    }
    if is_whole(&given) {
        return Err(
            request.invalid("content_type", "must not be multipart or message; use application/octet-stream")
        );
    }
    Ok(given)
}

fn content_id(request: &mut Request) -> Result<Option<String>, InvalidField> {
    let Some(id) = request.text("content_id")? else { return Ok(None) };
    let sound =
        (1..=127).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"'\\".contains(&b));
    if sound {
        Ok(Some(id))
    } else {
        Err(request.invalid("content_id", "must be 1 to 127 letters without < or >"))
    }
}
