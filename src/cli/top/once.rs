//! One snapshot as plain text: what the screen shows, all views one below the other.

use std::fmt::Write;
use std::net::SocketAddr;

use unicode_width::UnicodeWidthStr;

use super::table::{Table, View, printable};
use crate::admin::overview::Overview;
use crate::admin::text::{grouped, short, span, usd, usd_f64};

/// Rows of a view; the JSON of `/status/live` has all.
const ROWS: usize = 25;

/// The text, for lines of about `width` columns.
pub(super) fn text(admin: SocketAddr, overview: &Overview, filter: &str, width: usize) -> String {
    let (live, mut text) = (&overview.live, String::new());
    let total = &live.total;
    let _ = writeln!(
        text,
        "keytally {} at {admin}, up {}, {}{}",
        overview.version,
        span(overview.uptime_seconds),
        live.time,
        overview.not_ready_reason.as_ref().map_or_else(String::new, |why| format!(", not ready: {why}"))
    );
    let _ = writeln!(text, "{}", spend(overview));
    let _ = writeln!(
        text,
        "{} calls since start, {} failed, {} tokens in, {} out, {} spent{}",
        grouped(total.calls),
        grouped(total.failures),
        short(total.input_tokens),
        short(total.output_tokens),
        usd(total.spend_usd),
        if total.unpriced_calls > 0 {
            format!(", {} calls unpriced", grouped(total.unpriced_calls))
        } else {
            String::new()
        }
    );
    for it in &overview.attention {
        let at = it.provider.as_ref().map_or_else(String::new, |provider| format!(" at {provider}"));
        let outcome = it.outcome.as_ref().map_or_else(String::new, |outcome| format!(" {outcome}"));
        let line = format!("{}: {}{at}{outcome}: {}", it.severity, it.subject, it.text);
        let _ = write!(text, "\n{}\n", printable(&line));
        if let Some(fix) = &it.fix {
            let _ = writeln!(text, "  first fix: {}", printable(fix));
        }
    }
    for view in View::ALL {
        let mut table = Table::of(view, overview);
        table.filter(filter);
        table.sort(view.usual_sort(), false);
        if !table.rows.is_empty() {
            let _ = write!(text, "\n{}", lines(&table, width));
        }
    }
    text
}

/// Today, this month and the last minute in one line.
fn spend(overview: &Overview) -> String {
    let (total, periods) = (&overview.live.total, &overview.live.periods);
    let only = |complete: bool| if complete { "" } else { " (only since start)" };
    format!(
        "spend: {} in the last minute, {} today{}, {} this month{}",
        usd_f64(overview.live.last_minute.usd),
        usd(total.today_usd),
        only(periods.today_complete),
        usd(total.month_usd),
        only(periods.month_complete),
    )
}

fn lines(table: &Table, width: usize) -> String {
    let rows = &table.rows[..table.rows.len().min(ROWS)];
    let columns: Vec<usize> = (0..table.columns.len())
        .filter(|&at| usize::from(table.columns[at].from) <= width && !table.columns[at].title.is_empty())
        .collect();
    let longest = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.cells.get(at)).map(|cell| cell.text.width());
        cells.max().unwrap_or(0).max(table.columns[at].title.width())
    };
    let widths: Vec<usize> = columns.iter().map(|&at| longest(at)).collect();
    let mut text = String::new();
    let titles = columns.iter().map(|&at| table.columns[at].title);
    let mut line = |cells: Vec<&str>| {
        let mut whole = String::new();
        for ((cell, &at), &width) in cells.into_iter().zip(&columns).zip(&widths) {
            let space = " ".repeat(width.saturating_sub(cell.width()));
            let _ = if table.columns[at].right {
                write!(whole, "{space}{cell}  ")
            } else {
                write!(whole, "{cell}{space}  ")
            };
        }
        text.push_str(whole.trim_end());
        text.push('\n');
    };
    line(titles.collect());
    for row in rows {
        line(columns.iter().map(|&at| row.cells.get(at).map_or("", |cell| &*cell.text)).collect());
    }
    if table.rows.len() > ROWS {
        let _ = writeln!(text, "and {} more", table.rows.len() - ROWS);
    }
    text
}
