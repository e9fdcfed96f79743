//! What a client can take: octets in memory, time, and places.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::http::{SEATS, WEBHOOK_ROOM_BYTES};

const KIB: usize = 1 << 10;
const LETTER: &str = "to=x%40example.net&subject=s&text=t";

fn json_of_octets(path: &str, octets: usize) -> Request<Body> {
    json_of(path, &" ".repeat(octets))
}

fn form_of_octets(path: &str, octets: usize) -> Request<Body> {
    form_of(path, &"x".repeat(octets))
}

#[tokio::test]
async fn p7_each_route_takes_so_many_octets_and_no_more() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    type Asked = fn(&str, usize) -> Request<Body>;
    let operator: Asked = |path, octets| bearer(json_of_octets(path, octets), ADMIN_TOKEN);
    let customer: Asked = |path, octets| basic(json_of_octets(path, octets), "ann");
    let table: [(&str, Asked, usize); 12] = [
        ("/sign-in", form_of_octets, 16 * KIB),
        ("/sign-out", form_of_octets, 16 * KIB),
        ("/checkout/subscribe", form_of_octets, 16 * KIB),
        ("/checkout/subscribe", json_of_octets, 16 * KIB),
        ("/account/credentials", form_of_octets, 16 * KIB),
        ("/account/credentials/revoke", form_of_octets, 16 * KIB),
        ("/account/top-up", form_of_octets, 16 * KIB),
        ("/queue/x/retry", operator, 16 * KIB),
        ("/queue/x/cancel", operator, 16 * KIB),
        ("/webhooks/dodo", json_of_octets, 1024 * KIB),
        ("/webhooks/resend", json_of_octets, 1024 * KIB),
        ("/send", customer, MAX_REQUEST_BYTES),
    ];
    for (path, asked, octets) in table {
        let most = town.call(with(asked(path, octets), "cookie", &cookie)).await;
        assert_ne!(most.status, 413, "{path} {octets}");
        let more = town.call(with(asked(path, octets + 1), "cookie", &cookie)).await;
        assert_eq!(more.status, 413, "{path} {octets}");
    }
    let letter = |octets: usize| {
        let padded = format!("{LETTER}{}", "x".repeat(octets - LETTER.len()));
        with(form_of("/account/send", &padded), "cookie", &cookie)
    };
    assert_eq!(town.call(letter(200 * KIB)).await.status, 303);
    // Three times over it is more than a customer may have in these tests.
    assert_eq!(town.call(letter(512 * KIB)).await.status, 503);
    assert_eq!(town.call(letter(512 * KIB + 1)).await.status, 413);
}

#[tokio::test]
async fn one_customer_takes_its_own_room_in_memory_and_nobody_elses() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let body = r#"{"to":"x@example.net","subject":"s","text":"t"}"#;
    let mut arriving = town.site.arriving.claim(&customer("ann"));
    arriving.grow(ROOM_FOR_EACH - 100).unwrap();
    let refused = town.call(basic(json_of("/send", body), "ann")).await;
    assert_eq!((refused.status, &refused.json()["code"]), (503, &Value::from("no_room")));
    assert_eq!(refused.header("retry-after"), "5");
    let form = || with(form_of("/account/send", LETTER), "cookie", &cookie);
    assert_eq!(town.call(form()).await.status, 503);
    let other = town.call(basic(json_of("/send", body), "bob")).await;
    assert_eq!(
        (other.status, &other.json()["code"]),
        (422, &Value::from("invalid")),
        "read: it has no sender"
    );
    drop(arriving);
    assert_eq!(town.call(basic(json_of("/send", body), "ann")).await.status, 200);
    assert_eq!(town.call(form()).await.status, 303);
}

#[tokio::test]
async fn what_is_large_of_webhooks_takes_room_that_all_have_together() {
    let town = Town::new().await;
    let mut others = town.site.webhook_room.none(());
    assert!(others.add(WEBHOOK_ROOM_BYTES));
    for path in ["/webhooks/dodo", "/webhooks/resend"] {
        assert_eq!(town.call(json_of_octets(path, 16 * KIB)).await.status, 401, "{path}");
        assert_eq!(town.call(json_of_octets(path, 17 * KIB)).await.status, 503, "{path}");
    }
    others.take_off(KIB);
    assert_eq!(town.call(json_of_octets("/webhooks/dodo", 17 * KIB)).await.status, 401);
}

/// A town behind a socket.
struct Served {
    town: Town,
    address: SocketAddr,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Served {
    async fn new(places: usize) -> Self {
        let town = Town::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let door = Door::new(Limits {
            max_connections: places,
            max_connections_per_ip: 1_000,
            forwarding_proxies: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy_header_timeout: Duration::from_secs(5),
        });
        let (tasks, metrics) = ((tracker.clone(), stop.clone()), town.site.metrics.clone());
        let front = Front::new(town.router.clone(), door, Duration::from_secs(300), metrics, tasks);
        tracker.spawn(front.run(listener));
        Self { town, address, stop, tracker }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// The header of an answer.
async fn header_of(stream: &mut TcpStream) -> String {
    let answered = async {
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n\r\n") {
            header.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(header).unwrap()
    };
    tokio::time::timeout(Duration::from_secs(30), answered).await.expect("an answer")
}

/// `POST /send` of so many octets, without them.
fn announced(octets: usize, more: &str) -> String {
    let pair = STANDARD.encode("ann:ann-secret");
    format!(
        "POST /send HTTP/1.1\r\nhost: x\r\nauthorization: Basic {pair}\r\n\
         content-type: application/json\r\ncontent-length: {octets}\r\n{more}\r\n"
    )
}

#[tokio::test]
async fn who_may_not_send_is_told_before_a_large_body_is_asked_for() {
    const ASK: &str = "expect: 100-continue\r\n";
    let served = Served::new(10).await;
    let store = &served.town.store;
    let ask = async |octets: usize, more: &str| {
        let mut stream = served.connect().await;
        stream.write_all(announced(octets, more).as_bytes()).await.unwrap();
        header_of(&mut stream).await
    };
    let continues = "HTTP/1.1 100 ";
    assert!(ask(100_000, ASK).await.starts_with(continues), "who may send is asked");
    store.suspend(&customer("ann"), "spam").await.unwrap();
    assert!(ask(100_000, ASK).await.starts_with("HTTP/1.1 403 "));
    store.resume(&customer("ann"), served.town.clock.now()).await.unwrap();
    let read = store.begin_balance_read(&customer("ann")).await.unwrap().unwrap();
    store.apply_balance(&read, 0, served.town.clock.now()).await.unwrap();
    assert!(ask(100_000, ASK).await.starts_with("HTTP/1.1 402 "));
    // What is small is read first, and a retry may have been accepted when there was credit.
    assert!(ask(1_000, ASK).await.starts_with(continues));
    let keyed = format!("{ASK}idempotency-key: k\r\n");
    assert!(ask(100_000, &keyed).await.starts_with(continues));
    // Who does not wait to be asked is heard to the end, and sees why.
    let mut stream = served.connect().await;
    stream.write_all(announced(180_000, "").as_bytes()).await.unwrap();
    stream.write_all(&[b' '; 180_000]).await.unwrap();
    assert!(header_of(&mut stream).await.starts_with("HTTP/1.1 402 "));
    served.end().await;
}

#[tokio::test]
async fn strangers_keep_nobody_out_and_make_room_for_those_who_come() {
    let served = Served::new(8).await;
    let pair = STANDARD.encode("ann:ann-secret");
    let ask = format!("GET /credits/cus_ann HTTP/1.1\r\nhost: x\r\nauthorization: Basic {pair}\r\n\r\n");
    let mut known = served.connect().await;
    known.write_all(ask.as_bytes()).await.unwrap();
    assert!(header_of(&mut known).await.starts_with("HTTP/1.1 200 "));
    // Silent, inside a header, and before a body.
    let mut strangers = Vec::new();
    let slow = "POST /sign-in HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n\
                content-length: 9\r\n\r\n";
    for said in ["", "GET / HT", slow].into_iter().cycle().take(30) {
        let mut stranger = served.connect().await;
        stranger.write_all(said.as_bytes()).await.unwrap();
        strangers.push(stranger);
    }
    let mut comes = served.connect().await;
    comes.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(header_of(&mut comes).await.starts_with("HTTP/1.1 200 "));
    let mut ended = strangers.remove(0);
    let gone = tokio::time::timeout(Duration::from_secs(30), ended.read_to_end(&mut Vec::new())).await;
    gone.expect("the first stranger to be closed").ok();
    known.write_all(ask.as_bytes()).await.unwrap();
    let rest = header_of(&mut known).await;
    assert!(rest.contains("HTTP/1.1 200 "), "who is known stays: {rest}");
    served.end().await;
}

#[tokio::test]
async fn a_customer_who_has_all_its_seats_makes_room_like_a_stranger() {
    let served = Served::new(8).await;
    let mut seats = served.town.site.seats.none(customer("ann"));
    assert!(seats.add(SEATS));
    let pair = STANDARD.encode("ann:ann-secret");
    let ask = format!("GET /credits/cus_ann HTTP/1.1\r\nhost: x\r\nauthorization: Basic {pair}\r\n\r\n");
    let mut seatless = served.connect().await;
    seatless.write_all(ask.as_bytes()).await.unwrap();
    assert!(header_of(&mut seatless).await.starts_with("HTTP/1.1 200 "), "it is served");
    let mut strangers = Vec::new();
    for _ in 0..30 {
        strangers.push(served.connect().await);
    }
    let gone = tokio::time::timeout(Duration::from_secs(30), seatless.read_to_end(&mut Vec::new())).await;
    gone.expect("it makes room").ok();
    served.end().await;
}

#[tokio::test]
async fn p7_a_header_is_bounded_and_the_longest_of_ours_fits() {
    let served = Served::new(8).await;
    for (octets, want) in [(16 * KIB, "HTTP/1.1 200 "), (64 * KIB, "HTTP/1.1 431 ")] {
        let mut stream = served.connect().await;
        let asked = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(octets));
        stream.write_all(asked.as_bytes()).await.unwrap();
        let answer = header_of(&mut stream).await;
        assert!(answer.starts_with(want), "{octets} {answer}");
    }
    served.end().await;
}
