"""Overview: is anything wrong, whose fault is it, who uses how much, are the providers well."""

from grafana_foundation_sdk.models import units

from . import texts
from .kit import (
    BY_KEY, K, KM, PM, RANGE, RATE, Board, Column, board_link, by_team, cell, data_sources, explore_traces, key_up, label,
    link, mapping, number, owner, prop, query, rows, series, share, steps,
)

FIRING = 'alertname=~"Keytally.*", alertstate="firing"'


def _alerts(severity):
    return query(f'count(ALERTS{{{FIRING}, severity="{severity}"}}) or vector(0)', severity)


def _now():
    return [
        number(
            1, "overview/alerts", "Alerts that fire",
            "Alerts of keytally's rules that fire now, whatever the filters above say. Critical wakes someone; the table "
            "below names each with its runbook entry. First fix: open the runbook entry of the most severe one.",
            [_alerts("critical"), _alerts("warning")],
            width=4, names={"critical": "critical", "warning": "warning"},
            overrides=[
                ("critical", [prop("thresholds", steps("green", (1, "red")).build())]),
                ("warning", [prop("thresholds", steps("green", (1, "orange")).build())]),
            ],
        ),
        number(
            2, "overview/success", "Calls that succeed",
            "Share of calls with outcome ok over the last 5 minutes, by the end of the call: an error inside a 200 stream "
            "is a failure. First fix: read the table of failures below, most calls first.",
            [query(
                share(
                    f'sum(rate(keytally_requests_total{{{KM}, outcome="ok"}}[5m]))',
                    f"sum(rate(keytally_requests_total{{{KM}}}[5m]))",
                ),
                "calls that succeed",
            )],
            unit=units.PercentUnit, decimals=1, graph=True,
            thresholds=steps("red", (0.9, "orange"), (0.98, "green")),
            quiet="No calls: nothing has passed in the last 5 minutes",
        ),
        number(
            3, "overview/calls", "Calls now",
            "Calls per second over the last 5 minutes.",
            [query(f"sum(rate(keytally_requests_total{{{KM}}}[5m]))", "calls")],
            unit=units.RequestsPerSecond, graph=True,
        ),
        number(
            4, "overview/spend", "Spent in the last hour",
            "List price of the calls of the last hour, and what is expected for this hour of the day from the last 7 days "
            "(needs 3 days of history). First fix when the first is far above the second: open Spend and anomalies.",
            [
                query(f"sum(key:keytally_spend_usd:increase1h{{{K}}})", "spent"),
                query(f"sum(key:keytally_spend_usd:expected1h{{{K}}})", "expected"),
            ],
            width=5, unit=units.Dollars, decimals=2,
            links=[board_link("keytally-spend", "Spend and anomalies", "&${key:queryparam}")],
        ),
        number(
            5, "overview/rejected", "Keys rejected",
            "Keys whose last definite answer was a refusal of the key itself. Limits, missing money and outages do not "
            "count. First fix: open Key health, which says what to do for each.",
            [query(f"count({key_up(K)} == 0) or vector(0)", "rejected")],
            width=3, thresholds=steps("green", (1, "red")),
            links=[board_link("keytally-keys", "Key health", "&${key:queryparam}")],
        ),
        number(
            6, "overview/sidecars", "Sidecars",
            "Sidecars that Prometheus reaches, and those that it reached within the last hour and does not reach now. "
            "First fix for one that is down: read its container's log; is the admin port reachable?",
            [
                query("count(keytally_build_info) or vector(0)", "up"),
                query(
                    "count(up == 0 and on (job, instance) max_over_time(keytally_build_info[1h])) or vector(0)", "down"
                ),
            ],
            links=[board_link("keytally-sidecar", "The sidecar itself")],
            overrides=[("down", [prop("thresholds", steps("green", (1, "red")).build())])],
        ),
        rows(
            7, "overview/firing", "Which alerts fire, and where is their first fix?",
            "Every alert of keytally's rules that fires now, whatever the filters above say. The last column opens the "
            "runbook: what it means, how to see it, the first fix, how to silence it rightly.",
            [query(
                _ranked(
                    'label_replace(ALERTS_FOR_STATE{alertname=~"Keytally.*"} * 1000 and ignoring (alertstate) '
                    f'ALERTS{{{FIRING}}}, "runbook", "$1", "alertname", "(.+)")'
                ),
                instant=True,
            )],
            [
                Column("rank", "Severity", 95, cell="color-background", mappings=[_severities()]),
                Column("alertname", "Alert", 250),
                Column("key", "Key", 180, links=[board_link(
                    "keytally-keys", "This key in Key health", f"&var-key={cell('Key')}")]),
                Column("provider", "Provider", 110),
                Column("model", "Model", 170),
                Column("outcome", "Outcome", 150),
                Column("finding", "Finding", 160),
                Column("Value", "Since", 140, unit="dateTimeFromNow"),
                Column("runbook", "Runbook", mappings=texts.alert_anchors(), links=[
                    link("Runbook entry", "${runbook}#${__value.text}")]),
            ],
            height=9, sort=("Severity", False),
            quiet="No alert fires: nothing is wrong by the rules, or the rules are not loaded in this data source",
        ),
    ]


def _ranked(alerts):
    """Severity as a number in a label, so that a table can sort by it."""
    for rank, severity in enumerate(("critical", "warning", "info"), 1):
        alerts = f'label_replace({alerts}, "rank", "{rank}", "severity", "{severity}")'
    return alerts


def _severities():
    return mapping(
        {"1": "critical", "2": "warning", "3": "info"}, {"1": "red", "2": "orange", "3": "blue"},
    )


def _faults():
    return [
        series(
            8, "overview/faults", "Failed calls, by whose fault it is",
            "Failed calls per second by fault. Key, configuration, traffic and money are ours to fix; provider is not. A "
            "dot is one failed call: it opens its trace. First fix: the table beside, or for blue the provider's status page.",
            [query(
                f'sum by (fault) (rate(keytally_requests_total{{{KM}, fault!="none"}}{RATE}))', "{{fault}}",
                exemplar=True,
            )],
            width=8, unit=units.RequestsPerSecond, stack=True,
            names=texts.FAULTS, colors=texts.FAULT_COLORS, legend="bottom",
            links=[link("Traces of these failures", explore_traces(
                f'span.keytally.fault = "{label("fault")}" && span.keytally.outcome != "ok"'))],
            quiet="No failed calls: every call in this range ended well",
        ),
        rows(
            9, "overview/failures", "Why calls fail, and what to do first",
            "Failed calls in the chosen range by outcome, most calls first. The fix is the outcome's general one; the "
            "trace and the status page of the sidecar have the one for the very call.",
            [query(
                f'label_replace(sum by (outcome, fault) (increase(keytally_requests_total{{{KM}, outcome!="ok"}}{RANGE})), '
                '"fix", "$1", "outcome", "(.+)") >= 0.5',
                instant=True,
            )],
            [
                Column("outcome", "Outcome", 170, links=[
                    link("Traces of this outcome", explore_traces(f'span.keytally.outcome = "{cell("Outcome")}"'))]),
                Column("fault", "Whose fault", 150, mappings=texts.faults(), cell="color-text"),
                Column("Value", "Calls", 80, unit="locale", decimals=0),
                Column("fix", "First fix", mappings=texts.outcome_fixes(), wrap=True),
            ],
            width=16, height=8, sort=("Calls", True),
            quiet="No failed calls: every call in this range ended well",
        ),
    ]


def _usage():
    spend = f"sum by (key, provider) (rate(keytally_spend_usd_total{{{KM}}}{RATE})) * 3600"
    return [
        series(
            10, "overview/calls-by-provider", "Calls by provider",
            "Calls per second by provider, failed ones included.",
            [query(f"sum by (provider) (rate(keytally_requests_total{{{KM}}}{RATE}))", "{{provider}}")],
            width=8, unit=units.RequestsPerSecond, stack=True,
        ),
        series(
            11, "overview/spend-by-team", "Spend by team, per hour",
            "Dollars per hour at list price, by the team that owns the key. First fix for `no team`: name the key and its "
            "team under keys: in the configuration.",
            [query(by_team(spend), "{{team}}")],
            width=8, unit=units.Dollars, stack=True,
        ),
        series(
            12, "overview/tokens", "Tokens by direction, per second",
            "Tokens per second. Every token is in exactly one type; cached input is the cheap part. First fix for falling "
            "cache reads: look whether the start of the prompt changed.",
            [
                query(f'sum(rate(keytally_tokens_total{{{KM}, type=~"input_.*", type!="input_cache_read"}}{RATE}))', "input"),
                query(f'sum(rate(keytally_tokens_total{{{KM}, type="input_cache_read"}}{RATE}))', "input from cache"),
                query(f'sum(rate(keytally_tokens_total{{{KM}, type=~"output_.*"}}{RATE}))', "output"),
            ],
            width=8, unit=units.Short, stack=True,
        ),
        rows(
            13, "overview/keys", "Which keys cost most?",
            "Calls, share that succeeded, tokens and spend of each key in the chosen range. A key without a name shows its "
            "fingerprint: name it under keys: in the configuration.",
            [
                query(
                    f"sum by (key, provider) (increase(keytally_requests_total{{{KM}}}{RANGE})) {owner('team, env')}",
                    instant=True,
                ),
                query(
                    share(
                        f'sum by (key, provider) (increase(keytally_requests_total{{{KM}, outcome="ok"}}{RANGE}))',
                        f"sum by (key, provider) (increase(keytally_requests_total{{{KM}}}{RANGE}))",
                    ),
                    instant=True,
                ),
                query(f"sum by (key, provider) (increase(keytally_tokens_total{{{KM}}}{RANGE}))", instant=True),
                query(f"sum by (key, provider) (increase(keytally_spend_usd_total{{{KM}}}{RANGE}))", instant=True),
            ],
            [
                Column("key", "Key", links=[
                    board_link("keytally-keys", "This key in Key health", f"&var-key={cell('Key')}"),
                    board_link("keytally-spend", "This key in Spend", f"&var-key={cell('Key')}"),
                    link("Traces of this key", explore_traces(f'span.keytally.key = "{cell("Key")}"')),
                ]),
                Column("provider", "Provider", 130),
                Column("team", "Team", 130),
                Column("env", "Environment", 120),
                Column("Value #A", "Calls", 120, unit="locale", decimals=0),
                Column("Value #B", "Succeeded", 150, unit="percentunit", decimals=1, cell="color-text",
                       thresholds=steps("red", (0.9, "orange"), (0.98, "green"))),
                Column("Value #C", "Tokens", 130, unit="short"),
                Column("Value #D", "Spend", 330, unit="currencyUSD", decimals=2, cell="gauge", thresholds=steps("blue")),
            ],
            height=9, sort=("Spend", True),
        ),
    ]


def _providers():
    fault = "provider:keytally_provider_fault:ratio_rate5m"
    return [
        rows(
            14, "overview/providers", "Is a provider down, or slow?",
            "Calls of the last 5 minutes by provider. A high provider-fault share on many keys is an outage: nothing to "
            "fix on our side; fall back to another model or region. Network-fault at two providers at once is our egress.",
            [
                query('sum by (provider) (rate(keytally_requests_total{provider=~"$provider"}[5m]))', instant=True),
                query(f'max by (provider) ({fault}{{provider=~"$provider"}})', instant=True),
                query('max by (provider) (provider:keytally_network_fault:ratio_rate5m{provider=~"$provider"})', instant=True),
                query(
                    "histogram_quantile(0.9, sum by (le, provider) (rate("
                    f'keytally_request_duration_seconds_bucket{{{PM}, result="ok"}}[5m]))) >= 0', instant=True,
                ),
                query(
                    "histogram_quantile(0.9, sum by (le, provider) (rate("
                    f"keytally_time_to_first_token_seconds_bucket{{{PM}}}[5m]))) >= 0", instant=True,
                ),
                query('sum by (provider) (keytally_requests_in_flight{provider=~"$provider"})', instant=True),
            ],
            [
                Column("provider", "Provider", links=[
                    board_link("keytally-latency", "This provider in Latency", f"&var-provider={cell('Provider')}")]),
                Column("Value #A", "Calls/s", 130, unit="short", decimals=2),
                Column("Value #B", "Provider's fault", 170, unit="percentunit", decimals=1, cell="color-background",
                       thresholds=steps("transparent", (0.05, "orange"), (0.25, "red"))),
                Column("Value #C", "Network's fault", 170, unit="percentunit", decimals=1, cell="color-background",
                       thresholds=steps("transparent", (0.05, "orange"), (0.5, "red"))),
                Column("Value #D", "Whole answer, 9 of 10 within", 240, unit="s", decimals=2),
                Column("Value #E", "First token, 9 of 10 within", 240, unit="s", decimals=2),
                Column("Value #F", "Open now", 120, unit="short", decimals=0),
            ],
            height=7, sort=("Calls/s", True),
        ),
    ]


def board():
    """The board."""
    return Board(
        "keytally-overview",
        "keytally / Overview",
        "Start here: is anything wrong with the LLM API keys, whose fault is it, what does it cost.",
        data_sources() + BY_KEY,
        [
            (101, "Is anything wrong right now?", _now()),
            (102, "Whose fault is it when calls fail, and what is the first fix?", _faults()),
            (103, "Who uses how much, and what does it cost?", _usage()),
            (104, "Are the providers well?", _providers()),
        ],
    )
