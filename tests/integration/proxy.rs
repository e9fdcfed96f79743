//! The PROXY protocol, octet by octet: whom a trusted proxy names is the client,
//! everywhere; nobody else is believed, and a proxy that names nobody is not served.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use crate::harness::client::Port;
use crate::harness::plan::Plan;
use crate::harness::smtp::{Smtp, connect_from, trusting};
use crate::harness::{Meter, letter, until};

/// The one address that is trusted; the stand-ins and the other clients have another.
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

fn behind_a_proxy(plan: Plan) -> Plan {
    plan.set("smtp", "trusted_proxies = [\"127.0.0.9/32\"]")
}

/// A connection of the proxy, after it has said this.
fn proxied(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut tcp = connect_from(PROXY, address);
    tcp.write_all(header).unwrap();
    tcp
}

fn line(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    format!("PROXY {family} {client} {client} 40000 587\r\n").into_bytes()
}

/// Version 2, with something that is to be skipped behind the addresses.
fn binary(client: IpAddr) -> Vec<u8> {
    let (family, addresses) = match client {
        IpAddr::V4(v4) => (0x11, [v4.octets(), v4.octets()].concat()),
        IpAddr::V6(v6) => (0x21, [v6.octets(), v6.octets()].concat()),
    };
    let block = [addresses.as_slice(), &[0x9c, 0x40, 0x02, 0x4b], &[0x04, 0, 2, b'\r', b'\n']].concat();
    let length = u8::try_from(block.len()).unwrap();
    [b"\r\n\r\n\0\r\nQUIT\n\x21".as_slice(), &[family, 0, length], &block].concat()
}

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Everything until the server closes, which it does.
fn rest(mut tcp: TcpStream) -> String {
    let mut said = Vec::new();
    match tcp.read_to_end(&mut said) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it is still open"),
        // Closed before everything was read that we had sent.
        _ => String::from_utf8_lossy(&said).into_owned(),
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

fn signed_in(meter: &Meter, mut smtp: Smtp) -> Smtp {
    let reply = smtp.auth_plain(&meter.credential.username, &meter.credential.secret);
    assert!(reply.starts_with("235 "), "{reply}");
    smtp
}

#[test]
fn whom_a_proxy_names_stands_in_received() {
    let meter = behind_a_proxy(Meter::smtp()).start();
    let table = [
        (Port::StartTls, line("192.0.2.1"), "[192.0.2.1]"),
        (Port::Tls, line("192.0.2.1"), "[192.0.2.1]"),
        (Port::StartTls, line("2001:db8::1"), "[IPv6:2001:db8::1]"),
        (Port::StartTls, line("::ffff:192.0.2.2"), "[192.0.2.2]"),
        (Port::StartTls, binary([192, 0, 2, 3].into()), "[192.0.2.3]"),
        (Port::Tls, binary("2001:db8::3".parse().unwrap()), "[IPv6:2001:db8::3]"),
        (Port::StartTls, LOCAL.to_vec(), "[127.0.0.9]"),
        (Port::Tls, b"PROXY UNKNOWN\r\n".to_vec(), "[127.0.0.9]"),
    ];
    for (nth, (port, header, want)) in table.into_iter().enumerate() {
        let smtp = match port {
            Port::StartTls => {
                Smtp::starttls_over(proxied(meter.process().smtp, &header), trusting(&meter.certificate()))
            }
            Port::Tls => {
                Smtp::implicit_over(proxied(meter.process().smtps, &header), trusting(&meter.certificate()))
            }
        };
        assert!(signed_in(&meter, smtp).deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
        let mail = until("the mail", || meter.sink().mails().get(nth).cloned());
        let wanted = format!("Received: from client.example ({want})\r\n");
        assert!(mail.bytes.starts_with(wanted.as_bytes()), "{}", mail.bytes.escape_ascii());
    }
    let mut http = proxied(meter.process().http, &binary([192, 0, 2, 7].into()));
    let letter = r#"{"from":"ann@example.com","to":"bob@example.net","subject":"s","text":"t"}"#;
    let secret = &meter.credential.secret;
    let request = format!(
        "POST /send HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {secret}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{letter}",
        letter.len()
    );
    http.write_all(request.as_bytes()).unwrap();
    let answer = rest(http);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let mail = until("the mail", || meter.sink().mails().get(8).cloned());
    assert!(
        mail.bytes
            .starts_with(b"Received: from [192.0.2.7] ([192.0.2.7])\r\n\tby smtp.example.com with HTTP")
    );
}

#[test]
fn a_header_may_come_in_pieces() {
    let meter = behind_a_proxy(Meter::resend()).start();
    for header in [line("192.0.2.1"), binary([192, 0, 2, 1].into())] {
        let mut tcp = proxied(meter.process().smtp, b"");
        for octet in header {
            tcp.write_all(&[octet]).unwrap();
        }
        let mut smtp = Smtp::starttls_over(tcp, trusting(&meter.certificate()));
        assert!(smtp.auth_plain("nobody", "wrong-secret-1234").starts_with("535 "));
    }
    let wanted = |line: &str| line.contains("sign-in failed") && line.contains("peer=192.0.2.1");
    assert_eq!(meter.log().lines().filter(|line| wanted(line)).count(), 2, "{}", meter.log());
}

#[test]
fn a_proxy_that_names_nobody_is_closed_without_a_word() {
    let meter = behind_a_proxy(Meter::resend()).start();
    let process = meter.process();
    let garbage = [
        b"EHLO client.example\r\n".to_vec(),
        get("/healthz").into_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
        b"PROXY TCP4 192.0.2.1\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.1 1 2\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
    ];
    let mut closed = 0;
    for address in [process.smtp, process.smtps, process.http] {
        for octets in &garbage {
            assert_eq!(rest(proxied(address, octets)), "", "{}", octets.escape_ascii());
            closed += 1;
            let told =
                |line: &&str| line.contains("WARN") && line.contains("it must begin with a PROXY header");
            let log = meter.log();
            let told: Vec<_> = log.lines().filter(told).collect();
            assert_eq!(told.len(), closed, "{log}");
            assert!(told.iter().all(|line| line.contains("peer=127.0.0.9:")), "{log}");
        }
        // One that looks whether the port is open is none of them.
        drop(proxied(address, b""));
    }
}

#[test]
fn a_header_that_does_not_come_holds_nobody_up() {
    let plan = behind_a_proxy(Meter::resend()).set("smtp", "handshake_timeout_s = 2");
    let meter = plan.set("smtp", "max_connections = 2").start();
    let (smtp, http) = (meter.process().smtp, meter.process().http);
    let slow = ["", "PROXY TCP4 192.0.2.1 "].map(|begun| proxied(smtp, begun.as_bytes()));
    let silent: Vec<_> = (0..20).map(|_| proxied(http, b"PROXY TCP4 ")).collect();
    assert_eq!(meter.get("/healthz").status, 200, "others are served meanwhile");
    let mut named = proxied(http, &line("192.0.2.1"));
    named.write_all(get("/healthz").as_bytes()).unwrap();
    assert!(rest(named).starts_with("HTTP/1.1 200 OK\r\n"));
    let (_, banner) = Smtp::open(smtp);
    assert!(banner.starts_with("421 4.7.0 Too many connections"), "both places are taken: {banner}");
    for tcp in slow.into_iter().chain(silent) {
        assert_eq!(rest(tcp), "");
    }
    until("a place to be free", || Smtp::open(smtp).1.starts_with("220 ").then_some(()));
}

#[test]
fn a_header_from_anybody_else_is_not_believed() {
    let meter = behind_a_proxy(Meter::resend()).start();
    let process = meter.process();
    let (mut smtp, banner) = Smtp::open(process.smtp);
    assert!(banner.starts_with("220 "));
    assert_eq!(smtp.say("PROXY TCP4 192.0.2.1 192.0.2.1 40000 587"), "500 5.5.2 Command not recognized\r\n");
    assert!(smtp.say("EHLO client.example").contains("STARTTLS"), "and the session goes on");
    let (mut smtp, _) = Smtp::open(process.smtp);
    smtp.send(&binary([192, 0, 2, 1].into()));
    assert!(smtp.reply().starts_with('5'));
    let stranger = IpAddr::from([127, 0, 0, 1]);
    for (address, header) in [
        (process.smtps, line("192.0.2.1")),
        (process.smtps, binary([192, 0, 2, 1].into())),
        (process.http, line("192.0.2.1")),
    ] {
        let mut tcp = connect_from(stranger, address);
        tcp.write_all(&[header.as_slice(), get("/healthz").as_bytes()].concat()).unwrap();
        let said = rest(tcp);
        assert!(!said.contains("200 OK"), "{said}");
    }
    let mut smtp = Smtp::starttls(&meter);
    smtp.auth_plain("nobody", "wrong-secret-1234");
    assert!(meter.log().contains("peer=127.0.0.1"), "{}", meter.log());
    assert!(!meter.log().contains("192.0.2.1"), "{}", meter.log());
}

#[test]
fn limits_are_those_of_the_client_and_the_proxy_has_none() {
    let plan = behind_a_proxy(Meter::resend()).set("smtp", "max_connections_per_ip = 1");
    let meter = plan.set("http", "max_connections_per_ip = 1").start();
    let (smtp, http) = (meter.process().smtp, meter.process().http);
    let banner = |header: &[u8]| Smtp::open_over(proxied(smtp, header));
    let first = banner(&line("192.0.2.1"));
    assert!(first.1.starts_with("220 "));
    for header in [line("192.0.2.1"), binary([192, 0, 2, 1].into()), line("::ffff:192.0.2.1")] {
        let (_, said) = banner(&header);
        assert!(said.starts_with("421 4.7.0 Too many connections"), "{said}");
    }
    assert_eq!(rest(proxied(meter.process().smtps, &line("192.0.2.1"))), "", "over both ports together");
    let others = [line("192.0.2.2"), line("2001:db8::1"), LOCAL.to_vec(), LOCAL.to_vec()];
    let others: Vec<_> = others.iter().map(|header| banner(header)).collect();
    assert!(others.iter().all(|(_, said)| said.starts_with("220 ")));
    drop(first);
    until("the first to be gone", || banner(&line("192.0.2.1")).1.starts_with("220 ").then_some(()));

    let open = |header: &[u8]| {
        let mut tcp = proxied(http, header);
        tcp.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = [0; 15];
        tcp.read_exact(&mut answer).ok().map(|()| (tcp, answer))
    };
    let kept = open(&line("192.0.2.1"));
    assert_eq!(kept.as_ref().map(|(_, answer)| answer), Some(b"HTTP/1.1 200 OK"));
    assert!(open(&line("192.0.2.1")).is_none());
    assert!(open(&line("192.0.2.2")).is_some() && open(LOCAL).is_some() && open(LOCAL).is_some());
    drop(kept);
    until("the first to be gone", || open(&line("192.0.2.1")));
}

#[test]
fn one_clients_haste_does_not_slow_the_others_down() {
    let meter = behind_a_proxy(Meter::resend()).start();
    let subscribe = |client: &str| {
        let body = r#"{"email":"new@example.org","name":"New"}"#;
        let mut tcp = proxied(meter.process().http, &line(client));
        let head = "POST /checkout/subscribe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
        let length = body.len();
        let typed = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        tcp.write_all(format!("{head}{typed}").as_bytes()).unwrap();
        rest(tcp).split(' ').nth(1).unwrap_or_default().to_owned()
    };
    until("the hasty one to be told", || (subscribe("192.0.2.1") == "429").then_some(()));
    assert_eq!([(); 4].map(|()| subscribe("192.0.2.2")), ["200"; 4]);
}

#[test]
fn the_http_side_may_have_proxies_of_its_own() {
    let meter = behind_a_proxy(Meter::resend()).set("http", "trusted_proxies = []").start();
    let mut plain = connect_from(PROXY, meter.process().http);
    plain.write_all(get("/healthz").as_bytes()).unwrap();
    assert!(rest(plain).starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(rest(proxied(meter.process().smtp, b"EHLO c\r\n")), "");
}

#[test]
fn a_request_that_drips_is_not_waited_for() {
    let meter = Meter::resend().set("http", "header_timeout_s = 1").start();
    let mut tcp = connect_from([127, 0, 0, 1].into(), meter.process().http);
    tcp.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    let mut dripping = tcp.try_clone().unwrap();
    let closed = std::thread::spawn(move || rest(tcp));
    until("it to be closed", || {
        let _ = dripping.write_all(b"X");
        closed.is_finished().then_some(())
    });
    assert!(!closed.join().unwrap().contains("200 OK"));
}
