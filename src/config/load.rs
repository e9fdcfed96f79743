//! From the file to a [`Config`], or to all of its problems at once.

use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, secrets, validate};

/// Read where no file is named and this one is there.
const DEFAULT_FILE: &str = "postmeter.toml";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing or cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is read, and wrong.
    #[error("the configuration {} is not valid:{}", path.display(), Lines(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong with it, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong with the file. Shown as one line that names the place,
/// the key and what to do; never a value of a key that is not ours, since it may
/// be a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line, from 1; unknown where a default meets a value of the file.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// The key with its section, such as `smtp.hostname`; empty where the file is no TOML.
    pub key: String,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}")?;
            if let Some(column) = self.column {
                write!(f, ", column {column}")?;
            }
            f.write_str(": ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Config {
    /// Reads the file at `path`; without one `./postmeter.toml`, if there is one,
    /// and otherwise the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        match Self::load_readable(path) {
            (config, None) => Ok(config),
            (_, Some(error)) => Err(error),
        }
    }

    /// The same, for `check`, which goes on after a problem: what cannot be read
    /// is left at its default.
    pub fn load_readable(path: Option<&Path>) -> (Self, Option<ConfigError>) {
        let named = path.is_some();
        let path = path.unwrap_or(Path::new(DEFAULT_FILE)).to_owned();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && !named => String::new(),
            Err(source) => return (Self::default(), Some(ConfigError::Unreadable { path, source })),
        };
        let (config, problems) = readable(&text);
        let error = (!problems.is_empty()).then_some(ConfigError::Invalid { path, problems });
        (config, error)
    }

    /// Reads `text` as the file. The problems are in the order of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let (config, problems) = readable(text);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }
}

/// What can be read of `text`, and all that is wrong with the rest.
fn readable(text: &str) -> (Config, Vec<Problem>) {
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => return (Config::default(), vec![malformed(text, &error)]),
    };
    let (config, mut problems) = typed(text, document.clone());
    for (key, what) in validate::problems(&config) {
        // A key that could not be read has been reported; its default is not the operator's fault.
        if problems.iter().any(|known| known.key == key) {
            continue;
        }
        let place = span_of(document.get_ref(), key).map(|span| place(text, span.start));
        problems.push(Problem::at(place, key.to_owned(), what));
    }
    problems.sort();
    (config, problems)
}

impl Problem {
    fn at(place: Option<(usize, usize)>, key: String, text: String) -> Self {
        Self { line: place.map(|(line, _)| line), column: place.map(|(_, column)| column), key, text }
    }
}

fn malformed(text: &str, error: &toml::de::Error) -> Problem {
    let place = error.span().map(|span| place(text, span.start));
    Problem::at(place, String::new(), one_line(error.message()))
}

/// Deserializing stops at the first key that is wrong. That key is reported and
/// taken out, and the rest is tried again, until all of them are known.
fn typed(text: &str, mut document: Spanned<DeTable<'_>>) -> (Config, Vec<Problem>) {
    let mut problems = Vec::new();
    loop {
        let error = match Config::deserialize(toml::Deserializer::from(document.clone())) {
            Ok(config) => return (config, problems),
            Err(error) => error,
        };
        let mut key = Vec::new();
        let removed = error.span().is_some_and(|span| take_out(document.get_mut(), &span, &mut key));
        let place = error.span().map(|span| place(text, span.start));
        let key = key.join(".");
        let hint = secrets::hint(&key).unwrap_or_default();
        problems.push(Problem::at(place, key, one_line(error.message()) + hint));
        if !removed {
            return (Config::default(), problems);
        }
    }
}

/// Removes the innermost entry that `span` lies in and leaves its path in `key`.
fn take_out(table: &mut DeTable<'_>, span: &Range<usize>, key: &mut Vec<String>) -> bool {
    let found = table.iter_mut().find_map(|(name, value)| {
        let named = covers(&name.span(), span);
        let inner = match value.get_mut() {
            DeValue::Table(inner) if !named => {
                let mut below = vec![name.get_ref().to_string()];
                take_out(inner, span, &mut below).then_some(below)
            }
            _ => None,
        };
        match inner {
            Some(path) => Some((name.clone(), path, true)),
            None if named || holds(value, span) => {
                Some((name.clone(), vec![name.get_ref().to_string()], false))
            }
            None => None,
        }
    });
    let Some((name, path, done)) = found else { return false };
    key.extend(path);
    done || table.remove(&name).is_some()
}

/// Whether `span` lies in the value. The tables of an array lie outside the array's own span.
fn holds(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    let within = match value.get_ref() {
        DeValue::Array(items) => items.iter().any(|item| holds(item, span)),
        DeValue::Table(table) => {
            table.iter().any(|(name, value)| covers(&name.span(), span) || holds(value, span))
        }
        _ => false,
    };
    within || covers(&value.span(), span)
}

fn covers(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn span_of(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let (name, value) = table.iter().find(|(name, _)| name.get_ref() == first)?;
    match rest {
        None => Some(name.span()),
        Some(rest) => span_of(value.get_ref().as_table()?, rest),
    }
}

/// Line and column of an offset, from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).map_or(0, |line| line.chars().count());
    (before.matches('\n').count() + 1, column + 1)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
