//! The screen in a terminal of memory: what is on it at 80 × 24, wide and tiny, and what keys do.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::admin::overview::{Attention, Failure, Health, KeyRow, Severity};
use crate::call::Money;
use crate::export::live::{
    CallRow, FindingRow, KeyLive, LiveView, MinuteRow, ModelRow, OutcomeCount, OutcomeRow, SumRow,
};

fn sum(calls: u64, failures: u64, spend: &str) -> SumRow {
    let spend_usd = Money::parse(spend).unwrap();
    SumRow {
        calls,
        failures,
        spend_usd,
        today_usd: spend_usd,
        month_usd: spend_usd,
        input_tokens: 12_345,
        ..SumRow::default()
    }
}

fn key(name: &str, health: Health, spend: &str) -> KeyRow {
    let failing = health == Health::Failing;
    KeyRow {
        health,
        live: KeyLive {
            key: name.into(),
            provider: "openai".into(),
            sum: sum(40, if failing { 12 } else { 0 }, spend),
            minutes_usd: vec![0.0, 0.01, 0.5],
            outcomes: vec![OutcomeCount { outcome: "auth_invalid".into(), calls: 12 }],
            ..KeyLive::default()
        },
        fingerprint: Some("openai:3f9a0c41b2d7".to_owned()),
        team: Some("search".into()),
        env: Some("prod".into()),
        accounts: Vec::new(),
        last_used: Some("2026-11-27T11:59:30Z".to_owned()),
        last_success: None,
        last_failure: failing.then(|| Failure {
            time: "2026-11-27T11:59:30Z".to_owned(),
            outcome: "auth_invalid".to_owned(),
            fault: "key".to_owned(),
            first_fix: None,
            fix: Some("put a live key in place".to_owned()),
        }),
        findings: Vec::new(),
    }
}

fn overview() -> Overview {
    let minute = |usd| MinuteRow { calls: 1, failures: 0, usd };
    let call = |model: &str, outcome: &'static str| CallRow {
        time: "2026-11-27T11:59:50Z".to_owned(),
        call_id: "1".to_owned(),
        key: "mail-prod".to_owned(),
        provider: "openai".into(),
        operation: "chat".into(),
        model: Some(model.to_owned()),
        model_label: "m".into(),
        client: None,
        status: Some(401),
        outcome: outcome.into(),
        failure: outcome != "ok",
        error: None,
        input_tokens: None,
        output_tokens: None,
        usage_source: "none".into(),
        cost_usd: None,
        unpriced_reason: None,
        first_output_seconds: None,
        duration_seconds: 0.2,
        findings: Vec::new(),
    };
    Overview {
        version: "0.1.0".to_owned(),
        revision: "abc".to_owned(),
        started: "2026-11-27T10:00:00Z".to_owned(),
        uptime_seconds: 7_200,
        ready: true,
        not_ready_reason: None,
        attention: vec![Attention {
            severity: Severity::Critical,
            subject: "mail-prod".to_owned(),
            provider: Some("openai".into()),
            outcome: Some("auth_invalid".to_owned()),
            text: "12 of 40 calls failed".to_owned(),
            fix: Some("put a live key in place".to_owned()),
            time: None,
        }],
        keys: vec![
            key("mail-prod", Health::Failing, "0.5"),
            key("chat-prod", Health::Ok, "12.75"),
            key("docs", Health::Ok, "3"),
        ],
        live: LiveView {
            time: "2026-11-27T12:00:00Z".to_owned(),
            total: sum(120, 12, "16.25"),
            minutes: (0..60).map(|n| minute(f64::from(n) / 100.0)).collect(),
            models: vec![ModelRow { provider: "openai".into(), model: "gpt-4o".into(), sum: sum(9, 0, "1") }],
            outcomes: vec![OutcomeRow {
                outcome: "auth_invalid".into(),
                fault: "key".into(),
                failure: true,
                calls: 12,
                last_hour: 12,
                last_time: "2026-11-27T11:59:30Z".to_owned(),
                last_key: "mail-prod".to_owned(),
                first_fix: None,
                fix: Some("put a live key in place".to_owned()),
            }],
            findings: vec![FindingRow {
                finding: "key_whitespace".into(),
                calls: 3,
                last_time: "2026-11-27T11:59:30Z".to_owned(),
                last_key: "docs".to_owned(),
                last_provider: "openai".into(),
                fix: Some("strip it".to_owned()),
            }],
            calls: vec![call("gpt-4o\u{1b}[2J\u{202e}evil", "auth_invalid"), call("gpt-4o", "ok")],
            ..LiveView::default()
        },
        config: Default::default(),
        price_book_date: None,
        listeners: Vec::new(),
        exporters: Vec::new(),
        telemetry_dropped: Vec::new(),
    }
}

fn top() -> Top {
    let mut top = Top::new("127.0.0.1:4140".parse().unwrap(), true, String::new());
    top.take(Ok(overview()));
    top
}

fn drawn(top: &Top, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, top)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    buffer.content().chunks(width.into()).map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect()
}

fn press(top: &mut Top, keys: &str) -> Asked {
    let mut asked = Asked::Nothing;
    for letter in keys.chars() {
        let code = match letter {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            letter => KeyCode::Char(letter),
        };
        asked = top.handle(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }
    asked
}

#[test]
fn the_usual_terminal_shows_what_matters() {
    let lines = drawn(&top(), 80, 24);
    let text = lines.join("\n");
    for wanted in [
        "keytally top  127.0.0.1:4140",
        "live",
        "minute $0",
        "month* $16.25",
        "10.0 % failed",
        "critical mail-prod at openai auth_invalid",
        "first fix: put a live key in place",
        "1 Keys",
        "KEY",
        "HEALTH↓",
        "? help",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    let row = |name: &str| {
        lines
            .iter()
            .rposition(|line| {
                ["  ", "› "].iter().any(|mark| line.strip_prefix(mark).is_some_and(|rest| rest.starts_with(name)))
            })
            .unwrap_or_else(|| panic!("{name}\n{text}"))
    };
    assert!(
        row("mail-prod") < row("chat-prod") && row("chat-prod") < row("docs"),
        "failing first, then as given\n{text}"
    );
    assert!(!text.contains("LAST FAILURE"), "no room for it\n{text}");
    assert!(lines[row("mail-prod")].starts_with("› "), "it is selected\n{text}");
    let wide = drawn(&top(), 160, 40).join("\n");
    assert!(wide.contains("LAST FAILURE") && wide.contains("TEAM") && wide.contains("30 s ago"), "{wide}");
}

#[test]
fn every_size_and_state_can_be_drawn() {
    let mut top = top();
    for keys in ["", "\t", "\t", "\t", "\t", "\t", "1\n", "?", "?\u{1b}/nothing"] {
        press(&mut top, keys);
        for (width, height) in [(1, 1), (3, 2), (20, 5), (40, 10), (80, 24), (300, 100)] {
            drawn(&top, width, height);
        }
    }
    let nothing_yet = Top::new("127.0.0.1:1".parse().unwrap(), false, String::new());
    assert!(drawn(&nothing_yet, 60, 10).join("").contains("asking http://127.0.0.1:1/status/live"));
}

#[test]
fn keys_turn_sort_filter_and_open() {
    let mut top = top();
    press(&mut top, "2");
    assert!(drawn(&top, 80, 24).join("\n").contains("gpt-4o"));
    press(&mut top, "3");
    assert!(drawn(&top, 80, 24).join("\n").contains("FIRST FIX"));
    press(&mut top, "4");
    assert!(drawn(&top, 80, 24).join("\n").contains("strip it"));

    press(&mut top, "1");
    let names = |top: &Top| top.table().rows.iter().map(|row| row.cells[0].text.clone()).collect::<Vec<_>>();
    press(&mut top, "sss");
    assert_eq!(names(&top), ["chat-prod", "docs", "mail-prod"], "by month");
    press(&mut top, "S");
    assert_eq!(names(&top), ["mail-prod", "docs", "chat-prod"]);
    press(&mut top, "/CHAT\n");
    assert_eq!(names(&top), ["chat-prod"]);
    assert!(drawn(&top, 80, 24).join("\n").contains("filter: CHAT"));
    assert_eq!(press(&mut top, "\u{1b}"), Asked::Nothing, "Esc clears the filter before it ends");
    assert_eq!(names(&top).len(), 3);

    press(&mut top, "\n");
    let detail = drawn(&top, 80, 24).join("\n");
    for wanted in [
        "mail-prod at openai",
        "openai:3f9a0c41b2d7",
        "first fix     put a live key in place",
        "not since start",
        "search, prod",
        "▁█",
        "12  auth_invalid",
    ] {
        assert!(detail.contains(wanted), "{wanted}\n{detail}");
    }
    assert_eq!(press(&mut top, "\u{1b}"), Asked::Nothing);
    assert_eq!(press(&mut top, "p"), Asked::Nothing);
    assert!(drawn(&top, 80, 24)[0].contains("paused"));
    assert_eq!(press(&mut top, "p"), Asked::Refresh);
    assert_eq!((press(&mut top, "q"), press(&mut top, "\u{1b}")), (Asked::Quit, Asked::Quit));
    let control_c = Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert_eq!(top.handle(&control_c), Asked::Quit);
}

#[test]
fn an_answer_that_fails_leaves_the_last_one_with_its_age() {
    let mut top = top();
    top.take(Err(anyhow::anyhow!("connection refused")));
    let text = drawn(&top, 80, 24).join("\n");
    assert!(
        text.contains("no answer for ") && text.contains("connection refused") && text.contains("chat-prod"),
        "{text}"
    );
    top.take(Ok(overview()));
    assert!(drawn(&top, 80, 24)[0].contains("live"));
}

#[test]
fn nothing_from_outside_reaches_the_terminal_as_it_is() {
    let mut top = top();
    press(&mut top, "5");
    let cells = drawn(&top, 120, 30).join("");
    let snapshot = once::text(top.admin, &overview(), "", 120);
    for text in [cells, snapshot] {
        assert!(text.contains("gpt-4o\u{fffd}[2J\u{fffd}evil"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']));
    }
}

#[test]
fn the_snapshot_says_the_same() {
    let text = once::text("127.0.0.1:4140".parse().unwrap(), &overview(), "", 80);
    for wanted in [
        "keytally 0.1.0 at 127.0.0.1:4140, up 2 h",
        "$16.25 this month (only since start)",
        "critical: mail-prod at openai auth_invalid: 12 of 40 calls failed",
        "  first fix: put a live key in place",
        "\nKEY  ",
        "\nMODEL  ",
        "key_whitespace",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    assert!(once::text("127.0.0.1:4140".parse().unwrap(), &overview(), "chat-prod", 80).contains("chat-prod"));
}
