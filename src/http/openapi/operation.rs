//! One operation of the document, put together step by step.

use std::collections::BTreeMap;

use utoipa::ToSchema;
use utoipa::openapi::path::{Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{ContentBuilder, HeaderBuilder, HttpMethod, Ref, RefOr, Required, ResponseBuilder};

use super::codes::{Code, SIGNING_IN};
use crate::http::emails::ResendError;
use crate::http::error::ErrorAnswer;

/// The names of the security schemes.
pub(super) const BASIC: &str = "credential";
pub(super) const BEARER: &str = "bearer";

/// Schemas by their names.
type Schemas = Vec<(String, RefOr<Schema>)>;

/// The schema of a body: a reference, and what it leads to.
pub(super) struct Shape {
    schema: RefOr<Schema>,
    schemas: Schemas,
}

impl Shape {
    /// As this type is serialized.
    pub(super) fn of<T: ToSchema>() -> Self {
        let mut schemas = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut schemas);
        Self { schema: Ref::from_schema_name(T::name()).into(), schemas }
    }

    /// A list of such.
    pub(super) fn list_of<T: ToSchema>() -> Self {
        let Self { schema, schemas } = Self::of::<T>();
        let list = ArrayBuilder::new().items(schema).build();
        Self { schema: list.into(), schemas }
    }
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Anyone.
    Anyone,
    /// A customer alone.
    Customer,
    /// A customer, and the operator for any of them.
    Caller,
    /// The operator alone.
    Operator,
}

/// An operation that is being described.
pub(super) struct Described {
    path: &'static str,
    method: HttpMethod,
    who: Who,
    operation: OperationBuilder,
    errors: Vec<Code>,
    is_as_resend: bool,
    schemas: Schemas,
}

impl Described {
    /// An operation: its id, and in one line what it does.
    pub(super) fn new(
        (method, path): (HttpMethod, &'static str),
        (tag, id): (&str, &str),
        who: Who,
        summary: &str,
    ) -> Self {
        let operation = OperationBuilder::new().tag(tag).operation_id(Some(id)).summary(Some(summary));
        let described = Self {
            path,
            method,
            who,
            operation,
            errors: Vec::new(),
            is_as_resend: false,
            schemas: Vec::new(),
        };
        let is_known = who != Who::Anyone;
        if is_known { described.fails(SIGNING_IN) } else { described }
    }

    /// More about it.
    pub(super) fn about(mut self, text: &str) -> Self {
        self.operation = self.operation.description(Some(text));
        self
    }

    /// Errors have Resend's form; those of signing in are among what is said to fail.
    pub(super) fn in_resends_form(mut self) -> Self {
        self.errors.clear();
        self.is_as_resend = true;
        self
    }

    /// A part of the path.
    pub(super) fn path(self, name: &str, text: &str) -> Self {
        self.parameter(
            ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path),
            text,
            string(),
            true,
        )
    }

    /// A field of the header that may be left out.
    pub(super) fn header(self, name: &str, text: &str, schema: ObjectBuilder) -> Self {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
        self.parameter(parameter, text, schema, false)
    }

    /// A field of the header that must be there.
    pub(super) fn signed_by(self, names: [&str; 3]) -> Self {
        let texts = [
            "Names the delivery: the same whenever it is tried again.",
            "Seconds since 1970, at most 5 minutes off.",
            "`v1,` and the Base64 of an HMAC-SHA256; several with blanks between them.",
        ];
        names.into_iter().zip(texts).fold(self, |described, (name, text)| {
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
            described.parameter(parameter, text, string(), true)
        })
    }

    /// A part of the query.
    pub(super) fn query(self, name: &str, text: &str, schema: ObjectBuilder) -> Self {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
        self.parameter(parameter, text, schema, false)
    }

    /// Whose things are asked for.
    pub(super) fn whose(self) -> Self {
        let text = "The customer. The operator must say so; anybody else may name only themselves.";
        self.query("customer_id", text, string())
    }

    fn parameter(
        mut self,
        parameter: ParameterBuilder,
        text: &str,
        schema: ObjectBuilder,
        is_required: bool,
    ) -> Self {
        let required = if is_required { Required::True } else { Required::False };
        let parameter: Parameter =
            parameter.description(Some(text)).required(required).schema(Some(schema)).build();
        self.operation = self.operation.parameter(parameter);
        self
    }

    /// What is sent.
    pub(super) fn takes(mut self, shape: Shape, is_required: bool) -> Self {
        let required = if is_required { Required::True } else { Required::False };
        let content = ContentBuilder::new().schema(Some(shape.schema)).build();
        let body = RequestBodyBuilder::new().content(JSON, content).required(Some(required)).build();
        self.operation = self.operation.request_body(Some(body));
        self.schemas.extend(shape.schemas);
        self
    }

    /// A body that is not for callers to write.
    pub(super) fn takes_event(mut self) -> Self {
        let event = object().description(Some("An event."));
        let content = ContentBuilder::new().schema(Some(event)).build();
        let body = RequestBodyBuilder::new().content(JSON, content).required(Some(Required::True)).build();
        self.operation = self.operation.request_body(Some(body));
        self
    }

    /// An answer with a body.
    pub(super) fn gives(mut self, status: u16, text: &str, shape: Shape) -> Self {
        let content = ContentBuilder::new().schema(Some(shape.schema)).build();
        let response = ResponseBuilder::new().description(text).content(JSON, content);
        self.operation = self.operation.response(status.to_string(), response);
        self.schemas.extend(shape.schemas);
        self
    }

    /// An answer of another media type, or without a body.
    pub(super) fn gives_other(
        mut self,
        status: u16,
        text: &str,
        content: Option<(&str, ObjectBuilder)>,
    ) -> Self {
        let mut response = ResponseBuilder::new().description(text);
        if let Some((media_type, schema)) = content {
            response = response.content(media_type, ContentBuilder::new().schema(Some(schema)).build());
        }
        self.operation = self.operation.response(status.to_string(), response);
        self
    }

    /// The errors that it may answer with.
    pub(super) fn fails(mut self, codes: &[Code]) -> Self {
        self.errors.extend_from_slice(codes);
        self
    }

    /// Path, method, the operation, and the schemas that it refers to.
    pub(super) fn into_parts(mut self) -> (&'static str, HttpMethod, Operation, Schemas) {
        let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in &self.errors {
            let codes = by_status.entry(code.status).or_default();
            if !codes.contains(code) {
                codes.push(*code);
            }
        }
        let shape = if self.is_as_resend { Shape::of::<ResendError>() } else { Shape::of::<ErrorAnswer>() };
        for (status, codes) in by_status {
            let response = error(status, &codes, &shape.schema);
            self.operation = self.operation.response(status.to_string(), response);
        }
        if !self.errors.is_empty() {
            self.schemas.extend(shape.schemas);
        }
        let schemes: &[&str] = match self.who {
            Who::Anyone => &[],
            Who::Customer | Who::Caller => &[BASIC, BEARER],
            Who::Operator => &[BEARER],
        };
        for scheme in schemes {
            let nothing: [String; 0] = [];
            self.operation = self.operation.security(SecurityRequirement::new(*scheme, nothing));
        }
        (self.path, self.method, self.operation.build(), self.schemas)
    }
}

const JSON: &str = "application/json";

/// An error with all codes that come with its status.
fn error(status: u16, codes: &[Code], schema: &RefOr<Schema>) -> ResponseBuilder {
    let lines: Vec<String> = codes.iter().map(|code| format!("`{}`: {}", code.code, code.means)).collect();
    let content = ContentBuilder::new().schema(Some(schema.clone())).build();
    let response = ResponseBuilder::new().description(lines.join("; ")).content(JSON, content);
    let header = |text: &str, schema: ObjectBuilder| {
        HeaderBuilder::new().schema(schema).description(Some(text)).build()
    };
    match status {
        401 if codes.iter().any(|code| code.code != "bad_signature") => {
            response.header("WWW-Authenticate", header("How to sign in.", string()))
        }
        429 | 503 => response.header(
            "Retry-After",
            header("Seconds until it is worth another try, where that is known.", integer()),
        ),
        _ => response,
    }
}

/// A text.
pub(super) fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// An object of any kind.
pub(super) fn object() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Object)
}

/// A whole number.
pub(super) fn integer() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer)
}
