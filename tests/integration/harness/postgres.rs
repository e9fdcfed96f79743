//! A PostgreSQL of tests' own: a cluster in a directory of its own, reached through a
//! socket there and no port, and gone with whoever started it, however that ends.
//!
//! PostgreSQL does not run as root: there its processes are those of the user
//! `postgres`, whom Debian's package makes. What is lost with the machine is nobody's:
//! it does not wait for the disk.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Who owns the databases.
const ROLE: &str = "postmeter";
/// Whose the processes are, where a test is root.
pub(crate) const USER: &str = "postgres";
/// The number in the socket's name, unless it listens too.
const PORT: u16 = 5432;
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Runs the server until nobody holds the other end of the standard input, and clears up.
/// Meanwhile it does what it reads there, and says when it has: `stop`, which recovers at the next
/// start, `crash`, which is kill -9 of all of it, and `start`.
const KEEPER: &str = r#"
    programs=$1 home=$2 address=$3 port=$4 settings=$5
    start() {
        "$programs/postgres" -D "$home/data" -k "$home" -h "$address" -p "$port" \
            -F -c full_page_writes=off $settings &
    }
    start
    while read -r word; do
        case $word in
            stop) kill -QUIT $!; wait $! ;;
            crash) kill -STOP $!; kill -KILL $(cat /proc/$!/task/$!/children) $!; wait $! ;;
            start) start ;;
        esac
        echo done
    done
    kill -QUIT $!
    wait
    rm -rf "$home""#;

/// A running cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    programs: PathBuf,
    /// Where its socket is, too.
    pub(crate) home: PathBuf,
    port: u16,
    /// Does what its standard input says: `stop`, `crash` and `start`.
    keeper: Child,
}

impl Cluster {
    /// Makes one and waits until it answers. `None`: this machine has no PostgreSQL.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with("-c max_connections=400")
    }

    /// The same with settings of its own.
    pub(crate) fn start_with(settings: &str) -> Option<Self> {
        Self::begin((PORT, ""), settings, initdb)
    }

    /// The same with a port of this machine too, at the address if that is not empty.
    pub(crate) fn listening(port: u16, address: &str) -> Option<Self> {
        Self::begin((port, address), "-c max_connections=400", initdb)
    }

    /// One that takes over whatever is written to this one, and writes nothing until it is
    /// promoted.
    pub(crate) fn standby(&self, port: u16, address: &str) -> Self {
        let copied = |programs: &Path, home: &Path| {
            let mut copy = as_its_user(&programs.join("pg_basebackup"));
            copy.arg("--host").arg(&self.home).args(["--port", &self.port.to_string(), "--username", ROLE]);
            copy.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "--pgdata"]);
            succeed(copy.arg(home.join("data")));
        };
        Self::begin((port, address), "-c max_connections=400", copied).unwrap()
    }

    fn begin(
        (port, address): (u16, &str),
        settings: &str,
        make_data: impl FnOnce(&Path, &Path),
    ) -> Option<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let programs = programs()?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("postmeter-pg-{}-{number}", std::process::id()));
        make_home(&home);
        make_data(&programs, &home);
        let mut keeper = as_its_user(Path::new("sh"));
        keeper.args(["-c", KEEPER, "keeper"]).arg(&programs).arg(&home);
        keeper.args([address, &port.to_string(), settings]);
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let cluster = Self { programs, home, port, keeper: keeper.spawn().unwrap() };
        cluster.until_it_answers();
        Some(cluster)
    }

    /// Has the keeper do this, and waits until it has.
    pub(crate) fn have(&mut self, word: &str) {
        writeln!(self.keeper.stdin.as_mut().unwrap(), "{word}").unwrap();
        let mut done = [0; "done\n".len()];
        self.keeper.stdout.as_mut().unwrap().read_exact(&mut done).unwrap();
    }

    pub(crate) fn until_it_answers(&self) {
        let since = Instant::now();
        while !self.psql("postgres", "SELECT 1").output().is_ok_and(|said| said.status.success()) {
            assert!(since.elapsed() < PATIENCE, "PostgreSQL does not answer");
        }
    }

    /// Has its write-ahead log in that directory from the next start on. It must be stopped.
    pub(crate) fn move_log(&self, place: &Path) {
        let log = self.home.join("data/pg_wal");
        succeed(Command::new("cp").arg("--archive").arg(log.join(".")).arg(place));
        std::fs::remove_dir_all(&log).unwrap();
        std::os::unix::fs::symlink(place, &log).unwrap();
    }

    /// Makes an empty database.
    pub(crate) fn create(&self, database: &str) {
        self.read("postgres", &format!("CREATE DATABASE {database}"));
    }

    /// Its `database_url`, by the socket.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}@localhost/{database}?host={}", self.home.display())
    }

    /// What a query returns: a line for each row, its columns divided by `|`.
    pub(crate) fn read(&self, database: &str, query: &str) -> Vec<String> {
        let said = succeed(&mut self.psql(database, query));
        String::from_utf8(said.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// A client that runs these statements, all or none where they are more than one.
    pub(crate) fn psql(&self, database: &str, statements: &str) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.arg("--host").arg(&self.home).args(["--port", &self.port.to_string()]);
        psql.args(["--username", ROLE, "--dbname", database]);
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        psql.args(["--set", "ON_ERROR_STOP=1", "--command", statements]);
        psql
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The data of a cluster with nothing in it.
fn initdb(programs: &Path, home: &Path) {
    let mut initdb = as_its_user(&programs.join("initdb"));
    initdb.args(["--username", ROLE, "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8"]);
    succeed(initdb.args(["--no-sync", "--pgdata"]).arg(home.join("data")));
}

/// Where the newest PostgreSQL's programs lie: Debian keeps them out of the path.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest =
        versions.map(|version| version.path()).filter(|path| number(path).is_some()).max_by_key(number);
    newest.map(|version| version.join("bin")).filter(|bin| bin.join("initdb").exists())
}

/// The directory of a cluster, its user's own.
fn make_home(home: &Path) {
    let mut install = Command::new("install");
    install.args(["--directory", "--mode", "700"]);
    if is_root() {
        install.args(["--owner", USER]);
    }
    succeed(install.arg(home));
}

fn as_its_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--init-groups"]).arg(program);
    // Wherever the test stands, that user may not.
    command.current_dir("/");
    command
}

/// Whether tests are root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> Output {
    let said = command.stdin(Stdio::null()).output().unwrap();
    assert!(said.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&said.stderr));
    said
}
