//! `format=flowed` with `DelSp=yes` (RFC 3676): paragraphs whose lines were broken
//! anywhere, within words too, so that they cannot stay apart. Without `DelSp` lines
//! are broken between words; those stay as they are, which keeps quotations, code
//! and signatures within the text.

/// Each paragraph on one line; quoted ones begin with their quote marks.
pub(super) fn paragraphs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // The quote depth of a paragraph that goes on, if one does.
    let mut open: Option<usize> = None;
    for (index, line) in text.split('\n').enumerate() {
        let depth = line.bytes().take_while(|octet| *octet == b'>').count();
        let content = line.get(depth..).unwrap_or_default();
        let content = content.strip_prefix(' ').unwrap_or(content);
        let is_signature = content == "-- ";
        if open != Some(depth) || is_signature || content.is_empty() {
            if index > 0 {
                out.push('\n');
            }
            let marks = ">".repeat(depth);
            out.push_str(&marks);
            out.push_str(if depth > 0 && !content.is_empty() { " " } else { "" });
        }
        match content.strip_suffix(' ').filter(|_| !is_signature) {
            Some(content) => {
                out.push_str(content);
                open = Some(depth);
            }
            None => {
                out.push_str(content);
                open = None;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_paragraphs() {
        let table = [
            ("a b \nc\nd\n", "a bc\nd\n"),
            ("a long  \nword\n", "a long word\n"),
            (" From here\n  x\n", "From here\n x\n"),
            ("> a \n> b\n>> c\nd", "> ab\n>> c\nd"),
            ("> a \nb", "> a\nb"),
            ("text \n-- \nAnn", "text\n-- \nAnn"),
            ("-- \nAnn", "-- \nAnn"),
            ("a \n\nb", "a\n\nb"),
            ("", ""),
            ("\n\n", "\n\n"),
        ];
        for (text, want) in table {
            assert_eq!(paragraphs(text), want, "{text:?}");
        }
    }
}
