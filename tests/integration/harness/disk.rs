//! A disk that fails: a file system that can be filled, and system calls that
//! are answered with an error.
//!
//! To mount is root's right, and not every root's. Without it, or without strace,
//! the test is skipped by name, unless `POSTMETER_REQUIRE_TOOLS=1`.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::client::{has, missing};

/// The calls by which SQLite makes what it wrote durable.
pub(crate) const SYNC: &str = "fsync,fdatasync";
/// The calls by which it writes.
pub(crate) const WRITE: &str = "pwrite64";

/// A small file system in memory, mounted where a data directory will be.
#[derive(Debug)]
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// So many MiB, at `path`. `None`: this machine does not let us mount.
    pub(crate) fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        Self::mount_with(path, &format!("size={mebibytes}m,mode=700"))
    }

    /// The same, another user's.
    pub(crate) fn mount_for(user: &str, path: &Path, mebibytes: u32) -> Option<Self> {
        Self::mount_with(path, &format!("size={mebibytes}m,mode=700,uid={user}"))
    }

    fn mount_with(path: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            missing("the right to mount a file system");
        }
        mounted.then(|| Self(path.to_owned()))
    }

    /// Fills it to the last octet.
    pub(crate) fn fill(&self) {
        let mut filler: File = OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        for size in [1 << 16, 4096, 1] {
            while filler.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    /// Is ten times as large from now on.
    pub(crate) fn grow(&self) {
        let mut mount = Command::new("mount");
        let grown = mount.args(["-o", "remount,size=240m"]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }

    /// Makes room again.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that failed may have left a process in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// strace at work on a process, until it is dropped.
#[derive(Debug)]
pub(crate) struct Injected(Child);

impl Injected {
    /// Answers these calls of the process with that error; `when` in strace's
    /// words, counted in every thread (`1+`: always). `None`: not possible here.
    pub(crate) fn begin(process: u32, calls: &str, error: &str, when: &str) -> Option<Self> {
        if !has("strace", &["--version"]) {
            return None;
        }
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        strace.args(["-e", &format!("inject={calls}:error={error}:when={when}")]);
        strace.args(["-p", &process.to_string()]);
        let mut child = strace.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        if line.contains("attached") {
            // It goes on telling of new threads; somebody has to listen.
            std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
            return Some(Self(child));
        }
        child.wait().unwrap();
        missing(&format!("leave to trace a process (strace: {})", line.trim()));
        None
    }

    /// The calls work again.
    pub(crate) fn end(self) {
        drop(self);
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        // On SIGINT it lets go of the process; killed, it would take it along.
        let _ = Command::new("sh").arg("-c").arg(format!("kill -INT {}", self.0.id())).status();
        let _ = self.0.wait();
    }
}
