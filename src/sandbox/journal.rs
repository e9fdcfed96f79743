//! What a stand-in remembers across restarts: one file of JSON lines, written
//! before each change takes effect and read back at the next start.
//!
//! A killed process loses nothing, since a finished write is the kernel's. No
//! fsync: this is a sandbox, and a power failure may cost its last moments. A
//! last line without its end was never acknowledged and is dropped.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The file, or nothing where all is kept in memory only.
#[derive(Debug, Default)]
pub(super) struct Journal(Option<Open>);

#[derive(Debug)]
struct Open {
    file: File,
    path: PathBuf,
    octets: u64,
}

/// Where a line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    offset: u64,
    octets: usize,
}

impl Journal {
    /// Opens or creates the file and hands every line of it, in order, to `replay`.
    ///
    /// # Errors
    /// The file cannot be read or written, another process has it, or a line other than a torn
    /// last one does not parse.
    pub(super) fn open<T: DeserializeOwned>(path: &Path, mut replay: impl FnMut(T, Place)) -> Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        file.try_lock().map_err(|error| named(path, format!("in use by another sandbox ({error})")))?;
        let mut reader = BufReader::new(&file);
        let mut octets = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                break;
            }
            let place = Place { offset: octets, octets: read };
            let entry = serde_json::from_slice(&line)
                .map_err(|error| named(path, format!("damaged at octet {octets}: {error}")))?;
            replay(entry, place);
            octets += u64::try_from(read).unwrap_or(u64::MAX);
        }
        file.set_len(octets)?;
        Ok(Self(Some(Open { file, path: path.to_owned(), octets })))
    }

    /// Writes one line; its place, if there is a file.
    ///
    /// # Errors
    /// The line could not be written; then nothing of it stays.
    pub(super) fn append<T: Serialize>(&mut self, entry: &T) -> Result<Option<Place>> {
        let Some(open) = &mut self.0 else { return Ok(None) };
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if let Err(error) = open.file.write_all(&line) {
            open.file.set_len(open.octets)?;
            return Err(error);
        }
        let place = Place { offset: open.octets, octets: line.len() };
        open.octets += u64::try_from(line.len()).unwrap_or(u64::MAX);
        Ok(Some(place))
    }

    /// Reads a line again.
    ///
    /// # Errors
    /// The file is gone or does not hold what was written there.
    pub(super) fn read<T: DeserializeOwned>(&self, place: Place) -> Result<T> {
        let Some(open) = &self.0 else { return Err(Error::from(ErrorKind::NotFound)) };
        let mut file = File::open(&open.path)?;
        file.seek(SeekFrom::Start(place.offset))?;
        let mut line = vec![0; place.octets];
        file.read_exact(&mut line)?;
        Ok(serde_json::from_slice(&line)?)
    }
}

fn named(path: &Path, what: String) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("postmeter-journal-{}-{name}", std::process::id()));
        if path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        path
    }

    fn lines(path: &Path) -> Result<Vec<u32>> {
        let mut seen = Vec::new();
        Journal::open(path, |n: u32, _| seen.push(n))?;
        Ok(seen)
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let path = scratch("restart");
        let mut journal = Journal::open(&path, |_: u32, _| ()).unwrap();
        journal.append(&7_u32).unwrap();
        let place = journal.append(&8_u32).unwrap().unwrap();
        assert_eq!(journal.read::<u32>(place).unwrap(), 8);
        drop(journal);
        assert_eq!(lines(&path).unwrap(), [7, 8]);
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_the_next_one_stands_alone() {
        let path = scratch("torn");
        std::fs::write(&path, "1\n2\n3").unwrap();
        let mut journal = Journal::open(&path, |_: u32, _| ()).unwrap();
        journal.append(&4_u32).unwrap();
        drop(journal);
        assert_eq!(lines(&path).unwrap(), [1, 2, 4]);
    }

    #[test]
    fn damage_in_the_middle_is_told_and_a_second_sandbox_is_refused() {
        let path = scratch("damage");
        std::fs::write(&path, "1\nx\n3\n").unwrap();
        assert!(lines(&path).unwrap_err().to_string().contains("damaged at octet 2"));
        let path = scratch("twice");
        let _first = Journal::open(&path, |_: u32, _| ()).unwrap();
        assert!(lines(&path).unwrap_err().to_string().contains("another sandbox"));
    }
}
