//! Holds JSON against the official API description, where that lies beside the project.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;

static DODO: LazyLock<Option<Value>> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/dodo-openapi.json");
    let text = std::fs::read_to_string(&path);
    if text.is_err() {
        eprintln!("note: {} is not there, so shapes are not checked against it", path.display());
    }
    serde_json::from_str(&text.ok()?).ok()
});

/// Asserts that `value` is what the schema of that name in Dodo's description asks for.
pub(super) fn assert_dodo(schema: &str, value: &Value) {
    let Some(document) = &*DODO else { return };
    let schema = &document["components"]["schemas"][schema];
    assert!(schema.is_object(), "the description has such a schema");
    if let Err(why) = check(document, schema, value, "") {
        panic!("{why}\nin {value:#}");
    }
}

static RESEND: LazyLock<Option<Value>> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/resend-openapi.yaml");
    let text = std::fs::read_to_string(&path);
    if text.is_err() {
        eprintln!("note: {} is not there, so shapes are not checked against it", path.display());
    }
    Some(serde_yaml_ng::from_str(&text.ok()?).expect("it is YAML"))
});

/// Asserts that `value` is what the schema of that name in Resend's description asks
/// for, and that there is nothing in it that the schema does not name.
pub(super) fn assert_resend(schema: &str, value: &Value) {
    let Some(document) = &*RESEND else { return };
    let schema = &document["components"]["schemas"][schema];
    assert!(schema.is_object(), "the description has such a schema");
    if let Err(why) = check(document, schema, value, "") {
        panic!("{why}\nin {value:#}");
    }
    let known = schema["properties"].as_object().expect("it names its fields");
    for name in value.as_object().expect("an object").keys() {
        assert!(known.contains_key(name), "`{name}` is not in the description\nin {value:#}");
    }
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointed = document.pointer(reference.trim_start_matches('#')).ok_or(reference)?;
        return check(document, pointed, value, at);
    }
    for every in schema["allOf"].as_array().into_iter().flatten() {
        check(document, every, value, at)?;
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(options) = schema[choice].as_array() {
            let tries: Vec<_> = options.iter().map(|option| check(document, option, value, at)).collect();
            if !tries.iter().any(Result::is_ok) {
                return Err(format!("{at}: no option fits: {tries:?}"));
            }
        }
    }
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
    if value.is_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if value.get(name).is_none() {
                return Err(format!("{at}: `{name}` is missing"));
            }
        }
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(field) = value.get(name) {
            check(document, inner, field, &format!("{at}/{name}"))?;
        }
    }
    for item in value.as_array().into_iter().flatten().filter(|_| schema["items"].is_object()) {
        check(document, &schema["items"], item, &format!("{at}[]"))?;
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
