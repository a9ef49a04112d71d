//! The page's tables: keys, outcomes, findings, last calls, models, clients.

use maud::{Markup, html};

use super::{Page, bar, health, is_key, link, owner};
use crate::admin::overview::{Health, KeyRow};
use crate::admin::text::{duration, grouped, short, usd, usd_f64};
use crate::export::live::{CallRow, SumRow};

/// Calls in the list.
const SHOWN_CALLS: usize = 50;
/// Keys, models and clients in their tables.
const SHOWN_ROWS: usize = 100;

impl Page<'_> {
    pub(super) fn keys(&self) -> Markup {
        let rows: Vec<&KeyRow> = self.overview.keys.iter().filter(|row| self.shows(row)).collect();
        let periods = &self.overview.live.periods;
        let mark = |complete: bool| if complete { "" } else { "*" };
        html! {
            section #keys data-part aria-labelledby="keys-title" {
                h2 #keys-title { "Keys" }
                @if rows.is_empty() { p.soft { "No call has come yet that fits. Point an application at http://ADDRESS/<provider>." } }
                @else {
                    div.scroll tabindex="0" role="region" aria-label="Table of keys" {
                        table {
                            thead { tr {
                                th scope="col" { "Key" } th scope="col" { "Health" } th.wide scope="col" { "Owner" }
                                th.n.wide scope="col" { "Last min" } th.n scope="col" { "Today" (mark(periods.today_complete)) } th.n scope="col" { "Month" (mark(periods.month_complete)) }
                                th.n.wide scope="col" { "Calls" } th.n.wide scope="col" { "Failed" } th.wide scope="col" { "Last hour" } th.wide scope="col" { "Last used" }
                            } }
                            tbody { @for row in rows.iter().take(SHOWN_ROWS) { (self.key_row(row)) } }
                        }
                    }
                    @if !(periods.today_complete && periods.month_complete) { p.note { "* only since the start of this sidecar; with a ledger, all of it" } }
                    (rest(rows.len(), SHOWN_ROWS))
                }
            }
        }
    }

    fn shows(&self, row: &KeyRow) -> bool {
        let outcome = self.filter.outcome.as_deref().is_none_or(|wanted| match wanted {
            "failed" => row.live.sum.failures > 0,
            wanted => row.live.outcomes.iter().any(|count| count.outcome == wanted),
        });
        outcome && self.filter.key.as_deref().is_none_or(|wanted| is_key(row, wanted))
    }

    fn key_row(&self, row: &KeyRow) -> Markup {
        let live = &row.live;
        html! {
            tr {
                th.mono scope="row" { a href=(link(Some(&live.key), None)) { (live.key) } br; span.soft { (live.provider) } }
                td { (health(row.health))
                    @if let (Health::Failing | Health::Degraded, Some(failure)) = (row.health, &row.last_failure) {
                        br; a.mono.nb href=(link(Some(&live.key), Some(&failure.outcome))) { (failure.outcome) }
                    } }
                td.wide { @if let Some(owner) = owner(row) { (owner) } }
                td.n.wide { (usd_f64(live.last_minute.usd)) }
                td.n { (usd(live.sum.today_usd)) }
                td.n { (usd(live.sum.month_usd)) }
                td.n.wide { (grouped(live.sum.calls)) }
                td.n.wide { (grouped(live.sum.failures)) }
                td.wide { (bars(&live.minutes_usd)) }
                td.t.wide { @match &row.last_used { Some(time) => (self.when(time)), None => span.soft { "before start" } } }
            }
        }
    }

    pub(super) fn outcomes(&self) -> Markup {
        let wanted = self.filter.outcome.as_deref();
        let rows = self
            .overview
            .live
            .outcomes
            .iter()
            .filter(|row| wanted.is_none_or(|wanted| row.outcome == wanted || wanted == "failed" && row.failure));
        let rows: Vec<_> = rows.collect();
        html! {
            section #outcomes data-part aria-labelledby="outcomes-title" {
                h2 #outcomes-title { "Outcomes" @if self.filter.key.is_some() { span.note { "of all keys" } } }
                @if rows.is_empty() { p.soft { "None yet." } } @else {
                    div.scroll tabindex="0" role="region" aria-label="Table of outcomes" { table {
                        thead { tr { th scope="col" { "Outcome" } th scope="col" { "To fix" } th.n.wide scope="col" { "Last hour" } th.n scope="col" { "Calls" } } }
                        tbody { @for row in rows { tr {
                            th.mono.nb scope="row" { a href=(link(self.filter.key.as_deref(), Some(&row.outcome))) { (row.outcome) } }
                            td { @if row.failure { (row.fault) @if let Some(fix) = &row.fix { br; span.soft { (fix) } } } @else { span.ok { "✓" } } }
                            td.n.wide { (grouped(row.last_hour.into())) }
                            td.n { (grouped(row.calls)) }
                        } } }
                    } }
                }
            }
        }
    }

    pub(super) fn findings(&self) -> Markup {
        let rows = &self.overview.live.findings;
        html! {
            section #findings data-part aria-labelledby="findings-title" {
                h2 #findings-title { "Findings" span.note { "what can be said of keys, whatever the provider answers" } }
                @if rows.is_empty() { p.ok { "✓ None" } } @else {
                    div.scroll tabindex="0" role="region" aria-label="Table of findings" { table {
                        thead { tr { th scope="col" { "Finding" } th scope="col" { "Last seen on" } th.n scope="col" { "Calls" } } }
                        tbody { @for row in rows { tr {
                            th.mono scope="row" { (row.finding) @if let Some(fix) = &row.fix { br; span.soft { (fix) } } }
                            td { a.mono href=(link(Some(&row.last_key), None)) { (row.last_key) } br; span.soft { (row.last_provider) ", " (self.when(&row.last_time)) } }
                            td.n { (grouped(row.calls)) }
                        } } }
                    } }
                }
            }
        }
    }

    pub(super) fn calls(&self) -> Markup {
        let calls = &self.overview.live.calls;
        html! {
            section #calls data-part aria-labelledby="calls-title" {
                h2 #calls-title { "Last calls" @if !self.filter.is_empty() { span.note { "that fit the filter" } } }
                @if calls.is_empty() { p.soft { "None." } } @else {
                    div.scroll tabindex="0" role="region" aria-label="Table of last calls" { table {
                        thead { tr {
                            th scope="col" { "Began" } th scope="col" { "Key" } th.wide scope="col" { "Provider" } th scope="col" { "Model" } th scope="col" { "Outcome" }
                            th.n.wide scope="col" { "In" } th.n.wide scope="col" { "Out" } th.n scope="col" { "Cost" } th.n.wide scope="col" { "First" } th.n.wide scope="col" { "Took" }
                        } }
                        tbody { @for call in calls.iter().take(SHOWN_CALLS) { (self.call_row(call)) } }
                    } }
                    (rest(calls.len(), SHOWN_CALLS))
                }
            }
        }
    }

    fn call_row(&self, call: &CallRow) -> Markup {
        let tokens = |count: Option<u64>| {
            html! {
                @match count { Some(count) => (short(count)), None => span.soft { "–" } }
                @if count.is_some() && call.usage_source == "estimated" { span.soft title="estimated" { " est." } }
            }
        };
        html! {
            tr {
                td.t { time datetime=(call.time) title=(call.call_id) { (clock(&call.time)) } }
                td.mono { a href=(link(Some(&call.key), None)) { (call.key) } }
                td.wide { (call.provider) }
                td.mono { @match &call.model { Some(model) => (model), None => span.soft { (call.operation) } } }
                td { span.mono.nb.bad[call.failure].ok[call.outcome == "ok"] { (call.outcome) }
                    @if let Some(status) = call.status.filter(|_| call.failure) { span.soft { " " (status) } }
                    @if let Some(error) = &call.error { br; span.mono.soft { (error) } } }
                td.n.wide { (tokens(call.input_tokens)) }
                td.n.wide { (tokens(call.output_tokens)) }
                td.n { @match (call.cost_usd, &call.unpriced_reason) {
                    (Some(cost), _) => (usd(cost)),
                    (None, Some(reason)) => span.soft title=(reason) { "–" },
                    (None, None) => span.soft { "–" },
                } }
                td.n.wide { @match call.first_output_seconds { Some(seconds) => (duration(seconds)), None => span.soft { "–" } } }
                td.n.wide { (duration(call.duration_seconds)) }
            }
        }
    }

    pub(super) fn models(&self) -> Markup {
        let rows = &self.overview.live.models;
        html! {
            section #models data-part aria-labelledby="models-title" {
                h2 #models-title { "Models" span.note { "since start" } }
                @if rows.is_empty() { p.soft { "None yet." } } @else {
                    div.scroll tabindex="0" role="region" aria-label="Table of models" { table {
                        thead { tr { th scope="col" { "Model" } th.n scope="col" { "Calls" } th.n.wide scope="col" { "Failed" } th.n.wide scope="col" { "In" } th.n.wide scope="col" { "Out" } th.n scope="col" { "Spend" } } }
                        tbody { @for row in rows.iter().take(SHOWN_ROWS) { tr {
                            th.mono scope="row" { (row.model) br; span.soft { (row.provider) } }
                            (sum_cells(&row.sum))
                        } } }
                    } }
                    (rest(rows.len(), SHOWN_ROWS))
                }
            }
        }
    }

    pub(super) fn clients(&self) -> Markup {
        let rows = &self.overview.live.clients;
        html! {
            section #clients data-part aria-labelledby="clients-title" {
                h2 #clients-title { "Clients" span.note { "since start" } }
                @if rows.is_empty() { p.soft { "None yet." } } @else {
                    div.scroll tabindex="0" role="region" aria-label="Table of clients" { table {
                        thead { tr { th scope="col" { "Client" } th.n scope="col" { "Calls" } th.n.wide scope="col" { "Failed" } th.n.wide scope="col" { "In" } th.n.wide scope="col" { "Out" } th.n scope="col" { "Spend" } } }
                        tbody { @for row in rows.iter().take(SHOWN_ROWS) { tr {
                            th.mono scope="row" { (row.client) }
                            (sum_cells(&row.sum))
                        } } }
                    } }
                    (rest(rows.len(), SHOWN_ROWS))
                }
            }
        }
    }
}

fn sum_cells(sum: &SumRow) -> Markup {
    html! {
        td.n { (grouped(sum.calls)) }
        td.n.wide { (grouped(sum.failures)) }
        td.n.wide { (short(sum.input_tokens)) }
        td.n.wide { (short(sum.output_tokens)) }
        td.n { (usd(sum.spend_usd)) @if sum.unpriced_calls > 0 { br; span.soft { (grouped(sum.unpriced_calls)) " unpriced" } } }
    }
}

fn rest(count: usize, shown: usize) -> Markup {
    html! { @if count > shown { p.note { (count - shown) " more in " a href="/status/live" { "/status/live" } } } }
}

/// Hours, minutes and seconds of an RFC 3339 time.
fn clock(time: &str) -> &str {
    time.get(11..19).unwrap_or(time)
}

fn bars(usd: &[f64]) -> Markup {
    let most = usd.iter().copied().fold(0.0, f64::max);
    html! {
        @if !usd.is_empty() {
            svg viewBox={ "0 0 " (usd.len() * 10) " 18" } preserveAspectRatio="none" role="img" aria-label={ "at most " (usd_f64(most)) " a minute" } {
                @for (at, usd) in usd.iter().enumerate() { (bar(at, *usd, most, 18.0)) }
            }
        }
    }
}
