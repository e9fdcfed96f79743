//! Notices to customers about their account.

use lettre::message::header::ContentType;

use super::write::{Fields, Origin, Part, message, text};
use crate::domain::address::Mailbox;
use crate::domain::credits::Credits;

/// Tells a customer that credit is running out, and where there is more.
pub fn low_balance(origin: &Origin<'_>, to: &Mailbox, available: Credits, top_up_url: &str) -> Vec<u8> {
    let mut fields = Fields::of_our_own(origin, to.clone().into(), "auto-generated");
    fields.text("Subject", &format!("{available} email credits left"));
    let body = format!(
        "Your account at {} has {available} email credits left.\n\n\
         When they are used up, mail is refused until there are more. Buy more here:\n\n{top_up_url}\n\n\
         This is sent once each time the credits fall below the limit.\n",
        origin.hostname
    );
    message(fields, Part::Single(text(ContentType::TEXT_PLAIN, &body)))
}

/// Tells a customer that their mail is not taken any more, and why.
pub fn paused(origin: &Origin<'_>, to: &Mailbox, reason: &str) -> Vec<u8> {
    let mut fields = Fields::of_our_own(origin, to.clone().into(), "auto-generated");
    fields.text("Subject", "Your account is paused");
    let body = format!(
        "Your account at {} is {reason}.\n\n\
         Until it is resumed no mail is taken from it. What was accepted before is still sent, and your \
         credits stay yours.\n\n\
         Mail that comes back or is called spam harms everybody who sends through this relay. What to do: \
         take the addresses that bounced off your lists (GET /suppressions shows them), write only to \
         people who asked for it, and then ask the operator to resume the account.\n\n\
         This is sent once each time an account is paused.\n",
        origin.hostname
    );
    message(fields, Part::Single(text(ContentType::TEXT_PLAIN, &body)))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::ids::MessageId;
    use crate::mime::address_list::NamedMailbox;
    use crate::mime::inspect::inspect;

    #[test]
    fn a_customer_is_told_how_much_is_left_and_where_to_buy() {
        let from = NamedMailbox::parse("Postmeter <postmaster@example.com>").unwrap();
        let message_id = MessageId::parse("0199").unwrap();
        let origin = Origin {
            from: &from,
            hostname: "smtp.example.com",
            now: Timestamp::UNIX_EPOCH,
            message_id: &message_id,
        };
        let to = Mailbox::parse("ann@x.example").unwrap();
        let notice = paused(&origin, &to, "paused because mail to 40 of 988 recipients bounced");
        let text = String::from_utf8(notice).unwrap();
        assert!(text.contains("Subject: Your account is paused\r\n"), "{text}");
        assert!(text.contains("is paused because mail to 40 of 988 recip"), "{text}");
        let bytes = low_balance(&origin, &to, Credits::new(999).unwrap(), "https://example.com/#top-up");
        let written = String::from_utf8(bytes.clone()).unwrap();
        assert!(inspect(&bytes).unwrap().has_date);
        for want in [
            "Message-ID: <0199@smtp.example.com>\r\n",
            "From: \"Postmeter\" <postmaster@example.com>\r\nTo: ann@x.example\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "Subject: 999 email credits left\r\n",
            "\r\nhttps://example.com/#top-up\r\n",
        ] {
            assert!(written.contains(want), "{written}");
        }
    }
}
