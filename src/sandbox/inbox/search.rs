//! What is looked for in the inbox: words, and words of one field. Pure.

use crate::sandbox::resend::Summary;

/// Where a word may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// An address or the subject or the text.
    Anywhere,
    /// To, Cc or Bcc.
    To,
    From,
    Subject,
    Text,
}

/// All of its words must be found; small and large letters are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Search(Vec<(Place, String)>);

impl Search {
    /// Words with spaces between them, of which those behind `to:`, `from:`, `subject:` or `text:` are
    /// looked for in that field; `"two words"` are one.
    pub(super) fn parse(text: &str) -> Self {
        let mut search = Self::default();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (place, word) = prefixed(rest);
            let (word, behind) = match word.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => word.split_once(char::is_whitespace).unwrap_or((word, "")),
            };
            search = search.and(place, Some(word));
            rest = behind.trim_start();
        }
        search
    }

    /// The same, and a text that must stand there, if one is named.
    pub(super) fn and(mut self, place: Place, text: Option<&str>) -> Self {
        let text = text.map(|text| text.trim().to_lowercase()).filter(|text| !text.is_empty());
        self.0.extend(text.map(|text| (place, text)));
        self
    }

    /// Whether this mail is one of those.
    pub(super) fn fits(&self, mail: &Summary) -> bool {
        self.0.iter().all(|(place, word)| has(mail, *place, word))
    }
}

fn prefixed(text: &str) -> (Place, &str) {
    const NAMES: [(&str, Place); 4] =
        [("to:", Place::To), ("from:", Place::From), ("subject:", Place::Subject), ("text:", Place::Text)];
    let named = |(name, place): &(&str, Place)| {
        let (front, rest) = text.split_at_checked(name.len())?;
        front.eq_ignore_ascii_case(name).then_some((*place, rest.trim_start()))
    };
    NAMES.iter().find_map(named).unwrap_or((Place::Anywhere, text))
}

fn has(mail: &Summary, place: Place, word: &str) -> bool {
    let says = |text: &str| text.to_lowercase().contains(word);
    match place {
        Place::To => mail.to.iter().any(|address| says(address)),
        Place::From => says(&mail.from),
        Place::Subject => says(&mail.subject),
        Place::Text => mail.words.contains(word),
        Place::Anywhere => [Place::To, Place::From, Place::Subject, Place::Text]
            .into_iter()
            .any(|place| has(mail, place, word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail() -> Summary {
        Summary {
            id: "1".to_owned(),
            at_ms: 0,
            from: "Ann <ann@example.com>".to_owned(),
            to: vec!["bob@example.net".to_owned(), "Größe@example.org".to_owned()],
            subject: "Your receipt, Bob".to_owned(),
            excerpt: String::new(),
            words: "the total is $19".into(),
            files: 0,
            octets: 0,
            stuck: false,
            is_seen: false,
        }
    }

    #[test]
    fn words_are_found_where_they_are_looked_for_and_all_must_be_there() {
        let table = [
            ("", true),
            ("receipt", true),
            ("RECEIPT bob", true),
            ("receipt carl", false),
            ("to:bob@example.net", true),
            ("TO:GRÖSSE", false),
            ("to:größe", true),
            ("to:ann", false),
            ("from:ann to:bob total", true),
            ("from: ann", true),
            ("subject:\"your receipt\"", true),
            ("\"receipt your\"", false),
            ("subject:total", false),
            ("text:total", true),
            ("text:\"total is", true),
            ("to:", true),
            ("\"\"", true),
            ("http://x", false),
        ];
        for (text, want) in table {
            assert_eq!(Search::parse(text).fits(&mail()), want, "{text}");
        }
    }
}
