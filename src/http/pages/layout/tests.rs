//! The frame, and what the style promises to eyes.

use std::collections::BTreeMap;

use super::*;

#[test]
fn numbers_are_grouped() {
    let table = [(0, "0"), (999, "999"), (4_999, "4,999"), (1_234_567, "1,234,567"), (-1_000, "−1,000")];
    for (number, want) in table {
        assert_eq!(grouped(number), want);
    }
}

#[test]
fn the_files_of_every_page_are_small() {
    assert!(STYLE.len() < 16_000, "{}", STYLE.len());
    assert!(SCRIPT.len() < 4_096, "{}", SCRIPT.len());
}

/// The colours of `:root`, light and dark.
fn colours() -> [BTreeMap<String, [f64; 3]>; 2] {
    let (light, rest) = STYLE.split_once("@media (prefers-color-scheme: dark)").unwrap();
    let dark = rest.split_once("}\n}").unwrap().0;
    [light, dark].map(|text| {
        let pairs = text.split(';').filter_map(|line| line.rsplit_once("--")?.1.split_once(": #"));
        pairs
            .map(|(name, hex)| {
                let octet = |at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
                (name.to_owned(), [octet(0), octet(2), octet(4)])
            })
            .collect()
    })
}

/// WCAG 2.2, "relative luminance".
fn luminance(colour: [f64; 3]) -> f64 {
    let [r, g, b] = colour.map(|octet| {
        let part = octet / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    });
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn text_and_controls_stand_out_from_what_is_behind_them_in_both_schemes() {
    let text = [
        ("ink", "paper"),
        ("ink", "card"),
        ("ink", "well"),
        ("soft", "paper"),
        ("soft", "card"),
        ("soft", "well"),
        ("accent", "paper"),
        ("accent", "card"),
        ("accent", "tint"),
        ("on-accent", "accent"),
        ("alert", "card"),
        ("alert", "alert-tint"),
        ("ink", "alert-tint"),
        ("good", "card"),
        ("good", "good-tint"),
        ("ink", "good-tint"),
        ("warn", "warn-tint"),
        ("ink", "warn-tint"),
    ];
    for (scheme, colours) in ["light", "dark"].iter().zip(colours()) {
        for (front, back) in text {
            let ratio = contrast(colours[front], colours[back]);
            assert!(ratio >= 4.5, "{scheme}: {front} on {back} is {ratio:.2}");
        }
        for back in ["paper", "card", "well"] {
            let ratio = contrast(colours["edge"], colours[back]);
            assert!(ratio >= 3.0, "{scheme}: the edge of a field on {back} is {ratio:.2}");
        }
    }
}
