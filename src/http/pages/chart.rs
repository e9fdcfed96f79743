//! What was used, a bar a day, drawn here: scalable, without a script or a style of its own,
//! and with the same numbers as a table for whoever reads better than sees.

use maud::{Markup, PreEscaped, html};

use super::layout::grouped;
use crate::http::usage::Day;

/// Units of the drawing: a day is ten wide.
const STEP: u32 = 10;
const BAR: u32 = 7;
const HEIGHT: u32 = 100;
/// The least that is seen.
const LEAST: f64 = 1.5;

/// The chart with its table. `days`: at least one, the newest last.
pub(super) fn usage(days: &[Day]) -> Markup {
    let most = days.iter().map(|day| day.used.credits).max().unwrap_or_default();
    let top = nice(most);
    let total = days.iter().fold(0, |sum: i64, day| sum.saturating_add(day.used.credits));
    let messages = days.iter().fold(0, |sum: i64, day| sum.saturating_add(day.used.messages));
    let width = u32::try_from(days.len()).unwrap_or(1).saturating_mul(STEP);
    html! {
        p.soft {
            strong { (grouped(total)) } " credits for " strong { (grouped(messages)) }
            " messages in the last " (days.len()) " days."
        }
        div.plot {
            span.scale aria-hidden="true" { (grouped(top)) }
            svg.chart viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                aria-labelledby="usage-title usage-about" {
                title #usage-title { "Credits used on each day" }
                desc #usage-about {
                    (grouped(total)) " credits in " (days.len()) " days, at most " (grouped(most))
                    " on one. The table below has the numbers."
                }
                line x1="0" y1="0.5" x2=(width) y2="0.5" {}
                line x1="0" y1=(HEIGHT / 2) x2=(width) y2=(HEIGHT / 2) {}
                line x1="0" y1=(HEIGHT) x2=(width) y2=(HEIGHT) {}
                @for (index, day) in days.iter().enumerate() { (bar(index, day, top)) }
            }
            div.axis aria-hidden="true" {
                @for day in marks(days) { span { (short(day)) } }
            }
        }
        details {
            summary { "The numbers" }
            table {
                caption { "By the day (UTC) on which messages were accepted" }
                thead { tr { th scope="col" { "Day" } th.number scope="col" { "Messages" } th.number scope="col" { "Credits" } } }
                tbody {
                    @for day in days.iter().rev() {
                        tr {
                            th scope="row" { (short(day)) }
                            td.number { (grouped(day.used.messages)) }
                            td.number { (grouped(day.used.credits)) }
                        }
                    }
                }
            }
        }
    }
}

fn bar(index: usize, day: &Day, top: i64) -> Markup {
    let x = u32::try_from(index).unwrap_or_default().saturating_mul(STEP).saturating_add((STEP - BAR) / 2);
    let credits = day.used.credits;
    let (height, class) = if credits > 0 { (share(credits, top), "used") } else { (LEAST, "none") };
    let y = f64::from(HEIGHT) - height;
    // Numbers only: nothing in it was written by anybody.
    let rect = format!(
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y:.1}\" width=\"{BAR}\" height=\"{height:.1}\" rx=\"1\">"
    );
    html! {
        (PreEscaped(rect)) title { (short(day)) ": " (grouped(credits)) } (PreEscaped("</rect>"))
    }
}

/// How high so many are, where `top` is all of the height; never out of sight.
fn share(credits: i64, top: i64) -> f64 {
    let per_mille = i128::from(credits).saturating_mul(1_000) / i128::from(top.max(1));
    let per_mille = u32::try_from(per_mille.clamp(0, 1_000)).unwrap_or(1_000);
    (f64::from(per_mille) / 10.0).max(LEAST)
}

/// A round number that is not less: one digit with noughts.
fn nice(most: i64) -> i64 {
    let mut power: i64 = 1;
    loop {
        for step in [1, 2, 3, 4, 5, 6, 8] {
            let top = power.saturating_mul(step);
            if top >= most {
                return top;
            }
        }
        power = power.saturating_mul(10);
    }
}

/// The days that are named below: the first, the middle, the last.
fn marks(days: &[Day]) -> impl Iterator<Item = &Day> {
    let last = days.len().saturating_sub(1);
    let mut at = vec![0, last / 2, last];
    at.dedup();
    at.into_iter().filter_map(|index| days.get(index))
}

fn short(day: &Day) -> String {
    day.begins.strftime("%-d %b").to_string()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::store::usage::Used;

    fn days(credits: &[i64]) -> Vec<Day> {
        let begin =
            |index: usize| Timestamp::from_second(1_795_392_000 + 86_400 * i64::try_from(index).unwrap());
        let day = |(index, credits): (usize, &i64)| Day {
            begins: begin(index).unwrap(),
            used: Used { messages: i64::from(*credits > 0), credits: *credits },
        };
        credits.iter().enumerate().map(day).collect()
    }

    #[test]
    fn the_scale_is_round_and_holds_every_bar() {
        let table = [
            (0, 1),
            (1, 1),
            (2, 2),
            (7, 8),
            (9, 10),
            (230, 300),
            (999, 1_000),
            (1_001, 2_000),
            (i64::MAX, i64::MAX),
        ];
        for (most, top) in table {
            assert_eq!(nice(most), top, "{most}");
        }
        let table = [(0, 10, LEAST), (1, 10, 10.0), (10, 10, 100.0), (1, 1_000_000, LEAST), (9, 0, 100.0)];
        for (credits, top, height) in table {
            assert!((share(credits, top) - height).abs() < 0.01, "{credits} of {top}");
        }
    }

    #[test]
    fn a_bar_a_day_and_the_same_numbers_in_a_table() {
        let text = usage(&days(&[0, 5, 1_250])).into_string();
        assert_eq!(text.matches("<rect ").count(), 3);
        assert_eq!(text.matches("class=\"used\"").count(), 2);
        assert!(text.contains("height=\"62.5\"") && text.contains("y=\"37.5\""), "{text}");
        assert!(text.contains("<td class=\"number\">1,250</td>"), "{text}");
        assert!(text.contains("role=\"img\"") && text.contains("<title id=\"usage-title\">"), "{text}");
        assert!(text.contains("1,255") && !text.contains("style="), "{text}");
        assert_eq!(usage(&days(&[0])).into_string().matches("<rect ").count(), 1);
    }
}
