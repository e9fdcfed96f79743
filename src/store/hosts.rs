//! `database_url`: on which hosts PostgreSQL is, how the way there is protected, and
//! which of them takes writes now.
//!
//! TLS is either verified down to the name, or it is not there at all: to this machine
//! alone, or where the URL says `sslmode=disable`. What lies between (`prefer`, `require`,
//! `verify-ca`) protects from nobody who can answer in the server's place. No error here
//! repeats a URL, which holds a password.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use super::opening::read_only;
use super::server::{Demands, Server};
use super::writers::Trouble;

/// This machine, by name.
const LOCAL: &str = "localhost";
/// How long one of several hosts may take to be connected to and to say whether it takes writes;
/// then the next is asked.
const LOOK: Duration = Duration::from_secs(1);
/// The same of the only one.
const LONG_LOOK: Duration = Duration::from_secs(3);

/// Why the URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDatabaseUrl {
    /// Not a URL of the kind.
    #[error(
        "must read postgres://user:password@host:5432/name (several hosts as host1:5432,host2:5432; special \
         characters of the password as %XX)"
    )]
    Form,
    /// Another scheme.
    #[error("must begin with postgres:// or postgresql://")]
    Scheme,
    /// Nothing after the hosts.
    #[error("names no database; write it after the hosts: postgres://user@host:5432/NAME")]
    Database,
    /// Neither hosts nor a socket.
    #[error("names no host; write one, or ?host=/var/run/postgresql for a socket of this machine")]
    Host,
    /// Something else than a number after a host's colon.
    #[error("has a port that is no number from 1 to 65535")]
    Port,
    /// A directory that is none, or both a directory and hosts.
    #[error("has a parameter host that is no directory of a socket (/…), or that stands beside other hosts")]
    Socket,
    /// Another protection.
    #[error(
        "has another sslmode than verify-full and disable; what lies between does not make sure who the server \
         is: use verify-full, with sslrootcert=FILE where the certificate is not from a public authority"
    )]
    SslMode,
    /// TLS over a socket, or certificates without TLS.
    #[error("asks for TLS where there is none: over a socket, or with sslmode=disable")]
    NoTls,
    /// One of the two.
    #[error("has one of sslcert and sslkey; a client's certificate needs both")]
    ClientCertificate,
    /// A word after the `?` that means nothing.
    #[error("may carry host, sslmode, sslrootcert, sslcert and sslkey, each once, and no other parameter")]
    Parameter,
}

/// Checks a `database_url` as far as that is possible without a look at disk and network.
/// Returns its name, without user and password.
pub fn check_url(text: &str) -> Result<String, InvalidDatabaseUrl> {
    Hosts::parse(text).map(|hosts| hosts.to_string())
}

/// Where the database is, in the order in which hosts are tried. Shown without user and password.
#[derive(Clone)]
pub(super) struct Hosts {
    each: Vec<PgConnectOptions>,
    /// What `sslrootcert`, `sslcert` and `sslkey` name.
    files: Vec<(&'static str, String)>,
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        for (number, options) in self.each.iter().enumerate() {
            write!(f, "{}{}", if number == 0 { "" } else { "," }, name(options))?;
        }
        let database = self.each.first().and_then(PgConnectOptions::get_database);
        write!(f, "/{}", database.unwrap_or_default())
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `host:port`, or the socket's directory.
fn name(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

impl Hosts {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidDatabaseUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidDatabaseUrl::Form)?;
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err(InvalidDatabaseUrl::Scheme);
        }
        // Most likely of a password; the URL would end there.
        if rest.contains('#') {
            return Err(InvalidDatabaseUrl::Form);
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        // What PostgreSQL's URLs alone have, several hosts, becomes several URLs.
        let urls = hosts.split(',').map(|host| one(&user, host, path)).collect::<Result<Vec<_>, _>>()?;
        let parameters = Parameters::read(urls.first().ok_or(InvalidDatabaseUrl::Form)?)?;
        let socket = match (parameters.socket.as_deref(), hosts) {
            (Some(socket), "" | LOCAL) if socket.starts_with('/') => Some(socket),
            (Some(_), _) => return Err(InvalidDatabaseUrl::Socket),
            (None, "") => return Err(InvalidDatabaseUrl::Host),
            (None, _) => None,
        };
        let each = urls.iter().map(|url| options(url, socket, &parameters)).collect::<Result<_, _>>()?;
        Ok(Self { each, files: parameters.files() })
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.each.len()).unwrap_or(u32::MAX)
    }

    /// The same with other settings for each.
    pub(super) fn tuned(self, tune: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self { each: self.each.into_iter().map(tune).collect(), ..self }
    }

    /// Connects to the host that takes writes now: the first in the URL's order that
    /// is neither recovering nor read-only. It says so on the very connection that is used then.
    pub(super) async fn connect(&self) -> Result<Primary, sqlx::Error> {
        for (parameter, path) in &self.files {
            tokio::fs::read(path).await.map_err(|error| {
                sqlx::Error::Configuration(format!("{parameter} names {path}: {error}").into())
            })?;
        }
        let limit = if self.each.len() == 1 { LONG_LOOK } else { LOOK };
        let mut reasons = Vec::new();
        for options in &self.each {
            match tokio::time::timeout(limit, Primary::at(options)).await {
                Ok(Ok(primary)) if primary.server.takes_writes => return Ok(primary),
                Ok(Ok(_)) => reasons.push(format!("{} takes no writes", name(options))),
                Ok(Err(error)) => reasons.push(format!("{}: {error}", name(options))),
                Err(_) => reasons.push(format!("{} does not answer", name(options))),
            }
        }
        Err(sqlx::Error::Io(io::Error::other(reasons.join("; "))))
    }
}

/// A host that takes writes, as it is connected to.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) options: PgConnectOptions,
    pub(super) connection: PgConnection,
    /// What it said of itself.
    pub(super) server: Server,
}

impl Primary {
    /// Whatever is there, if it takes writes or not.
    async fn at(options: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        let options = options.clone().disable_statement_logging();
        let mut connection = PgConnection::connect_with(&options).await?;
        let server = Server::look(&mut connection).await?;
        Ok(Self { options, connection, server })
    }
}

/// The way to whichever host takes writes now; pools go where it leads.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) hosts: Hosts,
    pub(super) demands: Demands,
    pub(super) trouble: Arc<Trouble>,
    pub(super) writing: PgPool,
    pub(super) reading: PgPool,
    pub(super) listening: PgPool,
}

impl Way {
    /// A new connection there, if it is what it must be.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let Primary { options, connection, server } = self.hosts.connect().await?;
        let refusal = self.demands.refusal(&server);
        self.trouble.judge(refusal.as_deref());
        if let Some(why) = refusal {
            let reason = format!("{} is not one to acknowledge mail on: {why}", name(&options));
            return Err(sqlx::Error::Io(io::Error::other(reason)));
        }
        self.reading.set_connect_options(read_only(options.clone()));
        self.writing.set_connect_options(options.clone());
        self.listening.set_connect_options(options);
        Ok(connection)
    }
}

/// One host as a URL of its own.
fn one(user: &str, host: &str, path: &str) -> Result<Url, InvalidDatabaseUrl> {
    // The colons of an address of IPv6 stand in brackets.
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err(InvalidDatabaseUrl::Port);
    }
    // A URL with a user needs a host, even where a parameter says what is meant.
    let host = if host.is_empty() { LOCAL } else { host };
    let url = Url::parse(&format!("postgres://{user}{host}{path}")).map_err(|_| InvalidDatabaseUrl::Form)?;
    if url.path().trim_matches('/').is_empty() {
        return Err(InvalidDatabaseUrl::Database);
    }
    Ok(url)
}

/// What may stand after the `?`.
#[derive(Default)]
struct Parameters {
    socket: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<String>,
    sslkey: Option<String>,
}

impl Parameters {
    fn read(url: &Url) -> Result<Self, InvalidDatabaseUrl> {
        let mut read = Self::default();
        for (parameter, value) in url.query_pairs() {
            let place = match parameter.as_ref() {
                "host" => &mut read.socket,
                "sslmode" => &mut read.sslmode,
                "sslrootcert" => &mut read.sslrootcert,
                "sslcert" => &mut read.sslcert,
                "sslkey" => &mut read.sslkey,
                _ => return Err(InvalidDatabaseUrl::Parameter),
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(InvalidDatabaseUrl::Parameter);
            }
        }
        if read.sslcert.is_some() != read.sslkey.is_some() {
            return Err(InvalidDatabaseUrl::ClientCertificate);
        }
        Ok(read)
    }

    fn files(&self) -> Vec<(&'static str, String)> {
        let all = [("sslrootcert", &self.sslrootcert), ("sslcert", &self.sslcert), ("sslkey", &self.sslkey)];
        all.into_iter().filter_map(|(name, path)| Some((name, path.clone()?))).collect()
    }

    /// Whether the way there is under TLS.
    fn wants_tls(&self, is_here: bool) -> Result<bool, InvalidDatabaseUrl> {
        let asks = !self.files().is_empty();
        match self.sslmode.as_deref() {
            None => Ok(asks || !is_here),
            Some("verify-full") => Ok(true),
            Some("disable") if asks => Err(InvalidDatabaseUrl::NoTls),
            Some("disable") => Ok(false),
            Some(_) => Err(InvalidDatabaseUrl::SslMode),
        }
    }
}

fn options(
    url: &Url,
    socket: Option<&str>,
    parameters: &Parameters,
) -> Result<PgConnectOptions, InvalidDatabaseUrl> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let tls = parameters.wants_tls(socket.is_some() || is_this_machine(&host))?;
    let mut bare = url.clone();
    bare.set_query(None);
    let mut options: PgConnectOptions =
        bare.as_str().parse().map_err(|_: sqlx::Error| InvalidDatabaseUrl::Form)?;
    options = options.host(&host);
    match socket {
        Some(_) if tls => return Err(InvalidDatabaseUrl::NoTls),
        Some(socket) => options = options.socket(socket),
        None => {}
    }
    if !tls {
        return Ok(options.ssl_mode(PgSslMode::Disable));
    }
    options = options.ssl_mode(PgSslMode::VerifyFull);
    if let Some(path) = &parameters.sslrootcert {
        options = options.ssl_root_cert(path);
    }
    if let (Some(certificate), Some(key)) = (&parameters.sslcert, &parameters.sslkey) {
        options = options.ssl_client_cert(certificate).ssl_client_key(key);
    }
    Ok(options)
}

fn is_this_machine(host: &str) -> bool {
    host == LOCAL || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_name_a_database() {
        let table = [
            ("postgres://u:p%40ss@db.example/mail", "postgres://db.example:5432/mail", "VerifyFull"),
            ("postgresql://db.example:6000/mail", "postgres://db.example:6000/mail", "VerifyFull"),
            (
                "postgres://u@a,b:6000,[2001:db8::1]:7000/m",
                "postgres://a:5432,b:6000,2001:db8::1:7000/m",
                "VerifyFull",
            ),
            ("postgres://db.example/mail?sslmode=disable", "postgres://db.example:5432/mail", "Disable"),
            ("postgres://u:p@127.0.0.1/mail", "postgres://127.0.0.1:5432/mail", "Disable"),
            ("postgres://u:p@[::1]/mail", "postgres://::1:5432/mail", "Disable"),
            ("postgres://u:p@localhost/mail", "postgres://localhost:5432/mail", "Disable"),
            ("postgres://localhost/mail?sslrootcert=ca.pem", "postgres://localhost:5432/mail", "VerifyFull"),
            ("postgres://localhost/mail?sslmode=verify-full", "postgres://localhost:5432/mail", "VerifyFull"),
            ("postgres:///mail?host=/run/postgresql", "postgres:///run/postgresql/mail", "Disable"),
            (
                "postgres://u@localhost/mail?host=/run/postgresql",
                "postgres:///run/postgresql/mail",
                "Disable",
            ),
        ];
        for (text, shown, mode) in table {
            let hosts = Hosts::parse(text).unwrap();
            assert_eq!(format!("{hosts:?}"), shown, "{text}");
            for options in &hosts.each {
                assert_eq!(format!("{:?}", options.get_ssl_mode()), mode, "{text}");
            }
        }
    }

    #[test]
    fn each_host_is_under_its_own_rule_and_has_the_same_user() {
        let hosts = Hosts::parse("postgres://us%2Fer:p%2Cw@127.0.0.1,db.example/mail").unwrap();
        let modes: Vec<_> = hosts.each.iter().map(|one| format!("{:?}", one.get_ssl_mode())).collect();
        assert_eq!(modes, ["Disable", "VerifyFull"]);
        assert!(hosts.each.iter().all(|one| one.get_username() == "us/er"));
    }

    #[test]
    fn p10_what_cannot_be_used_is_told_without_the_url() {
        use InvalidDatabaseUrl::*;
        let table = [
            ("hunter2", Form),
            ("postgres://u:hun#ter2@h/d", Form),
            ("mysql://u:hunter2@h/d", Scheme),
            ("postgres://u:hunter2@h", Database),
            ("postgres://u:hunter2@h/?sslmode=disable", Database),
            ("postgres:///d", Host),
            ("postgres://u:hunter2@h:port/d", Port),
            ("postgres://u:hunter2@h:0/d", Port),
            ("postgres://u:hunter2@h,h:99999/d", Port),
            ("postgres://u:hunter2@h/d#hunter2", Form),
            ("postgres://u:hunter2@h/d?host=/run", Socket),
            ("postgres:///d?host=run", Socket),
            ("postgres://u:hunter2@h/d?sslmode=prefer", SslMode),
            ("postgres://u:hunter2@h/d?sslmode=require", SslMode),
            ("postgres://u:hunter2@h/d?sslmode=verify-ca", SslMode),
            ("postgres://u:hunter2@h/d?sslmode=hunter2", SslMode),
            ("postgres://u:hunter2@h/d?sslmode=disable&sslrootcert=ca.pem", NoTls),
            ("postgres:///d?host=/run&sslmode=verify-full", NoTls),
            ("postgres://u:hunter2@h/d?sslcert=c.pem", ClientCertificate),
            ("postgres://u:hunter2@h/d?hunter2=1", Parameter),
            ("postgres://u:hunter2@h/d?sslmode=disable&sslmode=verify-full", Parameter),
        ];
        for (text, want) in table {
            let error = Hosts::parse(text).unwrap_err();
            assert_eq!(error, want, "{text}");
            assert!(!error.to_string().contains("ter2"), "{error}");
        }
    }
}
