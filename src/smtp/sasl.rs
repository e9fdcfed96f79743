//! SASL as SMTP carries it: PLAIN (RFC 4616) and LOGIN, within AUTH (RFC 4954 §4).
//!
//! Each exchange is a value; it takes a response and becomes the next one. What
//! it must not know: whether a credential is good.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::domain::credential::Secret;

/// A mechanism that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// `PLAIN`
    Plain,
    /// `LOGIN`, for clients that know no better.
    Login,
}

impl Mechanism {
    /// The mechanism of that name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        let is = |own: &str| name.eq_ignore_ascii_case(own);
        if is("PLAIN") {
            return Some(Self::Plain);
        }
        is("LOGIN").then_some(Self::Login)
    }
}

/// An exchange that waits for the client's next response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// PLAIN without an initial response: the whole message is due.
    PlainMessage,
    /// LOGIN: the username is due.
    LoginUsername,
    /// LOGIN: the secret is due.
    LoginSecret {
        /// The username that was given.
        username: String,
    },
}

/// A username and secret, complete and not yet checked.
#[derive(Debug, Clone)]
pub struct Login {
    /// The username as it was presented.
    pub username: String,
    /// The secret as it was presented.
    pub secret: Secret,
}

/// Why an exchange ended without a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The client sent `*`.
    Cancelled,
    /// Not base64 (RFC 4648 §4).
    NotBase64,
    /// Decoded, and not what the mechanism asks for.
    Malformed,
    /// PLAIN asked to act as somebody else; nobody may.
    OtherIdentity,
}

/// What a response led to.
#[derive(Debug)]
pub enum Progress {
    /// The server's turn: ask for the next response.
    Ask(Exchange),
    /// The client has said everything.
    Complete(Login),
    /// It is over.
    Failed(Failure),
}

/// Begins an exchange, with the initial response if the command had one; `=`
/// stands for an empty one (RFC 4954 §4).
pub fn begin(mechanism: Mechanism, initial: Option<&str>) -> Progress {
    let exchange = match mechanism {
        Mechanism::Plain => Exchange::PlainMessage,
        Mechanism::Login => Exchange::LoginUsername,
    };
    match initial {
        None => Progress::Ask(exchange),
        Some("=") => exchange.respond(b""),
        Some(response) => exchange.respond(response.as_bytes()),
    }
}

impl Exchange {
    /// The base64 text of the challenge that belongs to this state.
    pub const fn challenge(&self) -> &'static str {
        match self {
            Self::PlainMessage => "",
            Self::LoginUsername => "VXNlcm5hbWU6",
            Self::LoginSecret { .. } => "UGFzc3dvcmQ6",
        }
    }

    /// Takes the client's response, one line without CRLF.
    pub fn respond(self, line: &[u8]) -> Progress {
        self.advance(line).unwrap_or_else(Progress::Failed)
    }

    fn advance(self, line: &[u8]) -> Result<Progress, Failure> {
        if line == b"*" {
            return Err(Failure::Cancelled);
        }
        let response = STANDARD.decode(line).map_err(|_| Failure::NotBase64)?;
        let response = String::from_utf8(response).map_err(|_| Failure::Malformed)?;
        match self {
            Self::PlainMessage => plain(&response).map(Progress::Complete),
            Self::LoginUsername => {
                let username = field(&response)?.to_owned();
                Ok(Progress::Ask(Self::LoginSecret { username }))
            }
            Self::LoginSecret { username } => {
                let secret = Secret::presented(field(&response)?);
                Ok(Progress::Complete(Login { username, secret }))
            }
        }
    }
}

/// `[authzid] NUL authcid NUL passwd` (RFC 4616 §2).
fn plain(message: &str) -> Result<Login, Failure> {
    let mut fields = message.split('\0');
    let (Some(identity), Some(username), Some(secret), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Failure::Malformed);
    };
    let (username, secret) = (field(username)?, field(secret)?);
    if !identity.is_empty() && identity != username {
        return Err(Failure::OtherIdentity);
    }
    Ok(Login { username: username.to_owned(), secret: Secret::presented(secret) })
}

fn field(text: &str) -> Result<&str, Failure> {
    if text.is_empty() || text.contains('\0') { Err(Failure::Malformed) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> String {
        STANDARD.encode(text)
    }

    fn outcome(progress: Progress) -> Result<(String, String), Failure> {
        match progress {
            Progress::Complete(login) => Ok((login.username, login.secret.reveal().to_owned())),
            Progress::Failed(failure) => Err(failure),
            Progress::Ask(exchange) => panic!("still asks: {exchange:?}"),
        }
    }

    #[test]
    fn plain_takes_exactly_three_fields() {
        let good = Ok(("user".to_owned(), "secret".to_owned()));
        let table = [
            (encoded("\0user\0secret"), good.clone()),
            (encoded("user\0user\0secret"), good),
            (encoded("root\0user\0secret"), Err(Failure::OtherIdentity)),
            (encoded("\0user\0sec\0ret"), Err(Failure::Malformed)),
            (encoded("user\0secret"), Err(Failure::Malformed)),
            (encoded("\0\0secret"), Err(Failure::Malformed)),
            (encoded("\0user\0"), Err(Failure::Malformed)),
            ("=".to_owned(), Err(Failure::Malformed)),
            ("//79AHUAcA==".to_owned(), Err(Failure::Malformed)),
            ("AHVzZXIAc2VjcmV0=".to_owned(), Err(Failure::NotBase64)),
            ("!".to_owned(), Err(Failure::NotBase64)),
            ("*".to_owned(), Err(Failure::Cancelled)),
        ];
        for (response, want) in table {
            assert_eq!(outcome(begin(Mechanism::Plain, Some(&response))), want, "{response}");
            if response != "=" {
                assert_eq!(outcome(Exchange::PlainMessage.respond(response.as_bytes())), want);
            }
        }
    }

    #[test]
    fn login_asks_for_username_and_password() {
        let Progress::Ask(first) = begin(Mechanism::Login, None) else { panic!("no prompt") };
        assert_eq!(STANDARD.decode(first.challenge()).unwrap(), b"Username:");
        let Progress::Ask(second) = first.respond(encoded("user").as_bytes()) else { panic!("no prompt") };
        assert_eq!(STANDARD.decode(second.challenge()).unwrap(), b"Password:");
        for (response, want) in [
            (encoded("secret"), Ok(("user".to_owned(), "secret".to_owned()))),
            (encoded("a\0b"), Err(Failure::Malformed)),
            (String::new(), Err(Failure::Malformed)),
            ("*".to_owned(), Err(Failure::Cancelled)),
        ] {
            assert_eq!(outcome(second.clone().respond(response.as_bytes())), want);
        }
        let username = encoded("user");
        assert!(matches!(
            begin(Mechanism::Login, Some(&username)),
            Progress::Ask(Exchange::LoginSecret { username }) if username == "user"
        ));
    }

    #[test]
    fn p10_a_secret_never_reaches_debug() {
        let login = begin(Mechanism::Plain, Some(&encoded("\0user\0hunter2")));
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
