//! What the commands that read the ledger have in common: which file, which calls, and how answers are shown.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use super::{ConfigArgs, complain};
use crate::call::{Money, Outcome};
use crate::config::value::{Span, Usd};
use crate::config::{Config, Environment, Loaded, Source};
use crate::ledger::{Query, Reader};
use crate::terminal::{Cell, Column, Screen, Style, cells, clean, fit, head, width_of};

/// Width of what is not written to a terminal: nothing has to be cut.
const UNBOUNDED: usize = 1_000;
/// Width of a terminal that does not tell its own.
const UNKNOWN: usize = 100;

/// Which ledger.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct LedgerArgs {
    /// The ledger, instead of the configured one (variable: KEYTALLY_LEDGER)
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Which calls. Of a flag that is given twice or with a comma, one value is enough.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct FilterArgs {
    /// Calls since then: a duration before now (24h, 7d), a date or a time in UTC (2026-11-01, 2026-11-01T08:30)
    #[arg(long, value_name = "TIME", value_parser = when)]
    since: Option<When>,
    /// Calls before then, in the same forms
    #[arg(long, value_name = "TIME", value_parser = when)]
    until: Option<When>,
    /// Name or fingerprint of a key; several with commas, `*` at the end for any rest, `none` for calls without
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    key: Vec<String>,
    /// Model
    #[arg(long, value_name = "MODEL", value_delimiter = ',')]
    model: Vec<String>,
    /// Provider
    #[arg(long, value_name = "PROVIDER", value_delimiter = ',')]
    provider: Vec<String>,
    /// Team that the key belongs to
    #[arg(long, value_name = "TEAM", value_delimiter = ',')]
    team: Vec<String>,
    /// Application (`labels.app`)
    #[arg(long, value_name = "CLIENT", value_delimiter = ',')]
    client: Vec<String>,
    /// Outcome, or `failed` for every failure
    #[arg(long, value_name = "OUTCOME", value_delimiter = ',', value_parser = asked_outcome)]
    outcome: Vec<AskedOutcome>,
}

/// A moment as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Ago(Duration),
    At(Timestamp),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedOutcome {
    Failed,
    Just(Outcome),
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// For spreadsheets
    Csv,
}

impl LedgerArgs {
    /// The ledger, and the configuration that names its keys (the defaults, where none can be read).
    pub(super) fn open(self) -> anyhow::Result<(Reader, Config)> {
        let path = self.config.config.filter(|path| !path.as_os_str().is_empty());
        let named = path.is_some();
        let source = Source { path, env: Environment::default(), ..Source::default() };
        let config = match source.load() {
            Ok(Loaded { config, .. }) => config,
            // A file that has gone bad meanwhile says nothing about the ledger.
            Err(error) if self.ledger.is_some() => {
                complain(&format!("keytally: {error}\nkeytally: names of keys are only those in the ledger"));
                Config::default()
            }
            Err(error) => return Err(error.into()),
        };
        let path = self.ledger.or_else(|| config.ledger.as_ref().map(|ledger| ledger.path.clone()));
        let path = path.with_context(|| match named {
            true => "no ledger: the configuration has no ledger.path; add it, or name the file with --ledger FILE",
            false => {
                "no ledger: name the file with --ledger FILE, or the configuration that has ledger.path with --config"
            }
        })?;
        let mut reader = Reader::open(&path)?;
        reader.name_keys(config.keys.iter().map(|key| (key.fingerprint.clone(), key.name.clone(), key.team.clone())));
        Ok((reader, config))
    }
}

impl FilterArgs {
    pub(super) fn query(&self, now: SystemTime) -> Query {
        Query {
            since: self.since.map(|when| when.time(now)),
            until: self.until.map(|when| when.time(now)),
            keys: self.key.clone(),
            models: self.model.clone(),
            providers: self.provider.clone(),
            teams: self.team.clone(),
            clients: self.client.clone(),
            outcomes: self
                .outcome
                .iter()
                .flat_map(|asked| match asked {
                    AskedOutcome::Just(outcome) => vec![*outcome],
                    AskedOutcome::Failed => Outcome::ALL.iter().copied().filter(|o| o.is_failure()).collect(),
                })
                .collect(),
            ..Query::default()
        }
    }
}

impl When {
    fn time(self, now: SystemTime) -> SystemTime {
        match self {
            When::Ago(before) => now.checked_sub(before).unwrap_or(SystemTime::UNIX_EPOCH),
            When::At(time) => time.into(),
        }
    }
}

/// Reads a moment: `24h`, `2026-11-01`, `2026-11-01T08:30`, or RFC 3339.
pub(super) fn when(text: &str) -> Result<When, String> {
    if let Ok(span) = text.parse::<Span>() {
        return Ok(When::Ago(span.0));
    }
    let utc = |time: DateTime| time.to_zoned(TimeZone::UTC).map(|time| time.timestamp());
    let read = match (text.parse::<Timestamp>(), text.len()) {
        (Ok(time), _) => Ok(time),
        (_, 10) => text.parse::<Date>().and_then(|date| utc(date.at(0, 0, 0, 0))),
        _ => text.parse::<DateTime>().and_then(utc),
    };
    read.map(When::At).map_err(|_| {
        "not a time; write a duration before now (24h, 7d), a date (2026-11-01) or a time in UTC (2026-11-01T08:30)"
            .to_owned()
    })
}

fn asked_outcome(text: &str) -> Result<AskedOutcome, String> {
    if text == "failed" { Ok(AskedOutcome::Failed) } else { text.parse().map(AskedOutcome::Just) }
}

pub(super) fn usd(text: &str) -> Result<Money, String> {
    text.trim_start_matches('$').parse::<Usd>().map(|usd| usd.0)
}

/// Standard output as it is: its width and whether it shows colors.
pub(super) fn screen() -> Screen {
    let out = std::io::stdout();
    let terminal = out.is_terminal();
    let size = terminal_size::terminal_size_of(&out).map(|(width, _)| usize::from(width.0).max(40));
    Screen {
        width: if terminal { size.unwrap_or(UNKNOWN) } else { UNBOUNDED },
        height: usize::MAX,
        color: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

/// A column whose width follows from its cells.
pub(super) struct Heading {
    pub(super) title: &'static str,
    pub(super) right: bool,
    /// As of [`Column`].
    pub(super) spare: u8,
}

/// A table as wide as its widest cells; where the screen is narrower, columns that can be spared go and texts are cut.
pub(super) fn table(headings: &[Heading], rows: Vec<Vec<Cell>>, screen: Screen) -> String {
    let columns: Vec<_> = headings
        .iter()
        .enumerate()
        .map(|(index, heading)| {
            let wide = |cell: &Cell| cell.iter().map(|(text, _)| width_of(&clean(text))).sum::<usize>();
            let max = rows.iter().filter_map(|row| row.get(index)).map(wide).chain([width_of(heading.title)]).max();
            let max = max.unwrap_or(0);
            // A number that is cut is a wrong number.
            let min = if heading.right { max } else { max.min(10) };
            Column { title: heading.title, min, max, right: heading.right, spare: heading.spare }
        })
        .collect();
    let widths = fit(&columns, screen.width);
    let mut lines = vec![head(&columns, &widths, screen)];
    lines.extend(rows.into_iter().map(|row| cells(&columns, &widths, row, screen)));
    lines.into_iter().map(|line| line.text.trim_end().to_owned() + "\n").collect()
}

/// One piece of plain text.
pub(super) fn plain(text: impl Into<String>) -> Cell {
    vec![(text.into(), Style::Plain)]
}

pub(super) fn styled(text: impl Into<String>, style: Style) -> Cell {
    vec![(text.into(), style)]
}

/// `2026-11-01 08:30`, in UTC.
pub(super) fn minute(time: SystemTime) -> String {
    let text = Timestamp::try_from(time).unwrap_or_default().to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

/// RFC 3339 in UTC, to the second.
pub(super) fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let at = |text: &str| match when(text) {
            Ok(When::At(time)) => time.to_string(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(when("24h"), Ok(When::Ago(Duration::from_secs(86_400))));
        assert_eq!(at("2026-11-01"), "2026-11-01T00:00:00Z");
        assert_eq!(at("2026-11-01T08:30"), "2026-11-01T08:30:00Z");
        assert_eq!(at("2026-11-01 08:30:15"), "2026-11-01T08:30:15Z");
        assert_eq!(at("2026-11-01T08:30:00+02:00"), "2026-11-01T06:30:00Z");
        for bad in ["", "yesterday", "2026-13-01", "2026-11", "24", "-24h", "11:30"] {
            assert!(when(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_table_fits_and_keeps_its_numbers() {
        let headings = [
            Heading { title: "key", right: false, spare: 0 },
            Heading { title: "more", right: true, spare: 1 },
            Heading { title: "spend", right: true, spare: 0 },
        ];
        let row = |name: &str| vec![plain(name), plain("1"), plain("$12.00")];
        let rows = || vec![row("a-key-with-a-long-name"), row("b\x1b[2J")];
        let wide = table(&headings, rows(), Screen { width: 100, height: 9, color: false });
        assert_eq!(
            wide,
            " key                     more   spend\n a-key-with-a-long-name     1  $12.00\n b?[2J                      1  $12.00\n"
        );
        let narrow = table(&headings, rows(), Screen { width: 20, height: 9, color: false });
        assert_eq!(
            narrow, " key           spend\n a-key-with…  $12.00\n b?[2J        $12.00\n",
            "all of the 20 columns"
        );
    }
}
