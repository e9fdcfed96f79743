//! What the stand-ins answer and tell, held against the official API descriptions.

pub(crate) mod schema;

use std::sync::LazyLock;

use serde_json::Value;

use schema::Description;

static DODO: LazyLock<Option<Description>> =
    LazyLock::new(|| Description::beside("dodo-openapi.json", false));
/// What the stand-in tells must be what Resend would tell, with nothing beside it.
static RESEND: LazyLock<Option<Description>> =
    LazyLock::new(|| Description::beside("resend-openapi.yaml", true));

/// Asserts that `value` is what the schema of that name in Dodo's description asks for.
pub(super) fn assert_dodo(schema: &str, value: &Value) {
    assert_is(&DODO, schema, value);
}

/// Asserts that `value` is what the schema of that name in Resend's description asks
/// for, and that there is nothing in it that the schema does not name.
pub(super) fn assert_resend(schema: &str, value: &Value) {
    assert_is(&RESEND, schema, value);
}

fn assert_is(description: &Option<Description>, schema: &str, value: &Value) {
    let Some(description) = description else { return };
    let schema = &description.document["components"]["schemas"][schema];
    assert!(schema.is_object(), "the description has such a schema");
    if let Err(why) = description.check(schema, value, "") {
        panic!("{why}\nin {value:#}");
    }
}
