//! Draws a [`Top`]: head, spend by the minute, what wants attention, one view or a key's detail, the keys that are known.
//!
//! Any size from a few cells on; 80 × 24 shows everything that matters, wider screens show more columns.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Block, Borders, Cell as TableCell, Clear, Paragraph, Row as TableRow, Sparkline, TableState, Wrap,
};

use super::Top;
use unicode_width::UnicodeWidthStr;

use super::table::{Tone, View, printable, tone};
use crate::admin::overview::{Attention, KeyRow, Overview, Severity};
use crate::admin::text::{ago, grouped, short, span, usd, usd_f64};

/// Troubles above the table, at most; the table shows the others.
const ATTENTION: usize = 3;
/// Below this height the spend chart makes room for the table.
const CHART_FROM: u16 = 18;

const HELP: &[(&str, &str)] = &[
    ("1-6, Tab, ← →", "keys, models, outcomes, findings, calls, clients"),
    ("↑ ↓, j k, PgUp PgDn, g G", "move"),
    ("Enter", "a key's detail; Esc goes back"),
    ("s, S", "sort by the next column, the other way round"),
    ("/", "filter: type, Enter to keep, Esc to clear"),
    ("p, Space", "stand still, go on"),
    ("r", "look again now"),
    ("q, Esc, Ctrl-C", "end"),
];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame, top: &Top) {
    let area = frame.area();
    let Some(overview) = top.overview.as_deref() else {
        let text = top.error.clone().unwrap_or_else(|| format!("asking http://{}/status/live …", top.admin));
        frame.render_widget(
            Paragraph::new(format!("keytally top\n\n{}\n\nq ends", printable(&text))).wrap(Wrap { trim: true }),
            area,
        );
        return;
    };
    let (attention, attention_height) = attention(top, overview, area);
    let chart = if area.height >= CHART_FROM { 5 } else { 0 };
    let [head, sums, spend, troubles, tabs, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(chart),
        Constraint::Length(attention_height),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, top, overview, head);
    frame.render_widget(Paragraph::new(sum_line(top, overview)), sums);
    if chart > 0 {
        draw_spend(frame, top, overview, spend);
    }
    frame.render_widget(Paragraph::new(attention).wrap(Wrap { trim: false }), troubles);
    let detail = top.detail.as_ref().and_then(|(key, provider)| {
        overview.keys.iter().find(|row| *row.live.key == **key && *row.live.provider == **provider)
    });
    frame.render_widget(Paragraph::new(tab_line(top)), tabs);
    match (detail, &top.detail) {
        (Some(row), _) => draw_detail(frame, top, overview, row, body),
        (None, Some(_)) => frame.render_widget(Paragraph::new("this key is no longer known; Esc goes back"), body),
        (None, None) => draw_table(frame, top, body),
    }
    frame.render_widget(Paragraph::new(foot_line(top)), foot);
    if top.help {
        draw_help(frame, top, area);
    }
}

/// A style, unless no colors are wanted; then only what is not color.
fn style(top: &Top, tone: Tone) -> Style {
    let plain = Style::default();
    match (top.color, tone) {
        (_, Tone::Plain) => plain,
        (true, Tone::Good) => plain.fg(Color::Green),
        (true, Tone::Warn) => plain.fg(Color::Yellow),
        (true, Tone::Bad) => plain.fg(Color::Red),
        (true, Tone::Soft) => plain.fg(Color::DarkGray),
        (false, Tone::Bad) => plain.add_modifier(Modifier::BOLD),
        (false, _) => plain,
    }
}

fn bold() -> Style {
    Style::default().add_modifier(Modifier::BOLD)
}

fn draw_head(frame: &mut Frame, top: &Top, overview: &Overview, area: Rect) {
    let state = match (&top.error, top.paused) {
        (Some(_), _) => {
            Span::styled(format!("no answer for {} s", top.came.elapsed().as_secs()), style(top, Tone::Bad))
        }
        (None, true) => Span::styled("paused", style(top, Tone::Warn)),
        (None, false) => Span::styled("live", style(top, Tone::Good)),
    };
    let left = Line::from(vec![
        Span::styled("keytally top", bold()),
        Span::raw(format!("  {}  {}, up {}  ", top.admin, overview.version, span(overview.uptime_seconds))),
        Span::styled(if overview.ready { "" } else { "not ready " }, style(top, Tone::Bad)),
    ]);
    let width = state.content.chars().count() as u16;
    let [rest, corner] = Layout::horizontal([Constraint::Min(0), Constraint::Length(width)]).areas(area);
    frame.render_widget(Paragraph::new(left), rest);
    frame.render_widget(Paragraph::new(Line::from(state)), corner);
}

fn sum_line(top: &Top, overview: &Overview) -> Line<'static> {
    let (total, periods) = (&overview.live.total, &overview.live.periods);
    let mark = |complete: bool| if complete { "" } else { "*" };
    let share = if total.calls == 0 { 0.0 } else { total.failures as f64 * 100.0 / total.calls as f64 };
    Line::from(vec![
        Span::raw("minute "),
        Span::styled(usd_f64(overview.live.last_minute.usd), bold()),
        Span::raw(format!("  today{} ", mark(periods.today_complete))),
        Span::styled(usd(total.today_usd), bold()),
        Span::raw(format!("  month{} ", mark(periods.month_complete))),
        Span::styled(usd(total.month_usd), bold()),
        Span::raw(format!("  calls {}, ", grouped(total.calls))),
        Span::styled(
            format!("{share:.1} % failed"),
            style(top, if total.failures > 0 { Tone::Warn } else { Tone::Good }),
        ),
        Span::raw(format!("  in {} out {}", short(total.input_tokens), short(total.output_tokens))),
    ])
}

fn draw_spend(frame: &mut Frame, top: &Top, overview: &Overview, area: Rect) {
    let minutes = &overview.live.minutes;
    let most = minutes.iter().map(|minute| minute.usd).fold(0.0, f64::max);
    // In thousandths of the highest bar: the widget counts in integers, and a minute with any spend is to be seen.
    let part = |usd: f64| if usd > 0.0 { ((usd / most * 1000.0) as u64).max(1) } else { 0 };
    // All of the width, however many columns a minute takes then; on a narrow screen the last minutes.
    let width = usize::from(area.width);
    let shown = &minutes[minutes.len().saturating_sub(width)..];
    let data: Vec<u64> = (0..width).filter_map(|x| shown.get(x * shown.len() / width)).map(|m| part(m.usd)).collect();
    let title = format!("spend a minute, the last {} minutes, at most {}", shown.len(), usd_f64(most));
    let block = Block::default().borders(Borders::TOP).title(Span::styled(title, style(top, Tone::Soft)));
    let color = if top.color { Style::default().fg(Color::Blue) } else { Style::default() };
    frame.render_widget(Sparkline::default().block(block).data(&data).max(1000).style(color), area);
}

/// Troubles with their fixes, and how many lines they take when they are wrapped.
fn attention(top: &Top, overview: &Overview, area: Rect) -> (Vec<Line<'static>>, u16) {
    // Always more room for the table than for troubles.
    let room = area.height.saturating_sub(10) / 2;
    let (mut lines, mut taken) = (Vec::new(), 0);
    for (at, it) in overview.attention.iter().enumerate() {
        let mut more = vec![attention_line(top, it)];
        if let Some(fix) = &it.fix {
            more.push(Line::from(vec![Span::raw("  first fix: "), Span::styled(printable(fix), bold())]));
        }
        let height: u16 = more.iter().map(|line| height(line, area.width)).sum();
        // The last line is for saying how many are left.
        if at == ATTENTION || taken + height >= room {
            let rest = overview.attention.len() - at;
            if taken < room {
                lines.push(Line::styled(format!("  and {rest} more in need of attention"), style(top, Tone::Soft)));
                taken += 1;
            }
            break;
        }
        lines.append(&mut more);
        taken += height;
    }
    (lines, taken)
}

/// Lines that a text takes when it is wrapped at words.
fn height(line: &Line, width: u16) -> u16 {
    let width = usize::from(width.max(1));
    let (mut lines, mut column) = (1, 0);
    for word in line.spans.iter().flat_map(|span| span.content.split_inclusive(' ')) {
        let (whole, shown) = (word.width(), word.trim_end().width());
        if column > 0 && column + shown > width {
            lines += 1;
            column = 0;
        }
        // A word longer than a line is cut.
        lines += shown.saturating_sub(1) / width;
        column = if shown > width { shown % width } else { column + whole };
    }
    u16::try_from(lines).unwrap_or(u16::MAX)
}

fn attention_line(top: &Top, it: &Attention) -> Line<'static> {
    let tone = if it.severity == Severity::Critical { Tone::Bad } else { Tone::Warn };
    let at = it.provider.as_ref().map_or_else(String::new, |provider| format!(" at {provider}"));
    Line::from(vec![
        Span::styled(
            format!("{} {}", it.severity, printable(&it.subject)),
            style(top, tone).add_modifier(Modifier::BOLD),
        ),
        Span::raw(printable(&at)),
        Span::styled(it.outcome.as_ref().map_or_else(String::new, |outcome| format!(" {outcome}")), style(top, tone)),
        Span::raw(format!(": {}", printable(&it.text))),
    ])
}

fn tab_line(top: &Top) -> Line<'static> {
    if let Some((key, provider)) = &top.detail {
        let name = printable(&format!(" {key} at {provider} "));
        return Line::from(vec![
            Span::styled(name, bold().add_modifier(Modifier::REVERSED)),
            Span::raw(" Esc goes back"),
        ]);
    }
    let mut spans = Vec::new();
    for (at, view) in View::ALL.iter().enumerate() {
        let title = format!(" {} {} ", at + 1, view.title());
        let chosen = *view == top.view;
        spans
            .push(Span::styled(title, if chosen { bold().add_modifier(Modifier::REVERSED) } else { Style::default() }));
    }
    if top.typing {
        spans.push(Span::styled(format!("  filter: {}▏", printable(&top.filter)), bold()));
    } else if !top.filter.is_empty() {
        spans.push(Span::styled(format!("  filter: {}", printable(&top.filter)), style(top, Tone::Warn)));
    }
    Line::from(spans)
}

fn foot_line(top: &Top) -> Line<'static> {
    if let Some(error) = &top.error {
        return Line::styled(printable(error), style(top, Tone::Bad));
    }
    let keys = match (top.typing, &top.detail) {
        (true, _) => "Enter keep  Esc clear",
        (false, Some(_)) => "Esc back  ↑↓ scroll  p pause  ? help  q quit",
        (false, None) => "1-6 view  ↑↓ move  Enter detail  s sort  S reverse  / filter  p pause  ? help  q quit",
    };
    Line::styled(keys, style(top, Tone::Soft))
}

fn draw_table(frame: &mut Frame, top: &Top, area: Rect) {
    let table = top.table();
    if table.rows.is_empty() {
        let text = match (top.filter.is_empty(), top.view) {
            (false, _) => "nothing fits the filter; Esc clears it",
            (true, View::Findings) => "none: nothing is to be said of the keys",
            (true, _) => "no call has come yet",
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let (sorted, reversed) = top.sort[top.view as usize];
    let shown: Vec<usize> = (0..table.columns.len()).filter(|&at| table.columns[at].from <= area.width).collect();
    let widths = shown.iter().map(|&at| {
        let column = table.columns[at];
        if column.grows { Constraint::Min(column.width) } else { Constraint::Length(column.width) }
    });
    let titles = shown.iter().map(|&at| {
        let column = table.columns[at];
        let mark = match (at == sorted, reversed) {
            (false, _) => "",
            (true, false) => "↓",
            (true, true) => "↑",
        };
        let line = Line::from(format!("{}{mark}", column.title));
        TableCell::from(if column.right { line.right_aligned() } else { line })
    });
    let selected = top.selected.min(table.rows.len() - 1);
    let rows = table.rows.iter().map(|row| {
        TableRow::new(shown.iter().map(|&at| {
            let Some(cell) = row.cells.get(at) else { return TableCell::from("") };
            let line = Line::styled(cell.text.clone(), style(top, cell.tone));
            TableCell::from(if table.columns[at].right { line.right_aligned() } else { line })
        }))
    });
    let widget = ratatui::widgets::Table::new(rows, widths)
        .header(TableRow::new(titles).style(bold()))
        .row_highlight_style(bold())
        .highlight_symbol("› ")
        .column_spacing(1);
    let mut state = TableState::default().with_selected(Some(selected));
    frame.render_stateful_widget(widget, area, &mut state);
}

fn draw_detail(frame: &mut Frame, top: &Top, overview: &Overview, row: &KeyRow, area: Rect) {
    let lines = detail(top, overview, row);
    // No further than to its last line.
    let height: u16 = lines.iter().map(|line| height(line, area.width)).sum();
    let scrolled = top.scrolled.min(height.saturating_sub(area.height));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((scrolled, 0)), area);
}

fn detail(top: &Top, overview: &Overview, row: &KeyRow) -> Vec<Line<'static>> {
    let now = &overview.live.time;
    let live = &row.live;
    let mut lines = Vec::new();
    let mut fact = |name: &str, value: String, tone: Tone| {
        let name = Span::styled(format!("{name:<14}"), style(top, Tone::Soft));
        lines.push(Line::from(vec![name, Span::styled(printable(&value), style(top, tone))]));
    };
    fact("health", row.health.to_string(), tone(row.health));
    if let Some(failure) = &row.last_failure {
        fact(
            "failed last",
            format!("{}, {}, to be fixed by: {}", failure.outcome, ago(&failure.time, now), failure.fault),
            tone(row.health),
        );
        if let Some(fix) = &failure.fix {
            fact("first fix", fix.clone(), Tone::Plain);
        }
    }
    let worked = row.last_success.as_deref().map_or_else(|| "not since start".to_owned(), |time| ago(time, now));
    fact("worked last", worked, Tone::Plain);
    fact("fingerprint", row.fingerprint.clone().unwrap_or_else(|| "none".to_owned()), Tone::Plain);
    let owner = [&row.team, &row.env].into_iter().flatten().map(|part| part.to_string()).collect::<Vec<_>>().join(", ");
    if !owner.is_empty() {
        fact("owner", owner, Tone::Plain);
    }
    if !row.accounts.is_empty() {
        fact("accounts", row.accounts.join(", "), Tone::Plain);
    }
    let periods = &overview.live.periods;
    let only = |complete: bool| if complete { "" } else { " (since start)" };
    fact(
        "spend",
        format!(
            "{} in the last minute, {} today{}, {} this month{}, {} since start",
            usd_f64(live.last_minute.usd),
            usd(live.sum.today_usd),
            only(periods.today_complete),
            usd(live.sum.month_usd),
            only(periods.month_complete),
            usd(live.sum.spend_usd)
        ),
        Tone::Plain,
    );
    let unpriced = match live.sum.unpriced_calls {
        0 => String::new(),
        count => format!(", {} unpriced", grouped(count)),
    };
    fact("calls", format!("{}, {} failed{unpriced}", grouped(live.sum.calls), grouped(live.sum.failures)), Tone::Plain);
    fact("tokens", format!("{} in, {} out", short(live.sum.input_tokens), short(live.sum.output_tokens)), Tone::Plain);
    if !live.minutes_usd.is_empty() {
        fact("last hour", bars(&live.minutes_usd), Tone::Plain);
    }
    for (at, count) in live.outcomes.iter().enumerate() {
        fact(
            if at == 0 { "outcomes" } else { "" },
            format!("{:>8}  {}", grouped(count.calls), count.outcome),
            Tone::Plain,
        );
    }
    for (at, share) in live.models.iter().enumerate() {
        let text = format!("{:>8}  {:>10}  {}", grouped(share.calls), usd(share.spend_usd), share.model);
        fact(if at == 0 { "models" } else { "" }, text, Tone::Plain);
    }
    for (at, (finding, calls)) in row.findings.iter().enumerate() {
        fact(if at == 0 { "findings" } else { "" }, format!("{:>8}  {finding}", grouped(*calls)), Tone::Warn);
    }
    let calls =
        overview.live.calls.iter().filter(|call| call.key == *live.key && call.provider == live.provider).take(8);
    for (at, call) in calls.enumerate() {
        let error = call.error.as_deref().unwrap_or_default();
        let model = call.model.as_deref().unwrap_or(&call.operation);
        let text = format!("{:>10}  {}  {model}  {error}", ago(&call.time, now), call.outcome);
        fact(if at == 0 { "last calls" } else { "" }, text, if call.failure { Tone::Bad } else { Tone::Plain });
    }
    lines
}

/// Spend by the minute, in eighths of a line.
fn bars(usd: &[f64]) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = usd.iter().copied().fold(0.0, f64::max);
    let bar = |usd: f64| if usd > 0.0 { BARS[((usd / most * 8.0).ceil() as usize).clamp(1, 8)] } else { ' ' };
    usd.iter().map(|usd| bar(*usd)).collect()
}

fn draw_help(frame: &mut Frame, top: &Top, area: Rect) {
    let width = area.width.min(78);
    let height = area.height.min(HELP.len() as u16 + 5);
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    let mut lines: Vec<Line> = HELP
        .iter()
        .map(|(keys, what)| Line::from(vec![Span::styled(format!("{keys:<26}"), bold()), Span::raw(*what)]))
        .collect();
    lines.push(Line::default());
    lines.push(Line::from("* since the sidecar started; with a ledger, all of day or month (UTC)"));
    lines.push(Line::styled("any key closes this", style(top, Tone::Soft)));
    frame.render_widget(Clear, place);
    let block = Block::default().borders(Borders::ALL).title(" keytally top ");
    frame.render_widget(Paragraph::new(lines).block(block).wrap(Wrap { trim: false }), place);
}
