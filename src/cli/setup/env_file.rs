//! The file with the environment that `serve` is started in: `NAME=value` lines that a
//! shell, systemd's `EnvironmentFile=` and container runtimes read alike.
//!
//! It may have been a person's before it was ours: lines that are not asked for stay as
//! they are, and a value that says something else is not overwritten unless that is
//! wanted. It holds secrets, so it is for its owner only, and it is replaced in one step.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Who may read it: its owner.
const MODE: u32 = 0o600;
/// What stands at the top of a new one.
const HEAD: &str = "# The environment of `postmeter serve`, written by `postmeter setup`. It holds secrets.";

/// The file, as it is and as it is to be.
#[derive(Debug)]
pub(super) struct EnvFile {
    /// Where it is; where a link leads.
    path: PathBuf,
    /// What is on disk; `None`: nothing.
    old: Option<Old>,
    lines: Vec<String>,
}

#[derive(Debug)]
struct Old {
    text: String,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What one name is to say. No `Debug`: it may be a secret.
pub(super) struct Setting {
    /// The name, without `_FILE`.
    pub(super) name: &'static str,
    /// What it is to say.
    pub(super) value: String,
    /// The file that says so, where the value came from one.
    pub(super) from_file: Option<String>,
}

/// How a name stands in the file against what it is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is not there.
    Absent,
    /// It says so.
    Same,
    /// It says something else.
    Different,
}

impl Setting {
    pub(super) fn new(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, value: value.into(), from_file: None }
    }

    /// Whether this value means the same: a slash at the end of a URL means nothing, and
    /// of several signing keys, which stand there while they rotate, one is enough.
    fn is_said_by(&self, value: &str) -> bool {
        match self.name {
            "BASE_URL" | "DODO_PAYMENTS_BASE_URL" => {
                value.trim_end_matches('/') == self.value.trim_end_matches('/')
            }
            "DODO_WEBHOOK_KEY" => value.split(',').any(|key| key.trim() == self.value),
            _ => value == self.value,
        }
    }

    /// The line that says so, unless it cannot be said in such a file.
    pub(super) fn line(&self) -> anyhow::Result<String> {
        Ok(match &self.from_file {
            Some(path) => format!("{}_FILE={}", self.name, word(self.name, path)?),
            None => format!("{}={}", self.name, word(self.name, &self.value)?),
        })
    }
}

impl EnvFile {
    /// Reads it; one that is not there is empty.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let told = || format!("cannot read {}", path.display());
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self { path: path.to_owned(), old: None, lines: Vec::new() });
            }
            Err(error) => return Err(error).with_context(told),
        };
        let text = fs::read_to_string(&path).with_context(told)?;
        let found = fs::metadata(&path).with_context(told)?;
        let lines = text.lines().map(str::to_owned).collect();
        let old = Old { text, mode: found.permissions().mode() & 0o7777, uid: found.uid(), gid: found.gid() };
        Ok(Self { path, old: Some(old), lines })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What a name says: its last line that says anything.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        let said = self.lines.iter().filter_map(|line| assignment(line));
        let last = said.filter(|(said, _)| *said == name).map(|(_, value)| value).next_back()?;
        (!last.is_empty()).then_some(last)
    }

    /// How a name stands.
    pub(super) fn standing(&self, setting: &Setting) -> Standing {
        let by_file = self.value(&format!("{}_FILE", setting.name));
        let said = match (self.value(setting.name), by_file) {
            (None, None) => return Standing::Absent,
            (Some(value), None) => Some(value),
            (None, Some(path)) => fs::read_to_string(path).ok().map(|text| text.trim().to_owned()),
            (Some(_), Some(_)) => None,
        };
        if said.is_some_and(|said| setting.is_said_by(&said)) { Standing::Same } else { Standing::Different }
    }

    /// Has the name say so, whatever it says now; `false`: it does already.
    pub(super) fn set(&mut self, setting: &Setting) -> anyhow::Result<bool> {
        if self.standing(setting) == Standing::Same {
            return Ok(false);
        }
        let line = setting.line()?;
        let by_file = format!("{}_FILE", setting.name);
        let is_ours =
            |line: &String| assignment(line).is_some_and(|(name, _)| name == setting.name || name == by_file);
        let place = self.lines.iter().position(is_ours);
        self.lines.retain(|line| !is_ours(line));
        if self.lines.is_empty() && self.old.is_none() {
            self.lines.push(HEAD.to_owned());
        }
        self.lines.insert(place.unwrap_or(self.lines.len()), line);
        Ok(true)
    }

    /// Whether it could be replaced, found out without a change to it.
    pub(super) fn is_writable(&self) -> anyhow::Result<()> {
        self.staged("", |_| Ok(()))
    }

    /// Replaces the file on disk in one step, for its owner only; `false`: it is as it should be.
    pub(super) fn write(&self) -> anyhow::Result<bool> {
        let text: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        let is_so = |old: &Old| old.mode == MODE && old.text.lines().eq(text.lines());
        if self.old.as_ref().is_some_and(is_so) {
            return Ok(false);
        }
        // Somebody may have had it in an editor while Dodo was asked.
        let now = fs::read_to_string(&self.path).ok();
        if now.as_ref() != self.old.as_ref().map(|old| &old.text) {
            bail!(
                "{} was changed while this ran, so it was left as it is; run `postmeter setup` again, it finds what \
                 was made",
                self.path.display()
            );
        }
        self.staged(&text, |new| {
            fs::rename(new, &self.path)?;
            File::open(self.directory())?.sync_all()
        })?;
        Ok(true)
    }

    fn directory(&self) -> &Path {
        let directory = self.path.parent().filter(|directory| !directory.as_os_str().is_empty());
        directory.unwrap_or(Path::new("."))
    }

    /// Writes a file beside it and hands that on; whatever happens, it does not stay.
    fn staged(&self, text: &str, then: impl FnOnce(&Path) -> std::io::Result<()>) -> anyhow::Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        // One name, so that what a killed run left there goes with the next.
        let new = self.directory().join(format!(".{name}.new"));
        let _ = fs::remove_file(&new);
        let done = self.stage(&new, text).and_then(|()| then(&new));
        // Nobody would look for it there, and it holds secrets.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => done,
        }
        .with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn stage(&self, new: &Path, text: &str) -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(new)?;
        let made = file.metadata()?;
        // Root must not take the file away from the user that the server runs as.
        if let Some(old) = self.old.as_ref().filter(|old| (old.uid, old.gid) != (made.uid(), made.gid())) {
            chown(new, Some(old.uid), Some(old.gid))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

/// Name and value of a line that sets one.
fn assignment(line: &str) -> Option<(&str, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let (name, value) = line.split_once('=')?;
    let is_name =
        !name.is_empty() && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_');
    is_name.then(|| (name, unquoted(value.trim())))
}

/// Without the quotes around it. What is written in any other way stands as it is, and is
/// then no value that we know.
fn unquoted(value: &str) -> String {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    let double = inner('"').filter(|inner| !inner.contains(['"', '\\', '$', '`']));
    let single = inner('\'').filter(|inner| !inner.contains('\''));
    single.or(double).unwrap_or(value).to_owned()
}

/// A value as every reader of such files takes it.
fn word(name: &str, value: &str) -> anyhow::Result<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:+=@%,".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) {
        return Ok(value.to_owned());
    }
    if value.is_empty() || value.chars().any(|c| c == '\'' || c.is_control()) {
        bail!("{name} has a value that cannot stand in such a file");
    }
    Ok(format!("'{value}'"))
}

#[cfg(test)]
mod tests;
