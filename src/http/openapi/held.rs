//! An answer held against the document that describes our API.

use serde_json::Value;

use super::schema::Description;

/// An answer of ours.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    /// The method of the request, in capitals.
    pub(crate) method: &'a str,
    /// Its path, without the query.
    pub(crate) path: &'a str,
    /// The status.
    pub(crate) status: u16,
    /// The media type with its parameters; empty where there is none.
    pub(crate) media_type: &'a str,
    /// The body.
    pub(crate) body: &'a str,
}

impl Given<'_> {
    /// How it differs from what the document says, if it does. What the document is not
    /// about (pages, other methods) is as it likes.
    pub(crate) fn unlike(&self, described: &Description) -> Option<String> {
        if self.media_type.starts_with("text/html") {
            return None;
        }
        let operation = self.operation(&described.document)?;
        let wrong = self.check(described, operation).err()?;
        Some(format!("{} {} answers {}: {wrong}\nin {}", self.method, self.path, self.status, self.body))
    }

    /// The operation that was asked for; a path that is written out goes first.
    fn operation<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        let fits = |template: &str| {
            let is_same = |(wanted, given): (&str, &str)| {
                wanted == given || wanted.starts_with('{') && !given.is_empty()
            };
            template.split('/').count() == self.path.split('/').count()
                && template.split('/').zip(self.path.split('/')).all(is_same)
        };
        let paths = document["paths"].as_object()?;
        let written = || paths.iter().find(|(template, _)| fits(template)).map(|(_, of)| of);
        let operation = &paths.get(self.path).or_else(written)?[self.method.to_lowercase()];
        operation.is_object().then_some(operation)
    }

    fn check(&self, described: &Description, operation: &Value) -> Result<(), String> {
        let response = &operation["responses"][self.status.to_string()];
        if !response.is_object() {
            return Err("this status is not in the document".to_owned());
        }
        let Some((media_type, content)) = response["content"].as_object().and_then(|all| all.iter().next())
        else {
            return if self.body.is_empty() { Ok(()) } else { Err("it has a body".to_owned()) };
        };
        if media_type != self.media_type {
            return Err(format!("the media type is {:?}, not {media_type}", self.media_type));
        }
        if media_type != "application/json" {
            return Ok(());
        }
        let body: Value = serde_json::from_str(self.body).map_err(|error| error.to_string())?;
        described.check(&content["schema"], &body, "")?;
        let code = if body["statusCode"].is_null() { &body["code"] } else { &body["name"] };
        let words = response["description"].as_str().unwrap_or_default();
        match code.as_str().filter(|_| self.status >= 400) {
            Some(code) if !words.contains(&format!("`{code}`")) => {
                Err(format!("the code `{code}` is not among {words}"))
            }
            _ => Ok(()),
        }
    }
}
