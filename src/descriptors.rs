//! How many files this process may have open: each connection is one.
//!
//! Systems give a process 1,024 at first and let it ask for many more. Without them a
//! thousand silent strangers would keep everybody else out, so they are asked for at
//! the start; what is missing all the same is told, and nothing fails for it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// What is open beside the connections of clients: the database, the log, calls to
/// the two services and to the upstream.
const OTHERS: usize = 512;

/// Asks for all that the system allows. Returns a warning if that is too few for the
/// connections that the configuration allows.
pub fn raise(config: &Config) -> Option<String> {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused, the old limit stands.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    shortage(getrlimit(Resource::Nofile).current, config)
}

/// What to say of so many; `None`: no limit.
fn shortage(allowed: Option<u64>, config: &Config) -> Option<String> {
    let connections = config.smtp.max_connections.saturating_add(config.http.max_connections);
    let needed = u64::try_from(connections.saturating_add(OTHERS)).unwrap_or(u64::MAX);
    let allowed = allowed.filter(|allowed| *allowed < needed)?;
    Some(format!(
        "this process may open {allowed} files, and all the connections it may have need {needed}: \
         raise the limit (LimitNOFILE= of systemd, ulimit -n), or lower max_connections"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_are_told_with_what_to_do() {
        let mut config = Config::default();
        (config.smtp.max_connections, config.http.max_connections) = (1_000, 500);
        assert_eq!(shortage(None, &config), None);
        assert_eq!(shortage(Some(2_012), &config), None);
        let told = shortage(Some(2_011), &config).unwrap();
        assert!(told.contains("may open 2011 files") && told.contains("need 2012"), "{told}");
    }
}
