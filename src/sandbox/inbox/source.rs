//! A mail as its recipients would get it: the fields and parts that Resend makes of a
//! call, put together by what makes our own mail.

use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use crate::mime::compose::Composition;
use crate::mime::encoded_word;
use crate::sandbox::resend::{Addresses, Attachment, Mail};

/// What every recipient is counted for; nobody is refused here.
const ANY_NUMBER: usize = usize::MAX;

/// The message; `None` if it is one that nobody could read.
pub(super) fn source(mail: &Mail) -> Option<Vec<u8>> {
    let composition = Composition::try_from(request(mail)).ok()?;
    let (message, _) = composition.compose(None, ANY_NUMBER).ok()?;
    let mut source = String::new();
    let named =
        |name: &str| mail.email.headers.iter().flatten().any(|(known, _)| known.eq_ignore_ascii_case(name));
    if !named("Message-ID") {
        let from = mail.email.from.as_deref().unwrap_or_default();
        let domain = from.rsplit_once('@').map_or("invalid", |(_, domain)| domain.trim_end_matches('>'));
        source += &format!("Message-ID: <{}@email.{domain}>\r\n", mail.id);
    }
    if !named("Date") {
        let date = mail.at.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S +0000").to_string();
        source += &format!("Date: {date}\r\n");
    }
    for (name, value) in mail.email.headers.iter().flatten() {
        source += &format!("{name}: {}\r\n", encoded_word::encode(value));
    }
    let mut source = source.into_bytes();
    source.extend(message);
    Some(source)
}

/// What is asked of the one who composes; the header fields stand before what it writes.
fn request(mail: &Mail) -> Map<String, Value> {
    let email = &mail.email;
    let list = |of: &Option<Addresses>| of.as_ref().map(|list| list.as_slice().to_vec());
    let files: Vec<Value> = email.attachments.iter().flatten().filter_map(file).collect();
    let fields = [
        ("from", email.from.clone().map(Value::from)),
        ("to", list(&email.to).map(Value::from)),
        ("cc", list(&email.cc).map(Value::from)),
        ("bcc", list(&email.bcc).map(Value::from)),
        ("reply_to", list(&email.reply_to).map(Value::from)),
        ("subject", email.subject.clone().map(Value::from)),
        ("html", email.html.clone().filter(|html| !html.is_empty()).map(Value::from)),
        ("text", email.text.clone().filter(|text| !text.is_empty()).map(Value::from)),
        ("attachments", (!files.is_empty()).then_some(Value::Array(files))),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn file(file: &Attachment) -> Option<Value> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let mut value = json!({
        "filename": file.filename.as_deref().unwrap_or("attachment"),
        "content": STANDARD.encode(file.octets()?),
        "content_type": file.media_type(),
    });
    if let (Some(id), Some(fields)) = (&file.content_id, value.as_object_mut()) {
        fields.insert("content_id".to_owned(), Value::from(id.as_str()));
    }
    Some(value)
}
