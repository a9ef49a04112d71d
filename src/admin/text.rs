//! Numbers and times as people read them, the same on the status page and in `keytally top`.

use crate::call::Money;

/// Dollars: cents from a dollar on, else four places, never 0 for something.
pub fn usd(money: Money) -> String {
    usd_f64(money.as_f64())
}

/// As [`usd`], for rates.
pub fn usd_f64(usd: f64) -> String {
    if usd == 0.0 {
        "$0".to_owned()
    } else if usd < 0.0001 {
        "<$0.0001".to_owned()
    } else if usd < 0.9995 {
        format!("${usd:.4}")
    } else {
        let cents = (usd * 100.0).round() as u128;
        format!("${}.{:02}", grouped((cents / 100) as u64), cents % 100)
    }
}

/// A count with thousands apart.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count in three digits or so: `950`, `12.3k`, `4.56M`.
pub fn short(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => scaled(count as f64 / 1e3, 'k'),
        1_000_000..1_000_000_000 => scaled(count as f64 / 1e6, 'M'),
        _ => scaled(count as f64 / 1e9, 'G'),
    }
}

fn scaled(value: f64, unit: char) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}{unit}"),
        v if v < 99.95 => format!("{v:.1}{unit}"),
        v => format!("{v:.0}{unit}"),
    }
}

/// A length of time in its two largest units that say something: `42 s`, `3 min`, `2 h 5 min`, `4 d 3 h`.
pub fn span(seconds: u64) -> String {
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// How long before `now` the time was, both RFC 3339; the time itself where that cannot be told.
pub fn ago(time: &str, now: &str) -> String {
    let parse = |text: &str| text.parse::<jiff::Timestamp>().ok();
    match (parse(time), parse(now)) {
        (Some(time), Some(now)) => {
            format!("{} ago", span(now.as_second().saturating_sub(time.as_second()).max(0) as u64))
        }
        _ => time.to_owned(),
    }
}

/// Seconds of a call: `85 ms`, `1.24 s`, `72 s`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 99.95 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_never_reads_as_nothing() {
        for (text, expected) in [
            ("0", "$0"),
            ("0.00000002", "<$0.0001"),
            ("0.00016", "$0.0002"),
            ("0.5", "$0.5000"),
            ("0.0375", "$0.0375"),
            ("0.99951", "$1.00"),
            ("12.345", "$12.35"),
            ("1234567.8", "$1,234,567.80"),
        ] {
            assert_eq!(usd(Money::parse(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn counts_and_times() {
        assert_eq!(
            [0, 999, 1_000, 12_345, 999_999, 4_560_000].map(short),
            ["0", "999", "1.00k", "12.3k", "1000k", "4.56M"]
        );
        assert_eq!([7, 1_000, 1_234_567].map(grouped), ["7", "1,000", "1,234,567"]);
        assert_eq!([59, 61, 7_500, 7_200, 100_000].map(span), ["59 s", "1 min", "2 h 5 min", "2 h", "1 d 3 h"]);
        assert_eq!(ago("2026-11-27T10:00:00Z", "2026-11-27T10:00:42.5Z"), "42 s ago");
        assert_eq!(ago("2026-11-27T10:00:00Z", "2026-11-27T09:00:00Z"), "0 s ago", "a clock went back");
        assert_eq!([0.0851, 1.239, 71.6, 340.2].map(duration), ["85 ms", "1.24 s", "71.6 s", "340 s"]);
    }
}
