//! The DNS challenge: a TXT record with a token at a name of its own below the domain.
//!
//! An alias is not followed: where a zone points every name that it does not have
//! somewhere else, whoever is there could publish the record. Nor is anything
//! remembered, since the next look is made because the answer may be another one.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record};

use crate::domain::address::Domain;

/// The label under which the record is published.
const LABEL: &str = "_postmeter-challenge";
/// What stands before the token.
const PREFIX: &str = "postmeter-verification=";
/// For one question to one server.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Further questions after a silence.
const RETRIES: usize = 1;
/// For a whole look, whatever the servers do.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Values that are looked at; a name with more is somebody's experiment.
const MAX_VALUES: usize = 50;

/// Asks a resolver.
#[derive(Clone)]
pub struct Dns(TokioResolver);

/// What is published under the name, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// These tokens; none is as sure as some.
    Tokens(Vec<String>),
    /// No answer, or none that counts.
    Unknown(String),
}

/// The name of the record for a domain.
pub fn record_name(domain: &Domain) -> String {
    format!("{LABEL}.{domain}")
}

/// The value of the record with a token.
pub fn record_value(token: &str) -> String {
    format!("{PREFIX}{token}")
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").finish_non_exhaustive()
    }
}

impl Dns {
    /// Asks `server`, or else whom the system asks (`/etc/resolv.conf`).
    ///
    /// # Errors
    /// The system's configuration cannot be read.
    pub fn new(server: Option<SocketAddr>) -> Result<Self, NetError> {
        let mut builder = match server {
            Some(address) => {
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server(address)]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
            None => TokioResolver::builder_tokio()?,
        };
        careful(builder.options_mut());
        builder.build().map(Self)
    }

    /// Looks for the tokens of a domain; at most ten seconds.
    pub async fn look(&self, domain: &Domain) -> Published {
        // A dot at the end: the system's search list is not for this.
        let name = match Name::from_ascii(format!("{}.", record_name(domain))) {
            Ok(name) => name,
            Err(error) => return Published::Unknown(error.to_string()),
        };
        match tokio::time::timeout(LOOK_TIMEOUT, self.0.txt_lookup(name.clone())).await {
            Ok(Ok(lookup)) => Published::Tokens(tokens(&name, lookup.answers())),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) if is_sure(none.response_code) => {
                Published::Tokens(Vec::new())
            }
            Ok(Err(error)) => Published::Unknown(error.to_string()),
            Err(_) => Published::Unknown("no answer in time".to_owned()),
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connection = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let ways = vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, ways)
}

fn careful(options: &mut ResolverOpts) {
    options.timeout = TIMEOUT;
    options.attempts = RETRIES;
    options.cache_size = 0;
    options.try_tcp_on_error = true;
    options.preserve_intermediates = true;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
}

/// There is no such name, or nothing of that kind.
fn is_sure(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NXDomain | ResponseCode::NoError)
}

/// The tokens at exactly that name. A value that is longer than one string of DNS
/// comes in several.
fn tokens(name: &Name, answers: &[Record]) -> Vec<String> {
    let values = answers.iter().filter(|record| record.name == *name).take(MAX_VALUES);
    let values = values.filter_map(|record| match &record.data {
        RData::TXT(txt) => Some(txt.txt_data.concat()),
        _ => None,
    });
    let text = values.filter_map(|octets| String::from_utf8(octets).ok());
    text.filter_map(|text| text.trim().strip_prefix(PREFIX).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::{CNAME, TXT};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn txt(at: &str, strings: &[&str]) -> Record {
        let data = TXT::new(strings.iter().map(|text| (*text).to_owned()).collect());
        Record::from_rdata(name(at), 60, RData::TXT(data))
    }

    #[test]
    fn only_what_stands_at_the_name_itself_counts() {
        let own = "_postmeter-challenge.example.com.";
        let answers = [
            txt(own, &["v=spf1 -all"]),
            txt("_Postmeter-Challenge.EXAMPLE.com.", &["postmeter-verification=a"]),
            txt(own, &["postmeter-verif", "ication=b"]),
            txt(own, &["  postmeter-verification=c "]),
            txt(own, &["x postmeter-verification=no"]),
            Record::from_rdata(name(own), 60, RData::CNAME(CNAME(name("saas.example.")))),
            txt("saas.example.", &["postmeter-verification=no"]),
            txt("example.com.", &["postmeter-verification=no"]),
        ];
        assert_eq!(tokens(&name(own), &answers), ["a", "b", "c"]);
    }

    #[test]
    fn the_record_is_told_as_it_is_looked_for() {
        let domain = Domain::parse("example.com").unwrap();
        assert_eq!(record_name(&domain), "_postmeter-challenge.example.com");
        assert_eq!(record_value("t"), "postmeter-verification=t");
    }
}
