//! Prices as a person types them and Dodo counts them. Pure.
//!
//! A form that nobody can take for another: as many decimals as the currency has, a
//! point before them, nothing between the thousands. So `19` is no price in dollars:
//! it might be meant in cents.

use crate::billing::dodo::catalog::Price;

/// Currencies with two decimals that are sold in often enough; what Dodo takes beside
/// them is made in its dashboard, since it is not documented how it counts each.
const TWO_DECIMALS: [&str; 22] = [
    "AED", "AUD", "BRL", "CAD", "CHF", "CZK", "DKK", "EUR", "GBP", "HKD", "ILS", "INR", "MXN", "MYR", "NOK",
    "NZD", "PLN", "RON", "SEK", "SGD", "USD", "ZAR",
];
/// Documented by Dodo to be counted in whole ones.
const NO_DECIMALS: [&str; 1] = ["JPY"];
/// More is a slip of the hand.
const MOST_WHOLE: i64 = 999_999;

fn decimals(currency: &str) -> Option<usize> {
    let is_in = |currencies: &[&str]| currencies.contains(&currency);
    is_in(&TWO_DECIMALS).then_some(2).or(is_in(&NO_DECIMALS).then_some(0))
}

/// The amount in the currency's smallest unit.
pub(super) fn price(text: &str, currency: &str) -> Result<Price, String> {
    let decimals = decimals(currency).ok_or_else(|| {
        format!(
            "it is not known how Dodo counts {currency:?}; take one of {}, {}, or make the products in Dodo's \
             dashboard and name them in PLAN_PRODUCT_ID and TOPUP_PRODUCT_ID",
            TWO_DECIMALS.join(", "),
            NO_DECIMALS.join(", ")
        )
    })?;
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|octet| octet.is_ascii_digit());
    let is_sound = !whole.is_empty()
        && rest.len() == decimals
        && text.contains('.') == (decimals > 0)
        && is_number(whole)
        && is_number(rest);
    let form = if decimals == 0 { "1900" } else { "19.00" };
    let form = format!("{text:?} is not an amount in {currency} in the form {form}");
    if !is_sound {
        return Err(form);
    }
    let most = format!("{text} {currency} is more than {MOST_WHOLE}");
    if whole.len() > 9 || whole.parse::<i64>().is_ok_and(|whole| whole > MOST_WHOLE) {
        return Err(most);
    }
    let minor_units: i64 = format!("{whole}{rest}").parse().map_err(|_| form)?;
    if minor_units == 0 {
        return Err("a price of nothing would give credits away".to_owned());
    }
    Ok(Price { currency: currency.to_owned(), minor_units })
}

/// The same for people: `USD 19.00`. In a currency that is not known, the smallest units.
pub(super) fn told(price: &Price) -> String {
    let Price { currency, minor_units } = price;
    match decimals(currency) {
        Some(2) => format!("{currency} {}.{:02}", minor_units / 100, minor_units % 100),
        Some(_) => format!("{currency} {minor_units}"),
        None => format!("{minor_units} of the smallest units of {currency}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credits::grouped;

    #[test]
    fn a_price_has_the_decimals_of_its_currency_and_cannot_be_taken_for_cents() {
        let table = [
            ("19.00", "USD", Some(1_900)),
            ("0.50", "EUR", Some(50)),
            ("999999.99", "USD", Some(99_999_999)),
            ("007.10", "GBP", Some(710)),
            ("1900", "JPY", Some(1_900)),
            ("19", "USD", None),
            ("1900", "USD", None),
            ("19.0", "USD", None),
            ("19.000", "USD", None),
            ("19,00", "USD", None),
            ("1,900.00", "USD", None),
            ("$19.00", "USD", None),
            ("-19.00", "USD", None),
            ("+9.00", "USD", None),
            (" 9.00", "USD", None),
            (".50", "USD", None),
            ("9.", "USD", None),
            ("", "USD", None),
            ("0.00", "USD", None),
            ("1000000.00", "USD", None),
            ("99999999999999999999.00", "USD", None),
            ("19.00", "JPY", None),
            ("1900.", "JPY", None),
            ("19.00", "usd", None),
            ("19.000", "KWD", None),
        ];
        for (text, currency, want) in table {
            let read = price(text, currency).map(|price| price.minor_units);
            assert_eq!(read.clone().ok(), want, "{text} {currency}: {read:?}");
        }
    }

    #[test]
    fn prices_and_numbers_are_told_as_people_write_them() {
        let told = |minor_units, currency: &str| told(&Price { currency: currency.to_owned(), minor_units });
        assert_eq!(told(1_905, "USD"), "USD 19.05");
        assert_eq!(told(1_900, "JPY"), "JPY 1900");
        assert_eq!(told(7, "KWD"), "7 of the smallest units of KWD");
        assert_eq!([0, 999, 5_000, 1_234_567].map(grouped), ["0", "999", "5,000", "1,234,567"]);
    }
}
