//! The JSON of a request, in no more values than a message has need of.
//!
//! The SDKs of some languages (Go, Python, Rust) write a file as a list of numbers, one for
//! each octet. As values these would take ten times the memory that is counted for a
//! request, so such a list is read into octets at once, and stands as Base64 from there on.

use std::cell::Cell;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};

use crate::http::error::HttpError;
use crate::http::send::MAX_VALUES;

/// The field that holds a file.
const FILE: &str = "content";

/// Reads a body: 400 for what is no JSON, 422 for what says the wrong things or too many.
pub(super) fn read(bytes: &[u8]) -> Result<Value, HttpError> {
    let left = Cell::new(MAX_VALUES);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = Reader { left: &left, is_file: false }.deserialize(&mut json);
    value.and_then(|value| json.end().map(|()| value)).map_err(|error| match error.classify() {
        Category::Data => HttpError::Invalid(format!("The body cannot be used: {error}.")),
        Category::Io | Category::Syntax | Category::Eof => HttpError::NotJson(error.to_string()),
    })
}

/// Reads one value, and counts it.
#[derive(Clone, Copy)]
struct Reader<'a> {
    /// How many more there may be.
    left: &'a Cell<usize>,
    /// Whether a list here is one of octets.
    is_file: bool,
}

impl Reader<'_> {
    fn count<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| E::custom(format!("it has more than {MAX_VALUES} values")))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        self.count()?;
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, is: bool) -> Result<Value, E> {
        Ok(Value::Bool(is))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        if self.is_file {
            let mut octets = Vec::new();
            while let Some(octet) = list.next_element::<u8>()? {
                octets.push(octet);
            }
            return Ok(Value::String(STANDARD.encode(octets)));
        }
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let is_file = name == FILE;
            map.insert(name, fields.next_value_seed(Reader { is_file, ..self })?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_is_read_as_any_reader_of_json_reads_it() {
        let table = [
            "null",
            " [] ",
            r#"{"a":[1,-1,1.5,true,null,"x\n\u00fc"],"b":{"c":{}},"content":"QQ=="}"#,
            r#"{"a":1,"a":2}"#,
            "18446744073709551615",
        ];
        for text in table {
            assert_eq!(
                read(text.as_bytes()).unwrap(),
                serde_json::from_str::<Value>(text).unwrap(),
                "{text}"
            );
        }
        for text in ["", "{", "[1,]", "{}{}", "nul", "\"\u{1}\"", &"[".repeat(500)] {
            assert!(matches!(read(text.as_bytes()), Err(HttpError::NotJson(_))), "{text}");
        }
    }

    #[test]
    fn a_file_may_be_a_list_of_octets_however_long() {
        let octets: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let body = json!({ "attachments": [{ "content": octets, "filename": "a" }] }).to_string();
        let read = read(body.as_bytes()).unwrap();
        assert_eq!(read["attachments"][0]["content"], STANDARD.encode(&octets));
        let empty = super::read(br#"{"content":[]}"#).unwrap();
        assert_eq!(empty, json!({ "content": "" }));
        for wrong in [r#"{"content":[256]}"#, r#"{"content":[-1]}"#, r#"{"content":["x"]}"#] {
            assert!(matches!(super::read(wrong.as_bytes()), Err(HttpError::Invalid(_))), "{wrong}");
        }
    }

    #[test]
    fn p7_values_are_counted_wherever_they_stand() {
        let list = |n: usize| format!("[{}0]", "0,".repeat(n - 1));
        assert!(read(list(MAX_VALUES - 1).as_bytes()).is_ok());
        let nested = format!(r#"{{"x":{}}}"#, list(MAX_VALUES - 1));
        for many in [list(MAX_VALUES), nested] {
            let Err(HttpError::Invalid(why)) = read(many.as_bytes()) else { panic!("read") };
            assert!(why.contains("20000 values"), "{why}");
        }
    }
}
