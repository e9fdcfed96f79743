//! What a failure means to people, and what they can do about it.

/// What a status code means, and what a sender can do (RFC 3463 §3 and its registry).
pub(super) fn advice(status: &str) -> (&'static str, &'static str) {
    let mut numbers = status.splitn(3, '.');
    let (class, subject) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    match (status, subject) {
        ("5.1.1" | "5.1.0" | "5.1.6", _) => (
            "This address does not exist, or takes no mail any more.",
            "check it for typing errors, or ask the recipient for another one.",
        ),
        ("5.1.2" | "5.1.10" | "5.4.4", _) => (
            "The domain of this address takes no mail, or does not exist.",
            "check the part behind the @ for typing errors.",
        ),
        ("5.1.7" | "5.1.8", _) => (
            "The address that it was sent from was not accepted.",
            "check the sender's address, and whether its domain may be sent from.",
        ),
        (_, "1") => ("There is something wrong with the address.", "check how it is written."),
        ("5.2.2" | "4.2.2", _) => (
            "The recipient's mailbox is full.",
            "send it again later, or reach the recipient in another way.",
        ),
        ("5.2.3" | "5.3.4", _) => (
            "The message is too large for the recipient's server.",
            "send large files in smaller pieces, or as a link.",
        ),
        ("5.2.1", _) => ("The recipient's mailbox is closed.", "ask the recipient for another address."),
        ("4.4.7" | "5.4.7", _) => (
            "It could not be delivered in the time that was allowed for it.",
            "send it again later; if that fails too, check the part behind the @.",
        ),
        ("5.4.6", _) => (
            "The message was going in circles between servers.",
            "tell the recipient: their mail is forwarded in a loop.",
        ),
        ("5.3.0", _) => (
            "A server on the way gave it up; nothing is wrong with the address.",
            "send it again, or ask the operator of this relay.",
        ),
        (_, "6") => (
            "The content of the message was refused, or cannot be carried.",
            "send it in a simpler form, without unusual attachments.",
        ),
        (_, "7") => (
            "The recipient's server refused it by its rules, perhaps as spam.",
            "check the SPF, DKIM and DMARC records of your domain, or ask the recipient to allow your mail.",
        ),
        _ if class == "4" => ("There was trouble on the way that lasted too long.", "send it again later."),
        _ => (
            "The recipient's server refused it for good.",
            "read what was said, or ask the recipient in another way.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_words() {
        let table = [
            ("5.1.1", "does not exist, or takes no mail"),
            ("5.1.3", "wrong with the address"),
            ("5.2.2", "mailbox is full"),
            ("5.3.4", "too large"),
            ("5.7.1", "by its rules"),
            ("5.7.26", "by its rules"),
            ("5.4.4", "domain"),
            ("5.4.7", "in the time"),
            ("4.4.7", "in the time"),
            ("5.6.0", "content"),
            ("4.3.0", "lasted too long"),
            ("5.0.0", "for good"),
            ("", "for good"),
        ];
        for (status, words) in table {
            assert!(advice(status).0.contains(words), "{status}: {:?}", advice(status));
        }
    }
}
