//! The status page: an [`Overview`] as one HTML document.
//!
//! Whole without JavaScript; with it, `page.js` asks for the same page every two seconds and swaps the parts that changed, so
//! that everything is rendered, and escaped, in one place: `maud` escapes all text and attributes. Style and script are
//! inline and named by hash in the content security policy, which allows nothing else. The page only reads.
//!
//! Bounds: `tables` shows so many calls and rows of a kind; the rest is counted and is in `/status/live`.

mod tables;

use std::sync::LazyLock;

use base64::Engine;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::overview::{Attention, Health, KeyRow, Overview, Severity};
use super::text::{ago, grouped, short, span, usd, usd_f64};
use crate::export::live::{Filter, MinuteRow, SumRow};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page's `Content-Security-Policy`.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// The whole document.
pub(super) fn render(overview: &Overview, filter: &Filter) -> String {
    let page = Page { overview, filter };
    page.document().into_string()
}

struct Page<'a> {
    overview: &'a Overview,
    filter: &'a Filter,
}

/// A link to this page with another filter.
fn link(key: Option<&str>, outcome: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::for_suffix(String::from("/?"), 2);
    for (name, value) in [("key", key), ("outcome", outcome)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

impl Page<'_> {
    fn document(&self) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="referrer" content="no-referrer";
                    link rel="icon" href="data:,";
                    title { (self.title()) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    a.skip href="#main" { "Skip to content" }
                    (self.header())
                    main #main {
                        (self.filter_form())
                        (self.attention())
                        @if self.filter.key.is_some() { (self.key_details()) }
                        (self.spend())
                        (self.keys())
                        div.pair { (self.outcomes()) (self.findings()) }
                        (self.calls())
                        div.pair { (self.models()) (self.clients()) }
                        (self.sidecar())
                    }
                    footer.note {
                        p { "Read only. Prompts, completions and keys are never kept. The same as JSON: " a href="/status/live" { "/status/live" }
                            ", " a href="/status" { "/status" } ", " a href="/metrics" { "/metrics" } }
                    }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        }
    }

    fn title(&self) -> String {
        let count = |health| self.overview.keys.iter().filter(|row| row.health == health).count();
        match (count(Health::Failing), count(Health::Degraded)) {
            (0, 0) if self.overview.attention.is_empty() => "keytally".to_owned(),
            (0, 0) => "keytally: wants attention".to_owned(),
            (0, degraded) => format!("keytally: {} degraded", keys(degraded)),
            (failing, _) => format!("keytally: {} failing", keys(failing)),
        }
    }

    fn header(&self) -> Markup {
        let overview = self.overview;
        html! {
            header {
                h1 { a href="/" { "keytally" } }
                span.note #build data-part { (overview.version) ", up " (span(overview.uptime_seconds))
                    @if !overview.ready { ", " strong.bad { "not ready" } } }
                span.note #live role="status" { "as of " (overview.live.time) }
                button #pause type="button" hidden { "Pause" }
            }
        }
    }

    fn filter_form(&self) -> Markup {
        let (key, outcome) = (self.filter.key.as_deref(), self.filter.outcome.as_deref());
        let mut names: Vec<&str> = self.overview.keys.iter().map(|row| &*row.live.key).collect();
        names.sort_unstable();
        names.dedup();
        let outcomes: Vec<&str> = self.overview.live.outcomes.iter().map(|row| &*row.outcome).collect();
        let choice = |value: &str, chosen: Option<&str>| html! { option value=(value) selected[chosen == Some(value)] { (value) } };
        html! {
            form method="get" action="/" aria-label="Filter" {
                label { "Key" select name="key" {
                    option value="" { "all" }
                    @for name in &names { (choice(name, key)) }
                    // What a link asks for and nobody has seen yet.
                    @if let Some(key) = key.filter(|key| !names.contains(key)) { (choice(key, Some(key))) }
                } }
                label { "Outcome" select name="outcome" {
                    option value="" { "all" }
                    (choice("failed", outcome))
                    @for name in &outcomes { (choice(name, outcome)) }
                    @if let Some(outcome) = outcome.filter(|name| *name != "failed" && !outcomes.contains(name)) {
                        (choice(outcome, Some(outcome)))
                    }
                } }
                button type="submit" { "Show" }
                @if !self.filter.is_empty() { a href="/" { "Show all" } }
            }
        }
    }

    fn attention(&self) -> Markup {
        let all: Vec<&Attention> = self.overview.attention.iter().filter(|it| self.concerns(it)).collect();
        let critical = all.iter().any(|it| it.severity == Severity::Critical);
        html! {
            section #attention data-part aria-labelledby="attention-title" class={ @if !all.is_empty() { "alert " } @if critical { "critical" } } {
                h2 #attention-title { @if all.is_empty() { span.ok { "✓ Nothing wants attention" } } @else { "Wants attention" } }
                @if !all.is_empty() {
                    ul { @for it in &all { (self.attention_item(it)) } }
                }
            }
        }
    }

    /// What an attention is about is shown: the sidecar's own troubles always, a key's with the filter that fits.
    fn concerns(&self, attention: &Attention) -> bool {
        let Some(wanted) = self.filter.key.as_deref() else { return true };
        attention.provider.is_none()
            || self.overview.keys.iter().any(|row| *row.live.key == *attention.subject && is_key(row, wanted))
    }

    fn attention_item(&self, it: &Attention) -> Markup {
        html! {
            li {
                span.tag.(it.severity) { (it.severity) } " "
                @match &it.provider {
                    Some(provider) => {
                        strong { a href=(link(Some(&it.subject), None)) { (it.subject) } }
                        span.soft { " at " (provider) }
                        @if let Some(outcome) = &it.outcome {
                            " " a.mono.nb href=(link(Some(&it.subject), Some(outcome))) { (outcome) }
                        }
                    }
                    None => strong { (it.subject) },
                }
                p { (it.text) @if let Some(time) = &it.time { span.soft { ", last " (self.when(time)) } } }
                @if let Some(fix) = &it.fix { p { strong { "First fix: " } (fix) } }
            }
        }
    }

    fn key_details(&self) -> Markup {
        let wanted = self.filter.key.as_deref().unwrap_or_default();
        let rows: Vec<&KeyRow> = self.overview.keys.iter().filter(|row| is_key(row, wanted)).collect();
        html! {
            section #key data-part aria-labelledby="key-title" {
                h2 #key-title { "Key " span.mono { (wanted) } }
                @if rows.is_empty() { p { "Not seen since " (self.when(&self.overview.started)) ", when this sidecar started." } }
                @for row in rows {
                    dl.facts {
                        dt { "Provider" } dd { (row.live.provider) }
                        dt { "Health" } dd { (health(row.health)) @if let Some(used) = &row.last_used { ", last used " (self.when(used)) } }
                        @if let Some(fingerprint) = &row.fingerprint { dt { "Fingerprint" } dd.mono { (fingerprint) } }
                        @if let Some(owner) = owner(row) { dt { "Owner" } dd { (owner) } }
                        @if !row.accounts.is_empty() { dt { "Accounts" } dd.mono { (row.accounts.join(", ")) } }
                        dt { "Worked last" } dd { @match &row.last_success { Some(time) => (self.when(time)), None => "not since start" } }
                        @if let Some(failure) = &row.last_failure {
                            dt { "Failed last" }
                            dd { span.mono { (failure.outcome) } " " (self.when(&failure.time)) ", to be fixed by: " (failure.fault)
                                @if let Some(fix) = &failure.fix { br; strong { "First fix: " } (fix) } }
                        }
                        dt { "Outcomes" }
                        dd { @for (at, count) in row.live.outcomes.iter().enumerate() {
                            @if at > 0 { ", " } a.mono.nb href=(link(Some(wanted), Some(&count.outcome))) { (count.outcome) } " " (grouped(count.calls))
                        } }
                        dt { "Models" }
                        dd { @for (at, share) in row.live.models.iter().enumerate() {
                            @if at > 0 { ", " } span.mono { (share.model) } " " (grouped(share.calls)) " (" (usd(share.spend_usd)) ")"
                        } }
                        @if !row.findings.is_empty() {
                            dt { "Findings" }
                            dd { @for (at, (name, calls)) in row.findings.iter().enumerate() { @if at > 0 { ", " } span.mono { (name) } " " (grouped(*calls)) } }
                        }
                    }
                }
            }
        }
    }

    fn spend(&self) -> Markup {
        let live = &self.overview.live;
        let (total, periods) = (&live.total, &live.periods);
        let failed = if total.calls == 0 { 0.0 } else { total.failures as f64 * 100.0 / total.calls as f64 };
        html! {
            section #spend data-part aria-labelledby="spend-title" {
                h2 #spend-title { "Spend" @if self.filter.key.is_some() { span.note { "of all keys" } } }
                dl.sums {
                    div { dt { "Last minute" } dd { (usd_f64(live.last_minute.usd)) small { (grouped(live.last_minute.calls.into())) " calls" } } }
                    div { dt { "Today (UTC)" } dd { (usd(total.today_usd)) small { (self.since(periods.today_complete, &periods.today_since, total.today_calls)) } } }
                    div { dt { "This month (UTC)" } dd { (usd(total.month_usd)) small { (self.since(periods.month_complete, &periods.month_since, total.month_calls)) } } }
                    div { dt { "Since start" } dd { (usd(total.spend_usd)) small { (self.certainty(total)) } } }
                    div { dt { "Calls" } dd { (grouped(total.calls)) small { (format!("{failed:.1}")) " % failed" } } }
                    div { dt { "Tokens in" } dd { (short(total.input_tokens)) } }
                    div { dt { "Tokens out" } dd { (short(total.output_tokens)) } }
                }
                figure {
                    (chart(&live.minutes))
                    figcaption { span { "60 minutes ago" } span { "dollars a minute, at most " (usd_f64(most(&live.minutes))) } span { "now" } }
                }
            }
        }
    }

    /// What a period's sum covers: all of it, or what this process saw.
    fn since(&self, complete: bool, since: &str, calls: u64) -> Markup {
        html! { (grouped(calls)) " calls" @if !complete { ", only since the start " (self.when(since)) } }
    }

    fn certainty(&self, total: &SumRow) -> Markup {
        html! {
            @if total.estimated_usd.femto() > 0 { (usd(total.estimated_usd)) " estimated" } @else { "as reported" }
            @if total.unpriced_calls > 0 { ", " (grouped(total.unpriced_calls)) " calls unpriced" }
        }
    }

    fn sidecar(&self) -> Markup {
        let it = self.overview;
        let lost: Vec<_> = it.telemetry_dropped.iter().filter(|(_, count)| *count > 0).collect();
        html! {
            section #sidecar data-part aria-labelledby="sidecar-title" {
                h2 #sidecar-title { "Sidecar" }
                dl.facts {
                    dt { "Version" } dd { (it.version) " (" (it.revision) "), started " (self.when(&it.started)) }
                    dt { "Price book" } dd { @match &it.price_book_date { Some(date) => (date.get(..10).unwrap_or(date)), None => "date not known" } }
                    dt { "Configuration" }
                    dd { @match &it.config.path { Some(path) => span.mono { (path) }, None => "defaults" }
                        @if let Some(error) = &it.config.error { ", " span.bad { (error) } } }
                    @for listener in &it.listeners { dt { "Port: " (listener.name) } dd.mono { (listener.address) } }
                    @for exporter in &it.exporters {
                        dt { "Export: " (exporter.name) }
                        dd { @if exporter.healthy { span.ok { "✓ healthy" } } @else { span.bad { "✗ its last attempt failed" } }
                            @if let Some(detail) = &exporter.detail { " " span.mono { (detail) } } }
                    }
                    @if it.exporters.is_empty() { dt { "Export" } dd { "metrics only: no traces, call log or ledger" } }
                    @if !lost.is_empty() {
                        dt { "Lost" } dd { @for (at, (signal, count)) in lost.iter().enumerate() { @if at > 0 { ", " } (grouped(*count)) " " (signal) } }
                    }
                }
            }
        }
    }

    /// How long ago, with the time itself for those who point at it.
    fn when(&self, time: &str) -> Markup {
        html! { time datetime=(time) title=(time) { (ago(time, &self.overview.live.time)) } }
    }
}

fn keys(count: usize) -> String {
    format!("{count} key{}", if count == 1 { "" } else { "s" })
}

fn is_key(row: &KeyRow, wanted: &str) -> bool {
    *row.live.key == *wanted || row.fingerprint.as_deref() == Some(wanted)
}

fn owner(row: &KeyRow) -> Option<String> {
    match (&row.team, &row.env) {
        (Some(team), Some(env)) => Some(format!("{team}, {env}")),
        (Some(one), None) | (None, Some(one)) => Some(one.to_string()),
        (None, None) => None,
    }
}

fn health(health: Health) -> Markup {
    let sign = match health {
        Health::Failing => "✗",
        Health::Degraded => "!",
        Health::Ok => "✓",
        Health::Quiet => "–",
    };
    html! { span.tag.(health) { span aria-hidden="true" { (sign) " " } (health) } }
}

fn most(minutes: &[MinuteRow]) -> f64 {
    minutes.iter().map(|minute| minute.usd).fold(0.0, f64::max)
}

/// Spend of the last hour, a bar a minute.
fn chart(minutes: &[MinuteRow]) -> Markup {
    let (most, count) = (most(minutes), minutes.len().max(1));
    let sum: f64 = minutes.iter().map(|minute| minute.usd).sum();
    html! {
        svg viewBox={ "0 0 " (count * 10) " 56" } preserveAspectRatio="none" role="img" aria-label={ "Spend of the last hour: " (usd_f64(sum)) } {
            line x1="0" y1="55.5" x2=(count * 10) y2="55.5" {}
            @for (at, minute) in minutes.iter().enumerate() { (bar(at, minute.usd, most, 55.0)) }
        }
    }
}

fn bar(at: usize, usd: f64, most: f64, height: f64) -> Markup {
    // A minute with any spend can be seen.
    let tall = if most > 0.0 { (usd / most * height).max(1.0) } else { 0.0 };
    html! {
        @if usd > 0.0 {
            rect x=(at * 10 + 1) y=(format!("{:.1}", height - tall)) width="8" height=(format!("{tall:.1}")) {}
        }
    }
}

#[cfg(test)]
mod tests;
