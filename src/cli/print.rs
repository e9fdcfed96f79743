//! How answers look: short aligned text for people, one JSON value for programs.
//!
//! Names and labels come from strangers who typed them at a checkout, so nothing
//! that could steer a terminal leaves here.

use std::path::Path;

use serde::Serialize;

use super::Printout;

/// Between columns.
const GAP: &str = "  ";
/// In the place of what there is not.
pub(super) const NOTHING: &str = "-";

impl Printout {
    /// Good news for people.
    pub(super) fn text(text: String) -> Self {
        Self { text, is_success: true }
    }

    /// The same for programs: one line, one value.
    pub(super) fn json<T: Serialize>(value: &T) -> anyhow::Result<Self> {
        Ok(Self::text(serde_json::to_string(value)? + "\n"))
    }
}

/// A head and its rows, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let head = head.map(str::to_owned);
    let lines: Vec<[String; N]> =
        std::iter::once(&head).chain(rows).map(|row| row.each_ref().map(|cell| plain(cell))).collect();
    let widths: Vec<usize> = (0..N)
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(|cell| width(cell)).max())
        .map(Option::unwrap_or_default)
        .collect();
    lines.iter().map(|line| aligned(line, &widths)).collect()
}

/// Names and their values, one a line. A value of several lines stays indented.
pub(super) fn pairs(pairs: &[(&str, Vec<String>)]) -> String {
    let widest = pairs.iter().map(|(name, _)| width(name)).max().unwrap_or_default();
    let mut text = String::new();
    for (name, values) in pairs {
        for (index, value) in values.iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            text += &aligned(&[name.to_owned(), plain(value)], &[widest]);
        }
    }
    text
}

/// Commands to go on with, ready to paste.
pub(super) fn next_steps(program: &str, steps: &[String]) -> String {
    let lines = steps.iter().enumerate().map(|(index, step)| {
        let name = if index == 0 { "next:" } else { "" };
        format!("{name:5} {program} {}\n", plain(step))
    });
    lines.collect()
}

/// Text without characters that could steer a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A text that may be missing.
pub(super) fn or_nothing<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| value.to_string())
}

/// A path as it can be pasted into a shell.
pub(super) fn shell_word(path: &Path) -> String {
    let text = plain(&path.display().to_string());
    let is_simple = text.chars().all(|c| c.is_alphanumeric() || "/._-+@%".contains(c));
    if is_simple { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn aligned<C: AsRef<str>>(cells: &[C], widths: &[usize]) -> String {
    let mut line = String::new();
    for (index, cell) in cells.iter().map(AsRef::as_ref).enumerate() {
        line += cell;
        let wanted = widths.get(index).copied().unwrap_or_default();
        line += &" ".repeat(wanted.saturating_sub(width(cell)));
        line += GAP;
    }
    line.truncate(line.trim_end().len());
    line + "\n"
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_stands_in_them() {
        let rows = [["a".to_owned(), "größer".to_owned()], ["bbbb".to_owned(), "c".to_owned()]];
        assert_eq!(table(["X", "Y"], &rows), "X     Y\na     größer\nbbbb  c\n");
        let values = [("one", vec!["1".to_owned(), "2".to_owned()]), ("three", vec!["3".to_owned()])];
        assert_eq!(pairs(&values), "one    1\n       2\nthree  3\n");
    }

    #[test]
    fn a_name_from_a_checkout_cannot_steer_the_terminal() {
        let rows = [["\x1b[2Jevil\r\n".to_owned()]];
        assert_eq!(table(["NAME"], &rows), "NAME\n\u{fffd}[2Jevil\u{fffd}\u{fffd}\n");
    }

    #[test]
    fn next_steps_can_be_pasted() {
        let program = format!("postmeter --config {}", shell_word(Path::new("/etc/my mail/p.toml")));
        let steps = ["check".to_owned(), "audit".to_owned()];
        let text = next_steps(&program, &steps);
        assert_eq!(
            text,
            "next: postmeter --config '/etc/my mail/p.toml' check\n      \
             postmeter --config '/etc/my mail/p.toml' audit\n"
        );
    }
}
