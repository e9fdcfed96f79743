//! Every call to Resend held against its official API description, where that lies
//! beside the project: path, method, header, query and body. So are answers of ours in its form,
//! and every answer of ours is held against the document that the program itself gives.

use std::sync::LazyLock;

use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde_json::Value;

use self::schema::Description;

#[path = "../../../src/http/openapi/held.rs"]
mod held;
#[path = "../../../src/sandbox/contract/schema.rs"]
mod schema;

pub(crate) use held::Given;

static RESEND: LazyLock<Option<Description>> =
    LazyLock::new(|| Description::beside("resend-openapi.yaml", true));

/// Our own API, as the program describes it.
static OURS: LazyLock<Description> = LazyLock::new(|| {
    let document = postmeter::http::openapi::document(super::meter::BASE_URL);
    Description::of(serde_json::to_value(document).expect("it is JSON"), true)
});

/// How an answer of ours differs from what our own document says, if it does.
pub(crate) fn unlike_our_document(given: &Given<'_>) -> Option<String> {
    given.unlike(&OURS)
}

/// Our own document.
pub(crate) fn our_document() -> &'static Value {
    &OURS.document
}

/// Whether there is a description to hold calls against.
pub(crate) fn is_there() -> bool {
    RESEND.is_some()
}

/// What is wrong with a call, if something is.
pub(crate) fn mistake(head: &Parts, body: &[u8]) -> Option<String> {
    let description = RESEND.as_ref()?;
    let wrong = call(description, head, body).err()?;
    Some(format!("{} {}: {wrong}", head.method, head.uri))
}

/// How an answer of ours differs from what the schema of that name asks for, if it does.
pub(crate) fn unlike(schema: &str, value: &Value) -> Option<String> {
    let description = RESEND.as_ref()?;
    let asked = &description.document["components"]["schemas"][schema];
    assert!(asked.is_object(), "the description has a schema {schema}");
    let wrong = description.check(asked, value, "").err()?;
    Some(format!("{schema}: {wrong}\nin {value:#}"))
}

fn call(description: &Description, head: &Parts, body: &[u8]) -> Result<(), String> {
    let operation = operation(&description.document, head)?;
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let parameters: Vec<&Value> =
        parameters.iter().map(|one| description.resolved(one)).collect::<Result<_, _>>()?;
    for parameter in parameters.iter().filter(|parameter| parameter["in"] == "header") {
        let name = parameter["name"].as_str().unwrap_or_default();
        match field(&head.headers, name) {
            Some(value) => description.check(&parameter["schema"], &value.into(), name)?,
            None if parameter["required"] == true => return Err(format!("no {name}")),
            None => {}
        }
    }
    for (name, _) in reqwest::Url::parse(&format!("http://x{}", head.uri)).expect("a URL").query_pairs() {
        let known = |one: &&Value| one["in"] == "query" && one["name"] == *name;
        parameters.iter().find(|one| known(one)).ok_or(format!("the query has `{name}`"))?;
    }
    fields(head)?;
    match &operation["requestBody"]["content"]["application/json"]["schema"] {
        Value::Null => body.is_empty().then_some(()).ok_or("a body that nobody reads".to_owned()),
        schema => {
            let is_json = field(&head.headers, "content-type").as_deref() == Some("application/json");
            is_json.then_some(()).ok_or("the body is not said to be JSON")?;
            let body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            description.check(schema, &body, "")
        }
    }
}

/// The operation that the path and the method name; a path that is written out goes first.
fn operation<'a>(document: &'a Value, head: &Parts) -> Result<&'a Value, String> {
    let path = head.uri.path();
    let fits = |template: &str| {
        let is_same =
            |(wanted, given): (&str, &str)| wanted == given || wanted.starts_with('{') && !given.is_empty();
        template.split('/').count() == path.split('/').count()
            && template.split('/').zip(path.split('/')).all(is_same)
    };
    let paths = document["paths"].as_object().expect("it names paths");
    let found =
        paths.get(path).or_else(|| paths.iter().find(|(template, _)| fits(template)).map(|(_, of)| of));
    let operation = &found.ok_or("no such path")?[head.method.as_str().to_lowercase()];
    operation.is_object().then_some(operation).ok_or("no such method".to_owned())
}

/// What the description says in words only, or we promise: who asks, and a key for what sends.
fn fields(head: &Parts) -> Result<(), String> {
    let bearer = field(&head.headers, "authorization").unwrap_or_default();
    bearer.starts_with("Bearer ").then_some(()).ok_or("no API key")?;
    head.headers.contains_key(header::USER_AGENT).then_some(()).ok_or("no User-Agent")?;
    let sends = head.method == "POST" && head.uri.path().starts_with("/emails");
    let has_key = field(&head.headers, "idempotency-key").is_some_and(|key| !key.is_empty());
    (has_key || !sends).then_some(()).ok_or("P4: no Idempotency-Key".to_owned())
}

fn field(fields: &HeaderMap, name: &str) -> Option<String> {
    Some(fields.get(name)?.to_str().ok()?.to_owned())
}
