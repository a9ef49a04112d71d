//! Draws the demo's screen: [`View`] in, text out. Pure; nothing here reads a clock, a terminal or the environment.
//!
//! No line is wider than asked for, whatever the records say, and no text of a record can carry a control character,
//! so that it can neither break the layout nor steer the terminal ([`crate::terminal`]).

use std::time::Duration;

use crate::call::{Finding, Outcome};
use crate::terminal::{
    Cell, Column, Line, Screen, Style, cells, clean, clock, count, fit, head, percent, rule, seconds, share, shown_key,
    style_of, times, usd, wrap,
};

use super::view::{CallRow, KeyRow, LATEST, Problem, RECENT, View};

/// Widest text that is drawn; a line longer than this reads badly.
pub const MAX_WIDTH: usize = 170;

/// Lines for what is wrong, at most.
const MOST_PROBLEM_LINES: usize = 6;

/// The whole screen, at most `screen.height` lines, each ending in a line feed.
pub(crate) fn render(view: &View, screen: Screen) -> String {
    let screen = Screen { width: screen.width.min(MAX_WIDTH), ..screen };
    // Fixed lines: title, script, two heads, four rules, sums. What is wrong and the latest calls share the rest of a tall
    // screen, so that a new problem moves nothing; on a short one they and the keys get half each.
    let free = screen.height.saturating_sub(9);
    let mut wrong = wrong(view, screen);
    wrong.truncate(free.min(MOST_PROBLEM_LINES));
    let shared = LATEST.max(wrong.len() + 1);
    let key_lines = view.keys.len().min(free.saturating_sub(shared)).max(free.min(view.keys.len()) / 2);
    let call_lines = shared.min(free.saturating_sub(key_lines)).saturating_sub(wrong.len());

    let mut lines = vec![title(view, screen), script(view, screen), rule(screen)];
    keys(view, screen, key_lines, &mut lines);
    lines.push(rule(screen));
    lines.append(&mut wrong);
    lines.push(rule(screen));
    calls(view, screen, call_lines, &mut lines);
    lines.push(rule(screen));
    lines.push(totals(view, screen));
    lines.truncate(screen.height);
    lines.into_iter().map(|line| line.text + "\n").collect()
}

/// One line for a log or a pipe: the sums, and the newest problem.
pub fn summary_line(view: &View) -> String {
    let totals = &view.totals;
    let mut text = format!(
        "{}  {} calls  {} ok  {} spent  {} in {} out",
        clock(view.elapsed),
        totals.calls,
        percent(totals.calls, totals.failures),
        usd(totals.spend, 4),
        count(totals.input_tokens),
        count(totals.output_tokens),
    );
    if let Some((row, problem)) = view.problems().first() {
        text.push_str(&format!("  |  {} {}{}", clean(&shown_key(&row.key)), problem.outcome, evidence(problem)));
        if !problem.findings.is_empty() {
            text.push_str(&format!("  {}", words(&problem.findings)));
        }
        if let Some(fix) = &problem.fix {
            text.push_str(&format!("  first fix: {}", clean(fix)));
        }
    }
    text
}

/// The last two lines.
pub fn farewell(view: &View) -> String {
    let totals = &view.totals;
    let keys = view.keys.len();
    let failing = view.keys.iter().filter(|row| row.failures > 0).count();
    format!(
        "keytally demo: {} calls in {} with {keys} keys, {failing} of them failed at least once; {} ok\n\
         keytally demo: {} tokens in, {} out, {} spent ({} of it estimated, {} calls unpriced); all of it simulated\n",
        totals.calls,
        clock(view.elapsed),
        percent(totals.calls, totals.failures),
        count(totals.input_tokens),
        count(totals.output_tokens),
        usd(totals.spend, 4),
        share(totals.estimated, totals.spend),
        totals.unpriced,
    )
}

// === blocks ===

fn title(view: &View, screen: Screen) -> Line {
    let mut line = Line::new(screen);
    line.put(" keytally ", Style::Brand);
    line.put(concat!(" ", env!("CARGO_PKG_VERSION"), " demo  "), Style::Dim);
    line.put(&clock(view.elapsed), Style::Bold);
    line.put("   proxy ", Style::Dim);
    line.put(&format!("http://{}", view.proxy), Style::Info);
    if screen.width >= 100 {
        line.put("   metrics ", Style::Dim);
        line.put(&format!("http://{}/metrics", view.admin), Style::Info);
        if screen.width >= 136 {
            line.put("   status ", Style::Dim);
            line.put(&format!("http://{}/status", view.admin), Style::Info);
        }
    } else {
        line.put("  admin ", Style::Dim);
        line.put(&format!("http://{}", view.admin), Style::Info);
    }
    line
}

fn script(view: &View, screen: Screen) -> Line {
    let scene = &view.scene;
    let mut line = Line::new(screen);
    line.put(" script", Style::Dim);
    line.put(&format!(" minute {}: ", scene.minute), Style::Dim);
    line.put(scene.now.text, Style::Plain);
    line.put(&format!("; next in {}", clock(scene.next_in + Duration::from_millis(999))), Style::Dim);
    line
}

const KEY_COLUMNS: &[Column] = &[
    Column { title: "key", min: 13, max: 20, right: false, spare: 0 },
    Column { title: "team", min: 9, max: 10, right: false, spare: 4 },
    Column { title: "provider", min: 10, max: 20, right: false, spare: 0 },
    Column { title: "calls", min: 5, max: 6, right: true, spare: 0 },
    Column { title: "tok in", min: 6, max: 7, right: true, spare: 3 },
    Column { title: "out", min: 6, max: 7, right: true, spare: 3 },
    Column { title: "spend", min: 8, max: 9, right: true, spare: 0 },
    Column { title: "$/hour", min: 6, max: 8, right: true, spare: 2 },
    Column { title: "ok", min: 4, max: 5, right: true, spare: 0 },
    Column { title: "last calls", min: RECENT, max: RECENT, right: false, spare: 5 },
    Column { title: "last outcome", min: 19, max: 44, right: false, spare: 0 },
];

fn keys(view: &View, screen: Screen, height: usize, lines: &mut Vec<Line>) {
    let widths = fit(KEY_COLUMNS, screen.width);
    lines.push(head(KEY_COLUMNS, &widths, screen));
    let shown = if view.keys.len() > height { height.saturating_sub(1) } else { view.keys.len() };
    for row in view.keys.iter().take(shown) {
        lines.push(cells(KEY_COLUMNS, &widths, key_cells(view, row), screen));
    }
    if shown < view.keys.len() && height > 0 {
        let mut line = Line::new(screen);
        line.put(&format!(" and {} more; a taller window shows them", view.keys.len() - shown), Style::Dim);
        lines.push(line);
    }
}

fn key_cells(view: &View, row: &KeyRow) -> Vec<Cell> {
    let one = |text: String, style| vec![(text, style)];
    let rate = view.rate(row);
    let idle = view.is_idle(row);
    let or_dim = |style| if idle { Style::Dim } else { style };
    let failing = row.recent.back().is_some_and(|outcome| outcome.is_failure());
    let key_style = match () {
        () if idle || row.key == "none" => Style::Dim,
        () if failing => Style::Alarm,
        () => Style::Bold,
    };
    let recent = row.recent.iter().map(|outcome| match outcome {
        Outcome::Ok => ("▪".to_owned(), or_dim(Style::Good)),
        other if other.is_failure() => ("✗".to_owned(), or_dim(Style::Bad)),
        _ => ("-".to_owned(), Style::Dim),
    });
    let mut last = Cell::new();
    if let Some(outcome) = row.recent.back() {
        last.push((outcome.as_str().to_owned(), or_dim(style_of(*outcome))));
        if !row.findings.is_empty() {
            last.push((format!(" {}", words(&row.findings)), or_dim(Style::Warn)));
        }
    }
    vec![
        one(shown_key(&row.key), key_style),
        one(if row.team.is_empty() { "-".to_owned() } else { row.team.clone() }, Style::Dim),
        one(row.providers.join(" "), Style::Plain),
        one(row.calls.to_string(), Style::Plain),
        one(count(row.input_tokens), Style::Plain),
        one(count(row.output_tokens), Style::Plain),
        one(usd(row.spend, 4), Style::Plain),
        one(format!("{:.2}", rate.now), if rate.unusual.is_some() { Style::Alarm } else { Style::Dim }),
        one(percent(row.calls, row.failures), if row.failures == 0 { Style::Good } else { Style::Warn }),
        recent.collect(),
        last,
    ]
}

/// What is wrong now and what to do first, newest first; at least one line.
fn wrong(view: &View, screen: Screen) -> Vec<Line> {
    let mut lines = Vec::new();
    for (row, problem) in view.problems() {
        let mut line = Line::new(screen);
        line.put(" ✗ ", Style::Alarm);
        line.put(&shown_key(&row.key), Style::Bold);
        line.put("  ", Style::Plain);
        line.put(problem.outcome.as_str(), Style::Alarm);
        line.put(&evidence(problem), Style::Plain);
        if !problem.findings.is_empty() {
            line.put(&format!("  {}", words(&problem.findings)), Style::Warn);
        }
        let (since, last) = (clock(problem.since), clock(problem.last));
        let times = format!("  {} from {since} to {last}, fault: {}", times(problem.count), problem.fault);
        line.put(&times, Style::Dim);
        lines.push(line);
        let label = "   first fix: ";
        let fix = wrap(&clean(problem.fix.as_deref().unwrap_or("-")), screen.width.saturating_sub(label.len()), 2);
        for (index, part) in fix.iter().enumerate() {
            let mut line = Line::new(screen);
            line.put(if index == 0 { label } else { "              " }, Style::Info);
            line.put(part, Style::Plain);
            lines.push(line);
        }
    }
    for row in &view.keys {
        let rate = view.rate(row);
        let Some(times) = rate.unusual else { continue };
        let mut line = Line::new(screen);
        line.put(" ! ", Style::Warn);
        line.put(&row.key, Style::Bold);
        line.put(&format!("  spends ${:.2} an hour, {times:.0} times its usual", rate.now), Style::Warn);
        lines.push(line);
    }
    if lines.is_empty() {
        let mut line = Line::new(screen);
        line.put(" ✓ ", Style::Good);
        line.put("no key is failing", Style::Dim);
        lines.push(line);
    }
    lines
}

fn words(findings: &[Finding]) -> String {
    findings.iter().map(|finding| finding.as_str()).collect::<Vec<_>>().join(" ")
}

const CALL_COLUMNS: &[Column] = &[
    Column { title: "at", min: 5, max: 6, right: true, spare: 0 },
    Column { title: "key", min: 13, max: 20, right: false, spare: 0 },
    Column { title: "provider", min: 10, max: 11, right: false, spare: 0 },
    Column { title: "operation", min: 16, max: 16, right: false, spare: 4 },
    Column { title: "model", min: 18, max: 34, right: false, spare: 3 },
    Column { title: "outcome", min: 19, max: 20, right: false, spare: 0 },
    Column { title: "tok in", min: 6, max: 6, right: true, spare: 5 },
    Column { title: "out", min: 6, max: 6, right: true, spare: 5 },
    Column { title: "cost", min: 9, max: 10, right: true, spare: 0 },
    Column { title: "ttft", min: 5, max: 5, right: true, spare: 6 },
    Column { title: "total", min: 5, max: 5, right: true, spare: 7 },
];

fn calls(view: &View, screen: Screen, height: usize, lines: &mut Vec<Line>) {
    let widths = fit(CALL_COLUMNS, screen.width);
    lines.push(head(CALL_COLUMNS, &widths, screen));
    let shown = view.latest.len().min(height);
    for call in view.latest.iter().skip(view.latest.len() - shown) {
        lines.push(cells(CALL_COLUMNS, &widths, call_cells(call), screen));
    }
    for _ in shown..height {
        lines.push(Line::new(screen));
    }
}

fn call_cells(call: &CallRow) -> Vec<Cell> {
    let one = |text: String, style| vec![(text, style)];
    let tokens = |number: Option<u64>| match number {
        Some(number) if call.estimated => (format!("~{}", count(number)), Style::Warn),
        Some(number) => (count(number), Style::Plain),
        None => ("-".to_owned(), Style::Dim),
    };
    let cost = match call.cost {
        Some(cost) => (usd(cost, 5), Style::Plain),
        None => (if call.free { "free" } else { "-" }.to_owned(), Style::Dim),
    };
    vec![
        one(clock(call.at), Style::Dim),
        one(shown_key(&call.key), Style::Plain),
        one(call.provider.clone(), Style::Plain),
        one(call.operation.to_owned(), Style::Plain),
        one(call.model.clone(), Style::Plain),
        one(call.outcome.as_str().to_owned(), style_of(call.outcome)),
        vec![tokens(call.input_tokens)],
        vec![tokens(call.output_tokens)],
        vec![cost],
        one(call.first_output.map_or("-".to_owned(), seconds), Style::Dim),
        one(seconds(call.total), Style::Dim),
    ]
}

fn totals(view: &View, screen: Screen) -> Line {
    let totals = &view.totals;
    let mut line = Line::new(screen);
    line.put(" total ", Style::Dim);
    line.put(&totals.calls.to_string(), Style::Bold);
    line.put(" calls  ", Style::Dim);
    line.put(&percent(totals.calls, totals.failures), Style::Bold);
    line.put(" ok  ", Style::Dim);
    line.put(&usd(totals.spend, 4), Style::Bold);
    line.put(&format!(" spent ({} estimated)  ", share(totals.estimated, totals.spend)), Style::Dim);
    line.put(&totals.unpriced.to_string(), Style::Bold);
    line.put(" unpriced  ", Style::Dim);
    line.put(&format!("{} in {} out", count(totals.input_tokens), count(totals.output_tokens)), Style::Plain);
    line.put(" tokens  ", Style::Dim);
    line.put(" Ctrl-C ends", Style::Dim);
    line
}

/// Status and code behind a failure, the provider and the model that it was about.
fn evidence(problem: &Problem) -> String {
    let mut text = String::new();
    if let Some(status) = problem.status {
        text.push_str(&format!("  HTTP {status}"));
    }
    // Google's code is the status once more.
    if let Some(code) = problem.code.as_ref().filter(|code| problem.status.is_none_or(|s| **code != s.to_string())) {
        text.push_str(&format!(" {}", clean(code)));
    }
    text.push_str(&format!("  {} {}", clean(&problem.provider), clean(&problem.model)));
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::{record, view};
    use super::*;
    use crate::call::UsageSource;
    use crate::terminal::width_of;

    /// A screen full of everything: long names, failures, findings, estimates.
    fn busy() -> View {
        let mut view = view();
        for number in 0..14 {
            let mut one = record(&format!("team-{number}-search-prod-with-a-long-name"), Outcome::Ok);
            one.response_model = Some("publisher/a-model-with-a-name-that-never-ends-2026-01-01-preview:free".into());
            view.observe(&one, None);
        }
        let mut bad = record("laptop-ana", Outcome::AuthInvalid);
        bad.status = Some(401);
        bad.error_code = Some("invalid_api_key".to_owned());
        bad.findings = vec![Finding::KeyUnexpanded, Finding::KeyWrongProvider];
        bad.cost = None;
        for fix in ["", "put a live key of this provider in place and restart what still holds the old one "] {
            view.observe(&bad, Some(fix.repeat(3)));
        }
        let mut left = record("laptop-ana", Outcome::ClientCancelled);
        left.usage_source = UsageSource::Estimated;
        view.observe(&left, None);
        view
    }

    /// The text between escape sequences; fails on any sequence that is not a color.
    fn without_color(text: &str) -> String {
        let mut plain = String::new();
        let mut parts = text.split('\x1b');
        plain.push_str(parts.next().unwrap_or(""));
        for part in parts {
            let (code, rest) = part.split_once('m').expect("a sequence ends in m");
            let digits = code.strip_prefix('[').expect("it begins with [");
            assert!(digits.chars().all(|c| c.is_ascii_digit() || c == ';'), "{code:?}");
            plain.push_str(rest);
        }
        plain
    }

    #[test]
    fn no_line_is_wider_and_no_screen_taller_than_asked() {
        let view = busy();
        for width in (20..200).step_by(3).chain([79, 80, 120, 160]) {
            for height in [5, 10, 23, 30, 40, 60] {
                let text = render(&view, Screen { width, height, color: true });
                let plain = without_color(&text);
                assert!(plain.lines().count() <= height, "{width}x{height}: {} lines", plain.lines().count());
                for line in plain.lines() {
                    assert!(width_of(line) <= width, "{width}: {} wide: {line}", width_of(line));
                }
            }
        }
    }

    #[test]
    fn without_color_there_is_no_escape_and_the_text_is_the_same() {
        let view = busy();
        let screen = Screen { width: 120, height: 40, color: false };
        let plain = render(&view, screen);
        assert!(!plain.contains('\x1b'));
        assert_eq!(without_color(&render(&view, Screen { color: true, ..screen })), plain);
    }

    #[test]
    fn records_cannot_steer_the_terminal_nor_break_the_layout() {
        let mut view = view();
        let evil = "\x1b[2J\x1b]0;owned\x07\u{202e}evil\r\n\u{200b}\u{0}\u{9b}31m名前名前名前";
        let mut one = record(evil, Outcome::UnknownError);
        one.team = Some(evil.into());
        one.provider = evil.into();
        one.response_model = Some(evil.repeat(20));
        one.request_model = Some(evil.to_owned());
        one.error_code = Some(evil.to_owned());
        view.observe(&one, Some(evil.to_owned()));
        for width in [40, 80, 121, 160] {
            let screen = Screen { width, height: 40, color: false };
            let text = render(&view, screen) + &summary_line(&view) + &farewell(&view);
            let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || matches!(c, '\u{202e}' | '\u{200b}'));
            assert_eq!(bad, None, "{text}");
            let lines = render(&view, screen);
            assert!(lines.lines().all(|line| width_of(line) <= width));
            assert!(without_color(&render(&view, Screen { color: true, ..screen })).contains("evil"));
        }
        assert_eq!(summary_line(&view).lines().count(), 1);
    }

    #[test]
    fn a_wide_enough_screen_shows_the_numbers_of_the_records() {
        let mut view = view();
        view.observe(&record("search-prod", Outcome::Ok), None);
        let mut bad = record("search-prod", Outcome::RateLimitTokens);
        bad.status = Some(429);
        (bad.cost, bad.usage) = (None, crate::call::Usage::default());
        view.observe(&bad, Some("cut the prompt or spread the load".to_owned()));
        let text = render(&view, Screen { width: 140, height: 40, color: false });
        let row = text.lines().find(|line| line.starts_with(" search-prod")).expect("a row");
        for cell in ["search", "openai", " 2 ", "1.0k", "200", "$0.0036", "50%", "▪✗", "rate_limit_tokens"] {
            assert!(row.contains(cell), "{cell} in {row}");
        }
        assert!(text.contains("first fix: cut the prompt or spread the load"), "{text}");
        assert!(text.contains("rate_limit_tokens  HTTP 429  openai gpt-4.1"), "{text}");
        assert!(text.contains("2 calls  50% ok  $0.0036 spent (0.0% estimated)  0 unpriced"), "{text}");
        assert_eq!(
            text.lines().filter(|line| line.trim_start().starts_with("0:10 ")).count(),
            2,
            "the latest calls: {text}"
        );
    }

    #[test]
    fn a_narrow_screen_keeps_what_matters() {
        let text = render(&busy(), Screen { width: 80, height: 40, color: false });
        let head = text.lines().nth(3).expect("the head of the keys");
        for title in ["key", "provider", "calls", "spend", "ok", "last outcome"] {
            assert!(head.contains(title), "{title} in {head}");
        }
        assert!(!head.contains("team") && !head.contains("last calls"), "{head}");
    }

    #[test]
    fn a_short_screen_says_what_it_leaves_out() {
        let text = render(&busy(), Screen { width: 100, height: 22, color: false });
        assert!(text.contains("more; a taller window shows them"), "{text}");
    }

    #[test]
    fn long_advice_goes_on_in_a_second_line_and_moves_nothing() {
        let view = busy();
        let screen = Screen { width: 100, height: 50, color: false };
        let text = render(&view, screen);
        let at = text.lines().position(|line| line.starts_with("   first fix: ")).expect("a fix");
        let next = text.lines().nth(at + 1).expect("a line after it");
        assert!(next.starts_with("              ") && !next.trim().is_empty(), "{text}");
        let mut quiet = busy();
        for row in &mut quiet.keys {
            row.problem = None;
        }
        assert_eq!(render(&quiet, screen).lines().count(), text.lines().count());
    }
}
