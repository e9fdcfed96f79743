//! What `postmeter sandbox` prints once it is ready: lines to paste.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ADMIN_TOKEN, CREDITS, CUSTOMER_ID, SECRET, USERNAME};

/// The text, for the addresses that were really bound.
pub fn welcome(smtp: SocketAddr, smtps: SocketAddr, http: SocketAddr) -> String {
    let (smtp, smtps, http) = (reachable(smtp), reachable(smtps), reachable(http));
    let (smtp_host, smtp_port) = (smtp.ip(), smtp.port());
    format!(
        "\
Postmeter sandbox. Customer {CUSTOMER_ID} begins with {CREDITS} email credits; nothing leaves this machine.

  Web page   http://{http}/
  Inbox      http://{http}/inbox
  Misbehave  http://{http}/sandbox/misbehave
  Operator   http://{http}/operator with the token {ADMIN_TOKEN}
  SMTP       {smtp} (STARTTLS), {smtps} (implicit TLS)
  Sign in    {USERNAME} / {SECRET}

Send a mail over SMTP:

  swaks --server {smtp_host} --port {smtp_port} -tls --auth PLAIN --auth-user {USERNAME} --auth-password {SECRET} \
--from you@example.com --to friend@example.net --h-Subject 'Hello' --body 'Sent over SMTP.'

Send a mail over HTTP:

  curl -sS -u {USERNAME}:{SECRET} -H 'Content-Type: application/json' \
-d '{{\"from\":\"you@example.com\",\"to\":\"friend@example.net\",\"subject\":\"Hello\",\"text\":\"Sent over HTTP.\"}}' \
http://{http}/send

Then open the inbox, and ask for the balance:

  curl -sS -u {USERNAME}:{SECRET} http://{http}/credits/{CUSTOMER_ID}
"
    )
}

/// An address that a client on this machine can connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_carry_the_ports_that_were_bound() {
        let text = welcome(
            "0.0.0.0:2525".parse().unwrap(),
            "127.0.0.1:2465".parse().unwrap(),
            "127.0.0.1:3000".parse().unwrap(),
        );
        let swaks = text.lines().find(|line| line.contains("swaks")).unwrap();
        assert!(swaks.contains("--server 127.0.0.1 --port 2525 -tls --auth PLAIN"), "{swaks}");
        assert!(swaks.ends_with("--body 'Sent over SMTP.'"), "{swaks}");
        let curl = text.lines().find(|line| line.contains("/send")).unwrap();
        assert!(curl.contains("-u sandbox:sandbox-secret"), "{curl}");
        assert!(curl.contains(r#"{"from":"you@example.com""#), "{curl}");
        assert!(curl.ends_with("http://127.0.0.1:3000/send"), "{curl}");
    }
}
