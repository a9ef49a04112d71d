//! How things look on a terminal: tables that fit its width, amounts, counts and times, and nothing that it would obey.
//!
//! Pure: nothing here reads a clock, a terminal or the environment. No line is wider than its screen, whatever the texts
//! say, and no text can carry a control character ([`clean`]).

use std::time::Duration;

use unicode_width::UnicodeWidthChar;

use crate::call::{Money, Outcome};

/// The screen that is drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Columns.
    pub(crate) width: usize,
    /// Rows that may be filled.
    pub(crate) height: usize,
    /// Whether to use color.
    pub(crate) color: bool,
}

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Style {
    #[default]
    Plain,
    Dim,
    Bold,
    Brand,
    Good,
    Warn,
    Bad,
    Alarm,
    Info,
}

/// One line: pieces of text that together are never wider than its limit.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    used: usize,
    width: usize,
    color: bool,
}

/// One column of a table: title, least and most width, alignment, and how soon it is left out when there is no room.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) min: usize,
    pub(crate) max: usize,
    pub(crate) right: bool,
    /// Columns with the highest number go first; 0 always stays.
    pub(crate) spare: u8,
}

/// A cell: pieces of text with their looks.
pub(crate) type Cell = Vec<(String, Style)>;

/// Text without anything that a terminal obeys or that has no width: control characters become `?`, the rest of those
/// (bidirectional marks, joiners, combining characters) is left out.
pub(crate) fn clean(text: &str) -> String {
    let shown = |c: char| match c.width() {
        None => Some('?'),
        Some(0) => None,
        Some(_) => Some(c),
    };
    text.chars().filter_map(shown).collect()
}

/// A key's name; the records' `none` reads badly in a table.
pub(crate) fn shown_key(key: &str) -> String {
    if key == "none" { "(no key)".to_owned() } else { key.to_owned() }
}

/// Breaks text between words into at most `most` lines; the last one takes the rest.
pub(crate) fn wrap(text: &str, width: usize, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let fits = lines.last().is_none_or(|line| line.is_empty() || width_of(line) + 1 + width_of(word) <= width);
        let last = lines.len() == most;
        match lines.last_mut() {
            Some(line) if fits || last => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

// === texts ===

pub(crate) fn style_of(outcome: Outcome) -> Style {
    match outcome {
        Outcome::Ok => Style::Good,
        Outcome::ClientCancelled | Outcome::ContentBlocked => Style::Warn,
        Outcome::RateLimitRequests
        | Outcome::RateLimitTokens
        | Outcome::RateLimitDaily
        | Outcome::RateLimitOther
        | Outcome::ProviderOverloaded
        | Outcome::StreamTruncated => Style::Warn,
        _ => Style::Bad,
    }
}

pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds / 3_600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 0.1 => format!("{:.0}ms", short * 1_000.0),
        other => format!("{other:.1}s"),
    }
}

pub(crate) fn count(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{:.1}k", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}M", number as f64 / 1e6),
        _ => format!("{:.2}G", number as f64 / 1e9),
    }
}

pub(crate) fn usd(money: Money, decimals: usize) -> String {
    match money.as_f64() {
        more if more >= 1_000.0 => format!("${more:.0}"),
        more if more >= 100.0 => format!("${more:.2}"),
        // Something is not nothing.
        less if less > 0.0 && less < 10f64.powi(-(decimals as i32)) => {
            format!("<$0.{}1", "0".repeat(decimals.saturating_sub(1)))
        }
        less => format!("${less:.decimals$}"),
    }
}

/// Dollars with thousands set apart and a fixed number of decimals, so that a column lines up.
pub(crate) fn dollars(money: Money, decimals: usize) -> String {
    let amount = money.as_f64();
    // Something is not nothing.
    if amount > 0.0 && amount < 0.5 * 10f64.powi(-(decimals as i32)) {
        return format!("<$0.{}1", "0".repeat(decimals.saturating_sub(1)));
    }
    let text = format!("{amount:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), ""), |(whole, _)| (whole, &text[whole.len()..]));
    format!("${}{rest}", whole.parse().map_or_else(|_| whole.to_owned(), grouped))
}

/// Decimals that tell the largest of these amounts with four digits or more: cents from 100 dollars on.
pub(crate) fn decimals(amounts: impl IntoIterator<Item = Money>) -> usize {
    match amounts.into_iter().max().unwrap_or(Money::ZERO).as_f64() {
        large if large >= 100.0 => 2,
        _ => 4,
    }
}

/// A number with thousands set apart: `12,345`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn percent(calls: u64, failures: u64) -> String {
    match calls {
        0 => "-".to_owned(),
        // Rounded down: one failure in a million is not "100 %".
        _ => format!("{}%", (calls - failures.min(calls)) as u128 * 100 / u128::from(calls)),
    }
}

pub(crate) fn share(part: Money, whole: Money) -> String {
    match whole.as_f64() {
        zero if zero <= 0.0 => "0.0%".to_owned(),
        whole => match part.as_f64() / whole * 100.0 {
            little if little > 0.0 && little < 0.1 => "<0.1%".to_owned(),
            percent => format!("{percent:.1}%"),
        },
    }
}

pub(crate) fn times(count: u64) -> String {
    format!("{count} {}", if count == 1 { "call" } else { "calls" })
}

// === tables ===

pub(crate) const GAP: usize = 2;
pub(crate) const MARGIN: usize = 1;

/// Width of each column; 0 for those that are left out.
pub(crate) fn fit(columns: &[Column], width: usize) -> Vec<usize> {
    let mut widths: Vec<_> = columns.iter().map(|column| column.min).collect();
    let total = |widths: &[usize]| MARGIN + widths.iter().filter(|w| **w > 0).map(|w| w + GAP).sum::<usize>() - GAP;
    while total(&widths) > width {
        let spare = columns.iter().zip(&widths).filter(|(_, w)| **w > 0).map(|(column, _)| column.spare).max();
        let Some(spare) = spare.filter(|spare| *spare > 0) else { break };
        for (column, width) in columns.iter().zip(&mut widths) {
            if column.spare == spare {
                *width = 0;
            }
        }
    }
    // What is left over goes to the columns that can use most of it.
    let mut left = width.saturating_sub(total(&widths));
    let mut order: Vec<_> = (0..columns.len()).filter(|index| widths[*index] > 0).collect();
    order.sort_by_key(|index| std::cmp::Reverse(columns[*index].max - columns[*index].min));
    for index in order {
        let more = left.min(columns[index].max - columns[index].min);
        widths[index] += more;
        left -= more;
    }
    widths
}

pub(crate) fn head(columns: &[Column], widths: &[usize], screen: Screen) -> Line {
    let titles = columns.iter().map(|column| vec![(column.title.to_owned(), Style::Dim)]).collect();
    cells(columns, widths, titles, screen)
}

pub(crate) fn cells(columns: &[Column], widths: &[usize], row: Vec<Cell>, screen: Screen) -> Line {
    let mut line = Line::new(screen);
    let mut start = MARGIN;
    for ((column, width), cell) in columns.iter().zip(widths).zip(row) {
        if *width == 0 {
            continue;
        }
        let end = start + width;
        let wide: usize = cell.iter().map(|(text, _)| width_of(&clean(text))).sum();
        line.pad_to(if column.right { end.saturating_sub(wide).max(start) } else { start });
        for (text, style) in cell {
            line.put_until(&text, style, end);
        }
        start = end + GAP;
    }
    line
}

pub(crate) fn rule(screen: Screen) -> Line {
    let mut line = Line::new(screen);
    line.put(&"─".repeat(screen.width), Style::Dim);
    line
}

pub(crate) fn width_of(text: &str) -> usize {
    text.chars().filter_map(char::width).sum()
}

// === impl Line ===

impl Line {
    pub(crate) fn new(screen: Screen) -> Self {
        Self { text: String::new(), used: 0, width: screen.width, color: screen.color }
    }

    /// Adds text as far as the line has room.
    pub(crate) fn put(&mut self, text: &str, style: Style) {
        self.put_until(text, style, self.width);
    }

    /// Adds text up to column `end`; what does not fit is cut, with an ellipsis.
    pub(crate) fn put_until(&mut self, text: &str, style: Style, end: usize) {
        let room = end.min(self.width).saturating_sub(self.used);
        let text = clean(text);
        let mut wide = width_of(&text);
        let mut cut = text;
        if wide > room {
            if room == 0 {
                return;
            }
            while wide > room - 1 {
                wide -= cut.pop().and_then(char::width).unwrap_or(0);
            }
            cut.push('…');
            wide += 1;
        }
        self.used += wide;
        match style.code() {
            Some(code) if self.color && !cut.is_empty() => self.text.push_str(&format!("\x1b[{code}m{cut}\x1b[0m")),
            _ => self.text.push_str(&cut),
        }
    }

    pub(crate) fn pad_to(&mut self, column: usize) {
        let column = column.min(self.width);
        self.text.extend(std::iter::repeat_n(' ', column.saturating_sub(self.used)));
        self.used = self.used.max(column);
    }
}

// === impl Style ===

impl Style {
    /// Parameters of SGR (ECMA-48 8.3.117); `None` for plain text.
    fn code(self) -> Option<&'static str> {
        match self {
            Style::Plain => None,
            Style::Dim => Some("90"),
            Style::Bold => Some("1"),
            Style::Brand => Some("1;7;36"),
            Style::Good => Some("32"),
            Style::Warn => Some("33"),
            Style::Bad => Some("31"),
            Style::Alarm => Some("1;31"),
            Style::Info => Some("36"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped_and_the_last_line_takes_the_rest() {
        assert_eq!(wrap("one two three four", 8, 2), ["one two", "three four"]);
        assert_eq!(wrap("", 8, 2), [""]);
        assert_eq!(wrap("averylongword", 4, 2), ["averylongword"]);
    }

    #[test]
    fn numbers_are_short_and_never_rounded_to_more_than_they_are() {
        assert_eq!([count(999), count(1_500), count(2_340_000)], ["999", "1.5k", "2.34M"]);
        assert_eq!([percent(1_000, 1), percent(0, 0), percent(3, 3)], ["99%", "-", "0%"]);
        assert_eq!([clock(Duration::from_secs(65)), clock(Duration::from_secs(3_725))], ["1:05", "1:02:05"]);
        assert_eq!(usd(Money::parse("0.00004").expect("a number"), 4), "<$0.0001");
        assert_eq!(usd(Money::ZERO, 4), "$0.0000");
        assert_eq!(usd(Money::parse("1234.5").expect("a number"), 4), "$1234");
        assert_eq!(share(Money::ZERO, Money::ZERO), "0.0%");
    }

    #[test]
    fn columns_of_numbers_line_up() {
        assert_eq!(
            [grouped(0), grouped(999), grouped(1_000), grouped(12_345_678)],
            ["0", "999", "1,000", "12,345,678"]
        );
        let money = |text| Money::parse(text).expect("a number");
        let shown = |text, decimals| dollars(money(text), decimals);
        assert_eq!([shown("0", 2), shown("1234.5", 2), shown("0.00001", 4)], ["$0.00", "$1,234.50", "<$0.0001"]);
        assert_eq!([shown("999999.999", 2), shown("0.0051", 2)], ["$1,000,000.00", "$0.01"]);
        assert_eq!([decimals([money("99"), money("0.1")]), decimals([money("100")]), decimals([])], [4, 2, 4]);
    }
}
