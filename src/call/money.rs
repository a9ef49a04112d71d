//! Money as an integer; floats only at the export edge.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// US dollars in units of 10⁻¹⁵ (femto-dollars), so that a single token at $0.0001 per million is still exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i128);

impl Money {
    /// Zero dollars.
    pub const ZERO: Money = Money(0);
    const PER_USD: i128 = 1_000_000_000_000_000;

    /// From femto-dollars.
    pub const fn from_femto(femto: i128) -> Self {
        Self(femto)
    }

    /// In femto-dollars.
    pub const fn femto(self) -> i128 {
        self.0
    }

    /// From a count of 10⁻¹⁰ dollars, as xAI states cost (`cost_in_usd_ticks`).
    pub const fn from_ticks(ticks: i64) -> Self {
        Self(ticks as i128 * 100_000)
    }

    /// Rounds a float to the nearest femto-dollar; `None` for negative, non-finite or absurd (over 10⁹ dollars) values.
    pub fn from_f64(usd: f64) -> Option<Self> {
        (usd.is_finite() && (0.0..=1e9).contains(&usd)).then(|| Self((usd * Self::PER_USD as f64).round() as i128))
    }

    /// For the export edge only.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / Self::PER_USD as f64
    }

    /// Reads a decimal such as `0.0012` or `1.5e-06`; more than 15 decimals are rounded. `None` if it is not a
    /// non-negative number of at most 10⁹ dollars.
    pub fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.len() + fraction.len() == 0 || whole.len() + fraction.len() > 36 || exponent.unsigned_abs() > 40 {
            return None;
        }
        let mut digits: i128 = 0;
        for byte in whole.bytes().chain(fraction.bytes()) {
            if !byte.is_ascii_digit() {
                return None;
            }
            digits = digits * 10 + i128::from(byte - b'0');
        }
        let shift = 15 + exponent - fraction.len() as i32;
        let femto = if shift >= 0 {
            10i128.checked_pow(shift as u32).and_then(|scale| digits.checked_mul(scale))?
        } else {
            let scale = 10i128.checked_pow(shift.unsigned_abs());
            scale.map_or(0, |scale| (digits + scale / 2) / scale)
        };
        (femto <= 1_000_000_000 * Self::PER_USD).then_some(Self(femto))
    }
}

impl Add for Money {
    type Output = Money;
    fn add(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Money) {
        *self = *self + other;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Money>>(iter: I) -> Money {
        iter.fold(Money::ZERO, Add::add)
    }
}

/// A plain decimal in dollars without trailing zeros, for instance `0.0000375`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = ((self.0 / Self::PER_USD).abs(), (self.0 % Self::PER_USD).abs());
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let text = format!("{fraction:015}");
        write!(f, "{sign}{whole}.{}", text.trim_end_matches('0'))
    }
}

impl serde::Serialize for Money {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Money {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        Money::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("\"{text}\": not an amount of dollars")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["0", "1", "0.0000375", "12.5", "0.000000000000001", "999999999.000000000000001"] {
            assert_eq!(Money::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Money::parse("1.5e-06"), Money::parse("0.0000015"));
        assert_eq!(Money::from_ticks(15_000), Money::parse("0.0000015").unwrap());
        assert_eq!(Money::from_f64(0.1 + 0.2), Money::parse("0.3"));
        for bad in ["", ".", "-1", "1e99", "NaN", "1,5", "1e10"] {
            assert_eq!(Money::parse(bad), None, "{bad}");
        }
        assert_eq!(Money::from_f64(f64::NAN), None);
        assert_eq!(Money::from_f64(-0.5), None);
    }
}
