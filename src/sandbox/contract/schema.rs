//! JSON held against an official API description, where that lies beside the project.

use std::path::Path;

use serde_json::Value;

/// A description in OpenAPI, and how it is read.
#[derive(Debug)]
pub(crate) struct Description {
    /// The description itself.
    pub(crate) document: Value,
    /// Whether an object may have no field but those that its schema names.
    is_closed: bool,
}

impl Description {
    /// One that is at hand.
    pub(crate) const fn of(document: Value, is_closed: bool) -> Self {
        Self { document, is_closed }
    }

    /// The file of that name; `None`, with a note, where it is not there.
    pub(crate) fn beside(name: &str, is_closed: bool) -> Option<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference").join(name);
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("note: {} is not there, so shapes are not checked against it", path.display());
            return None;
        };
        let document = if name.ends_with(".json") {
            serde_json::from_str(&text).expect("it is JSON")
        } else {
            serde_yaml_ng::from_str(&text).expect("it is YAML")
        };
        Some(Self { document, is_closed })
    }

    /// What a reference stands for; anything else for itself.
    pub(crate) fn resolved<'a>(&'a self, object: &'a Value) -> Result<&'a Value, String> {
        let Some(reference) = object["$ref"].as_str() else { return Ok(object) };
        let pointed = self.document.pointer(reference.trim_start_matches('#')).ok_or(reference)?;
        self.resolved(pointed)
    }

    /// Whether a value is what a schema asks for; if not, what is wrong and where below `at`.
    pub(crate) fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let schema = self.resolved(schema)?;
        if let Some(whole) = self.whole(schema)? {
            return self.check(&whole, value, at);
        }
        for every in schema["allOf"].as_array().into_iter().flatten() {
            self.check(every, value, at)?;
        }
        for choice in ["oneOf", "anyOf"] {
            if let Some(options) = schema[choice].as_array() {
                let tries: Vec<_> = options.iter().map(|option| self.check(option, value, at)).collect();
                if !tries.iter().any(Result::is_ok) {
                    return Err(format!("{at}: no option fits: {tries:?}"));
                }
            }
        }
        kind(schema, value, at)?;
        self.fields(schema, value, at)?;
        for item in value.as_array().into_iter().flatten().filter(|_| schema["items"].is_object()) {
            self.check(&schema["items"], item, &format!("{at}[]"))?;
        }
        Ok(())
    }

    /// Of schemas that are to fit all at once and name fields: one with the fields of all, so
    /// that what one of them does not name may be another's.
    fn whole(&self, schema: &Value) -> Result<Option<Value>, String> {
        let Some(every) = schema["allOf"].as_array() else { return Ok(None) };
        let (mut names, mut required) = (serde_json::Map::new(), Vec::new());
        for part in every {
            let part = self.resolved(part)?;
            let inner = self.whole(part)?;
            let part = inner.as_ref().unwrap_or(part);
            let Some(properties) = part["properties"].as_object() else { return Ok(None) };
            names.extend(properties.clone());
            required.extend(part["required"].as_array().into_iter().flatten().cloned());
        }
        Ok(Some(serde_json::json!({ "type": "object", "properties": names, "required": required })))
    }

    fn fields(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let Some(fields) = value.as_object() else { return Ok(()) };
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                return Err(format!("{at}: `{name}` is missing"));
            }
        }
        let Some(known) = schema["properties"].as_object() else { return Ok(()) };
        for (name, field) in fields {
            match known.get(name) {
                Some(inner) => self.check(inner, field, &format!("{at}/{name}"))?,
                None if self.is_closed => return Err(format!("{at}: `{name}` is not in the description")),
                None => {}
            }
        }
        Ok(())
    }
}

/// The value by itself: its type, its size, and whether it is one of those that are allowed.
fn kind(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|wanted| is(wanted, value)) {
        return Err(format!("{at}: {value} is not {types:?}"));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return Err(format!("{at}: {value} is not one of {allowed:?}"));
    }
    let (size, least, most) = match value {
        Value::String(text) => (text.chars().count(), "minLength", "maxLength"),
        Value::Array(items) => (items.len(), "minItems", "maxItems"),
        _ => return Ok(()),
    };
    let bound = |name: &str| schema[name].as_u64().and_then(|bound| usize::try_from(bound).ok());
    if bound(least).is_some_and(|least| size < least) || bound(most).is_some_and(|most| size > most) {
        return Err(format!("{at}: {size} is not within {least} and {most}"));
    }
    Ok(())
}

fn is(wanted: &str, value: &Value) -> bool {
    match wanted {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}
