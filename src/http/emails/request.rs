//! An email as Resend's SDKs write it, read as far as it can be sent from here.
//!
//! What is not offered (a time, a topic, a template, a file that lies elsewhere) is refused,
//! since the mail would be another one without it. So is a field that nobody knows: it is
//! a misspelt one more often than not. Tags change nothing about a mail: they are looked at
//! as Resend does, and the log says that they are not kept.

use serde_json::{Map, Value};

use crate::mime::compose::{Composition, InvalidField};
use crate::upstream::translate::Note;

/// Fields that ask for what is not offered, and for which the mail would be another one.
const NOT_OFFERED: [(&str, &str); 3] = [
    ("scheduled_at", "is not supported: mail leaves at once, so send it when it is due"),
    ("topic_id", "is not supported: there are no topics here"),
    ("template", "is not supported: there are no templates here, so send `html` or `text`"),
];
/// What SDKs call the fields of a file beside the names in the description of the API.
const ALIASES: [(&str, &str); 4] = [
    ("contentType", "content_type"),
    ("contentId", "content_id"),
    ("inline_content_id", "content_id"),
    ("inlineContentId", "content_id"),
];
/// Tags of an email, and letters of a name or a value, at most.
const MAX_TAGS: usize = 75;
const MAX_TAG_LETTERS: usize = 256;

/// Where an email stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is a request.
    Alone,
    /// It is one of several, which have no files.
    InBatch,
}

/// An email, understood.
#[derive(Debug)]
pub(super) struct Letter {
    /// What is sent.
    pub(super) composition: Composition,
    /// What was asked for beside that.
    pub(super) notes: Vec<Note>,
}

/// Reads an email.
pub(super) fn letter(request: Value, place: Place) -> Result<Letter, InvalidField> {
    let Value::Object(mut request) = request else { return Err(wrong("email", "must be an object")) };
    request.retain(|_, value| !value.is_null());
    for (name, problem) in NOT_OFFERED {
        if request.contains_key(name) {
            return Err(wrong(name, problem));
        }
    }
    if !request.contains_key("from") {
        return Err(wrong("from", "is required"));
    }
    let tags = request.remove("tags").map(tags).transpose()?.unwrap_or_default();
    if let Some(Value::Array(files)) = request.get_mut("attachments") {
        if place == Place::InBatch && !files.is_empty() {
            let problem = "is not supported in a batch: send an email with files alone";
            return Err(wrong("attachments", problem));
        }
        for (index, file) in files.iter_mut().enumerate() {
            understand(index, file)?;
        }
    }
    leave_one_version(&mut request);
    let notes = if tags.is_empty() { Vec::new() } else { vec![Note::tags_not_kept(tags)] };
    Ok(Letter { composition: Composition::try_from(request)?, notes })
}

/// An empty text beside HTML asks Resend to make none of it, which nobody does here.
fn leave_one_version(request: &mut Map<String, Value>) {
    let is = |name: &str, is_empty: bool| {
        request.get(name).and_then(Value::as_str).is_some_and(|text| text.is_empty() == is_empty)
    };
    let other = |(empty, full)| (is(empty, true) && is(full, false)).then_some(empty);
    if let Some(empty) = [("text", "html"), ("html", "text")].into_iter().find_map(other) {
        request.remove(empty);
    }
}

/// The names of tags.
fn tags(tags: Value) -> Result<Vec<String>, InvalidField> {
    let Value::Array(tags) = tags else { return Err(wrong("tags", "must be a list")) };
    if tags.len() > MAX_TAGS {
        return Err(wrong("tags", &format!("at most {MAX_TAGS} tags")));
    }
    tags.iter().enumerate().map(|(index, tag)| tag_name(index, tag)).collect()
}

fn tag_name(index: usize, tag: &Value) -> Result<String, InvalidField> {
    let sound = |name: &str| {
        let text = tag.get(name)?.as_str()?;
        let is_letter = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'-');
        (text.len() <= MAX_TAG_LETTERS && text.bytes().all(is_letter)).then_some(text)
    };
    let problem = "must be at most 256 ASCII letters, digits, underscores and dashes";
    let [name, value] = ["name", "value"]
        .map(|name| sound(name).ok_or_else(|| wrong(format!("tags[{index}].{name}"), problem)));
    value.and(name).map(str::to_owned)
}

/// A file by the names that are known here.
fn understand(index: usize, file: &mut Value) -> Result<(), InvalidField> {
    let Value::Object(file) = file else { return Ok(()) };
    file.retain(|_, value| !value.is_null());
    if file.contains_key("path") {
        let problem = "is not supported: nothing is fetched, so send the file itself as `content`";
        return Err(wrong(format!("attachments[{index}].path"), problem));
    }
    // The Node SDK's way to say that there is none.
    if file.get("filename") == Some(&Value::Bool(false)) {
        file.remove("filename");
    }
    for (alias, name) in ALIASES {
        if let Some(value) = file.remove(alias) {
            file.entry(name).or_insert(value);
        }
    }
    Ok(())
}

fn wrong(field: impl Into<String>, problem: &str) -> InvalidField {
    InvalidField { field: field.into(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// An email with these fields beside those that it needs.
    fn with(fields: Value, place: Place) -> Result<Letter, String> {
        let mut email =
            json!({ "from": "Ann <a@x.example>", "to": "b@y.example", "subject": "s", "text": "t" });
        for (name, value) in fields.as_object().unwrap() {
            email[name] = value.clone();
        }
        letter(email, place).map_err(|error| error.to_string())
    }

    /// The same mail as an email of these fields gives.
    fn same(fields: Value, other: Value) {
        let fingerprint = |fields| with(fields, Place::Alone).unwrap().composition.fingerprint();
        assert_eq!(fingerprint(fields), fingerprint(other));
    }

    #[test]
    fn what_is_not_offered_is_refused_by_its_name() {
        let file = |fields: Value| json!({ "attachments": [fields] });
        let table = [
            (json!({ "from": null }), "from: is required"),
            (json!({ "scheduled_at": "in 1 min" }), "scheduled_at: is not supported"),
            (json!({ "topic_id": "x" }), "topic_id: is not supported"),
            (json!({ "template": { "id": "x" } }), "template: is not supported"),
            (
                file(json!({ "path": "https://x.example/a.pdf", "filename": "a.pdf" })),
                "attachments[0].path: is not",
            ),
            (file(json!({ "filename": "a.pdf" })), "attachments[0].content: is required"),
            (file(json!({ "content": "QQ==", "filename": false })), "attachments[0].filename: is required"),
            (json!({ "replyTo": "c@x.example" }), "replyTo: is not a field"),
            (json!({ "tags": "x" }), "tags: must be a list"),
            (json!({ "tags": [{ "name": "a" }] }), "tags[0].value: must be"),
            (json!({ "tags": [{ "name": "a b", "value": "c" }] }), "tags[0].name: must be"),
            (json!({ "tags": [{ "name": "a", "value": 7 }] }), "tags[0].value: must be"),
            (json!({ "tags": [{ "name": "a", "value": "x".repeat(257) }] }), "tags[0].value: must be"),
            (json!({ "tags": vec![json!({ "name": "a", "value": "b" }); 76] }), "tags: at most 75"),
        ];
        for (fields, want) in table {
            let error = with(fields.clone(), Place::Alone).unwrap_err();
            assert!(error.starts_with(want), "{fields} {error}");
        }
        for request in [json!([]), json!("x"), Value::Null] {
            assert_eq!(letter(request, Place::Alone).unwrap_err().to_string(), "email: must be an object");
        }
    }

    #[test]
    fn null_says_nothing_and_neither_does_an_empty_version_beside_another() {
        let plain = json!({});
        same(
            json!({ "scheduled_at": null, "topic_id": null, "template": null, "tags": null, "cc": null }),
            plain,
        );
        same(json!({ "html": "<p>", "text": "" }), json!({ "html": "<p>", "text": null }));
        same(json!({ "html": "", "text": "t" }), json!({}));
        assert!(with(json!({ "text": "" }), Place::Alone).is_ok());
    }

    #[test]
    fn a_file_has_the_fields_of_every_sdk() {
        let file = |fields: Value| {
            let mut file = json!({ "filename": "a.bin", "content": "QQ==" });
            file.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            json!({ "html": "<p>", "attachments": [file] })
        };
        let named = file(json!({ "content_type": "text/csv", "content_id": "x" }));
        same(file(json!({ "contentType": "text/csv", "inline_content_id": "x" })), named.clone());
        same(file(json!({ "content_type": "text/csv", "contentId": "x", "path": null })), named.clone());
        same(file(json!({ "content_type": "text/csv", "content_id": "x", "contentId": "y" })), named.clone());
        let error = with(named, Place::InBatch).unwrap_err();
        assert!(error.starts_with("attachments: is not supported in a batch"), "{error}");
        assert!(with(json!({ "attachments": [] }), Place::InBatch).is_ok());
    }

    #[test]
    fn tags_are_noted_and_change_nothing() {
        let tags =
            json!({ "tags": [{ "name": "category", "value": "welcome" }, { "name": "n_1", "value": "-" }] });
        let letter = with(tags.clone(), Place::Alone).unwrap();
        let notes: Vec<String> = letter.notes.iter().map(ToString::to_string).collect();
        assert_eq!(notes, ["the tags category, n_1 are not kept"]);
        same(tags, json!({ "tags": [] }));
        assert!(with(json!({ "tags": [] }), Place::Alone).unwrap().notes.is_empty());
    }
}
