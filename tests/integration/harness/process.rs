//! The binary as a process: started, ready, told to stop, or killed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::wait::{until, within};

/// A stop may take so long at most.
const STOP: Duration = Duration::from_secs(30);

/// Lets a debug build serve on a cluster of tests, which does not wait for its disk.
pub(crate) const ON_TESTS: &str = "POSTMETER_TEST_DATABASE";

/// The program under test, with nothing of this machine's environment but `PATH`, and which
/// database tests run on.
pub(crate) fn postmeter() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postmeter"));
    command.env_clear().stdin(Stdio::null());
    for name in ["PATH", ON_TESTS] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// What a command that ended said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// What stood on stdout.
    pub(crate) out: String,
    /// What stood on stderr.
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A program that was started, and may not be ready yet.
#[derive(Debug)]
pub(crate) struct Launched {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    log: PathBuf,
}

/// A running `serve` or `sandbox`.
#[derive(Debug)]
pub(crate) struct Process {
    program: Launched,
    /// STARTTLS.
    pub(crate) smtp: SocketAddr,
    /// Implicit TLS.
    pub(crate) smtps: SocketAddr,
    /// HTTP.
    pub(crate) http: SocketAddr,
}

impl Launched {
    /// Starts it; its stderr is appended to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let file: File = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                heard.lock().unwrap().push(line);
            }
        });
        Self { child, lines, log: log.to_owned() }
    }

    /// Whether it says that it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready_line().is_some()
    }

    fn ready_line(&self) -> Option<String> {
        self.lines.lock().unwrap().iter().find(|line| line.starts_with("ready ")).cloned()
    }

    /// Waits until it is ready, or has ended before.
    pub(crate) fn ready(mut self) -> Result<Process, Self> {
        let ready = until("the ready line, or an end", || {
            let ready = self.ready_line();
            let ended = ready.is_none() && self.child.try_wait().unwrap().is_some();
            ended.then_some(None).or(ready.map(Some))
        });
        let Some(ready) = ready else { return Err(self) };
        let address = |name: &str| {
            let found = ready.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("no {name} in {ready}")).parse().unwrap()
        };
        let (smtp, smtps, http) = (address("smtp"), address("smtps"), address("http"));
        Ok(Process { program: self, smtp, smtps, http })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it was killed by SIGKILL, by whomever.
    #[track_caller]
    pub(crate) fn dies_by_sigkill(mut self) {
        let status = self.wait().expect("still running");
        assert_eq!(status.signal(), Some(9), "it ended with {status}:\n{}", self.log());
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Everything that stands in the log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn wait(&mut self) -> Option<ExitStatus> {
        within(STOP, || self.child.try_wait().unwrap())
    }
}

impl Process {
    /// Starts it and waits until it is ready; its stderr is appended to `log`.
    pub(crate) fn start(command: Command, log: &Path) -> Self {
        Launched::start(command, log)
            .ready()
            .unwrap_or_else(|ended| panic!("it ended before it was ready:\n{}", ended.log()))
    }

    /// The program, wherever it can be reached.
    pub(crate) fn into_program(self) -> Launched {
        self.program
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.program.id()
    }

    /// What it printed on stdout so far.
    pub(crate) fn printed(&self) -> Vec<String> {
        self.program.lines.lock().unwrap().clone()
    }

    /// Asks it to stop, without waiting.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent =
            Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.program.child.id())).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end, which must come in time and with 0.
    #[track_caller]
    pub(crate) fn ends_well(mut self) {
        let status = self.program.wait().unwrap_or_else(|| panic!("still running {STOP:?} after SIGTERM"));
        assert!(status.success(), "it ended with {status}:\n{}", self.log());
    }

    /// SIGTERM, and its end.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.terminate();
        self.ends_well();
    }

    /// SIGKILL.
    pub(crate) fn kill(self) {
        self.program.kill();
    }

    /// Everything that stands in the log.
    pub(crate) fn log(&self) -> String {
        self.program.log()
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log\n{}---", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
