use jiff::Timestamp;

use super::*;
use crate::domain::ids::MessageId;
use crate::mime::address_list::NamedMailbox;
use crate::mime::inspect::inspect;

const LINKS: Links<'static> =
    Links { account: "https://meter.example/account", top_up: "https://meter.example/#top-up" };

/// Has a notice written.
fn written(write: impl FnOnce(&Origin<'_>, &Mailbox) -> Vec<u8>) -> String {
    let from = NamedMailbox::parse("Postmeter <postmaster@example.com>").unwrap();
    let message_id = MessageId::parse("0199").unwrap();
    let origin = Origin {
        from: &from,
        hostname: "smtp.example.com",
        now: Timestamp::UNIX_EPOCH,
        message_id: &message_id,
    };
    let bytes = write(&origin, &Mailbox::parse("ann@x.example").unwrap());
    assert!(inspect(&bytes).unwrap().has_date);
    String::from_utf8(bytes).unwrap()
}

/// All of them, with a name that wants to be more than one.
fn all(name: &str) -> Vec<String> {
    let credits = Credits::new(999).unwrap();
    let senders = ["cus_1@mail.example".to_owned()];
    let link =
        SignInLink { customer_id: "cus_1", name: Some(name), url: "https://meter.example/sign-in/link?t=0" };
    vec![
        written(|origin, to| welcome(origin, to, (Some(name), senders.as_slice()), &LINKS)),
        written(|origin, to| low_balance(origin, to, credits, &LINKS)),
        written(|origin, to| out_of_credit(origin, to, &LINKS)),
        written(|origin, to| payment_received(origin, to, &LINKS)),
        written(|origin, to| paused(origin, to, "paused because 40 of 988 bounced", LINKS.account)),
        written(|origin, to| sign_in_links(origin, to, &[link, link])),
    ]
}

#[test]
fn a_customer_is_told_how_much_is_left_and_where_to_buy() {
    let notice = written(|origin, to| low_balance(origin, to, Credits::new(999).unwrap(), &LINKS));
    for want in [
        "Message-ID: <0199@smtp.example.com>\r\n",
        "From: \"Postmeter\" <postmaster@example.com>\r\nTo: ann@x.example\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "Subject: 999 email credits left\r\n",
        "\r\nhttps://meter.example/#top-up\r\n",
        "multipart/alternative",
    ] {
        assert!(notice.contains(want), "{want}: {notice}");
    }
}

#[test]
fn each_notice_is_text_and_html_that_fetches_nothing_and_sets_no_colour() {
    for notice in all("Ann") {
        let parsed = mail_parser::MessageParser::default().parse(notice.as_bytes()).unwrap();
        let (text, html) = (parsed.body_text(0).unwrap(), parsed.body_html(0).unwrap());
        assert!(parsed.text_body_count() == 1 && parsed.html_body_count() == 1, "{notice}");
        assert!(text.len() > 100 && !text.contains('<'), "{text}");
        assert!(html.contains("color-scheme") && html.contains("<h1"), "{html}");
        for absent in ["<img", "src=", "<link", "@import", "url(", "<script", "background", "color:"] {
            assert!(!html.contains(absent), "{absent}: {html}");
        }
        let links: Vec<&str> =
            html.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(!links.is_empty() && links.iter().all(|link| text.contains(link)), "{links:?} {text}");
    }
}

#[test]
fn p7_a_name_begins_no_field_no_line_and_no_element() {
    let name = "Ann\r\nBcc: eve@evil.example\r\n\r\n<script>alert(1)</script>\u{2028}x";
    for notice in all(name) {
        let (header, body) = notice.split_once("\r\n\r\n").unwrap();
        assert!(!header.contains("Bcc") && !header.contains("eve@"), "{header}");
        assert!(!body.contains("\nBcc:"), "{body}");
        let parsed = mail_parser::MessageParser::default().parse(notice.as_bytes()).unwrap();
        assert!(parsed.bcc().is_none() && parsed.to().unwrap().iter().count() == 1);
        assert!(!parsed.body_html(0).unwrap().contains("<script"));
    }
}

#[test]
fn the_same_notice_has_the_same_bytes() {
    assert_eq!(all("Ann"), all("Ann"));
}
