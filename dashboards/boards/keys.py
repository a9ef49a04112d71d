"""Key health: what is wrong with which key, and what to do."""

from grafana_foundation_sdk.models import units

from . import texts
from .kit import (
    BY_KEY, K, KM, RANGE, RATE, TRACES_OF_KEY, Board, Column, board_link, cell, data_sources, explore_traces, key_up, label,
    link, mapping, number, owner, query, ratio, rows, series, share, steps,
)

UP = key_up(K)
KEY_LINKS = [
    link("Traces of this key's failures", explore_traces(
        f'span.keytally.key = "{cell("Key")}" && span.keytally.outcome != "ok"')),
    board_link("keytally-keys", "Only this key", f"&var-key={cell('Key')}"),
    board_link("keytally-spend", "This key's spend", f"&var-key={cell('Key')}"),
]


def _fixes():
    return [
        number(
            1, "keys/accepted", "Accepted",
            "Keys whose last definite answer accepted them.",
            [query(f"count({UP} == 1) or vector(0)", "accepted")], width=3, height=4, thresholds=steps("green"),
        ),
        number(
            2, "keys/rejected", "Rejected",
            "Keys whose last definite answer refused the key itself. First fix: replace the key, restart what still holds "
            "the old one.",
            [query(f"count({UP} == 0) or vector(0)", "rejected")], width=3, height=4, thresholds=steps("green", (1, "red")),
        ),
        number(
            3, "keys/limited", "At a limit",
            "Keys with rate-limited calls in the last 10 minutes. First fix: the outcome names the dimension: fewer calls or "
            "fewer tokens a minute.",
            [query(
                f'count(sum by (key, provider) (key_outcome:keytally_requests:increase10m{{{K}, '
                'outcome=~"rate_limit_.+"}) > 0) or vector(0)', "limited")],
            width=3, height=4, thresholds=steps("green", (1, "orange")),
        ),
        number(
            4, "keys/no-money", "Without money",
            "Keys refused in the last 10 minutes because credit is used up or a cap is reached. First fix: add credit or raise "
            "the cap; retrying never helps.",
            [query(
                f'count(sum by (key, provider) (key_outcome:keytally_requests:increase10m{{{K}, '
                'outcome=~"credit_exhausted|spend_limit_reached"}) > 0) or vector(0)', "no money")],
            width=3, height=4, thresholds=steps("green", (1, "red")),
        ),
        number(
            5, "keys/mishandled", "Handled wrongly",
            "Keys with a finding in the last hour: white space around it, in the address, an old one still in use, … First "
            "fix: the table of findings below.",
            [query(
                f"count(sum by (key, provider) (increase(keytally_key_findings_total{{{K}}}[1h])) > 0) or vector(0)",
                "with a finding")],
            width=4, height=4, thresholds=steps("green", (1, "orange")),
        ),
        number(
            6, "keys/unnamed", "Without a name",
            "Keys that are in use and not in the configuration: nobody knows whose they are. First fix: name them under "
            "keys:, or find who made them.",
            [query(f'count(max by (key, provider) (keytally_key_info{{{K}, named="false"}})) or vector(0)', "unnamed")],
            width=4, height=4, thresholds=steps("green", (1, "orange")),
        ),
        number(
            7, "keys/idle", "Idle for a week",
            "Keys that were used within two weeks, but not in the last 7 days. First fix: revoke what nobody needs.",
            [query(
                "count(time() - max by (key, provider) (max_over_time(keytally_key_last_used_timestamp_seconds"
                f"{{{K}}}[14d])) > 7 * 86400) or vector(0)", "idle")],
            width=4, height=4, thresholds=steps("green", (1, "blue")),
        ),
        rows(
            8, "keys/first-fix", "What is wrong with which key, and what to do first",
            "Failed calls in the chosen range by key, model and outcome, most calls first. The fix is the outcome's general "
            "one; trace and status page have the one for the very call.",
            [query(
                f'label_replace(sum by (key, provider, model, outcome, fault) (increase(keytally_requests_total'
                f'{{{KM}, outcome!="ok"}}{RANGE})) >= 0.5, "fix", "$1", "outcome", "(.+)")',
                instant=True,
            )],
            [
                Column("key", "Key", 180, links=KEY_LINKS),
                Column("provider", "Provider", 110),
                Column("model", "Model", 190),
                Column("outcome", "Outcome", 170, links=[
                    link("Traces of this key and outcome", explore_traces(
                        f'span.keytally.key = "{cell("Key")}" && span.keytally.outcome = "{cell("Outcome")}"'))]),
                Column("fault", "Whose fault", 150, mappings=texts.faults(), cell="color-text"),
                Column("Value", "Calls", 80, unit="locale", decimals=0),
                Column("fix", "First fix", mappings=texts.outcome_fixes(), wrap=True),
            ],
            height=11, sort=("Calls", True),
            quiet="No failed calls: every call in this range ended well",
        ),
    ]


def _inventory():
    return [
        rows(
            9, "keys/inventory", "Each key: is it accepted, when was it used, when did it last work?",
            "Every key in use with its owner. A key that is used and has not worked for long is broken; one that was never "
            "accepted is the wrong key. A fingerprint is shown only where the key has no name.",
            [
                query(f"{UP} {owner('team, env, account')}", instant=True),
                query(f"1000 * max by (key, provider) (keytally_key_last_used_timestamp_seconds{{{K}}})", instant=True),
                query(f"1000 * max by (key, provider) (keytally_key_last_success_timestamp_seconds{{{K}}})", instant=True),
                query(f"sum by (key, provider) (increase(keytally_requests_total{{{K}}}{RANGE}))", instant=True),
                query(
                    share(
                        f'sum by (key, provider) (increase(keytally_requests_total{{{K}, outcome!="ok"}}{RANGE}))',
                        f"sum by (key, provider) (increase(keytally_requests_total{{{K}}}{RANGE}))",
                    ),
                    instant=True,
                ),
            ],
            [
                Column("key", "Key", links=KEY_LINKS),
                Column("provider", "Provider", 120),
                Column("team", "Team", 120),
                Column("env", "Environment", 120),
                Column("account", "Account", 120),
                Column("Value #A", "State", 110, cell="color-background", mappings=[
                    mapping({"1": "accepted", "0": "rejected"}, {"1": "semi-dark-green", "0": "red"})]),
                Column("Value #B", "Last used", 170, unit="dateTimeFromNow"),
                Column("Value #C", "Last worked", 170, unit="dateTimeFromNow"),
                Column("Value #D", "Calls", 100, unit="locale", decimals=0),
                Column("Value #E", "Failed", 110, unit="percentunit", decimals=1, cell="color-text",
                       thresholds=steps("green", (0.02, "orange"), (0.1, "red"))),
            ],
            height=11, sort=("Failed", True),
        ),
    ]


def _since():
    return [
        series(
            10, "keys/outcomes", "Failed calls by outcome",
            "Failed calls per second by outcome. A dot is one failed call: it opens its trace. First fix: the table above.",
            [query(
                f'sum by (outcome) (rate(keytally_requests_total{{{KM}, outcome!="ok"}}{RATE}))', "{{outcome}}",
                exemplar=True)],
            width=12, height=9, unit=units.RequestsPerSecond, stack=True, legend="right", calcs=("lastNotNull", "max"),
            links=[link("Traces of this outcome", explore_traces(f'span.keytally.outcome = "{label("outcome")}"'))],
            quiet="No failed calls: every call in this range ended well",
        ),
        series(
            11, "keys/failing", "Share of each key's calls that fail",
            "Failed calls of all calls, by key. One key at 100 % while others are fine is the key, not the provider. First "
            "fix: choose the key above and read its first fix.",
            [query(
                ratio(
                    f'sum by (key) (rate(keytally_requests_total{{{KM}, outcome!="ok"}}{RATE}))',
                    f"sum by (key) (rate(keytally_requests_total{{{KM}}}{RATE}))",
                ),
                "{{key}}",
            )],
            width=12, height=9, unit=units.PercentUnit, maximum=1, legend="right", calcs=("lastNotNull", "max"), fill=0,
            links=[TRACES_OF_KEY, board_link("keytally-keys", "Only this key", f"&var-key={label('key')}")],
            quiet="No failed calls: every call in this range ended well",
        ),
    ]


def _findings():
    return [
        rows(
            12, "keys/findings", "What can be said of a key itself, and what to do",
            "Calls in the chosen range on which a finding held, by key. Findings never change or block a call.",
            [query(
                f"label_replace(sum by (key, provider, finding) (increase(keytally_key_findings_total{{{K}}}{RANGE})) "
                '>= 0.5, "fix", "$1", "finding", "(.+)")', instant=True)],
            [
                Column("key", "Key", 180, links=[
                    link("Traces with this finding", explore_traces(
                        f'span.keytally.key = "{cell("Key")}" && span.keytally.findings = "{cell("Finding")}"'))]),
                Column("provider", "Provider", 95),
                Column("finding", "Finding", 170),
                Column("Value", "Calls", 70, unit="locale", decimals=0),
                Column("fix", "First fix", mappings=texts.finding_fixes(), wrap=True),
            ],
            height=7, sort=("Calls", True),
            quiet="No findings: every key is sent as it should be",
        ),
        series(
            13, "keys/findings-over-time", "Since when? Calls with a finding",
            "Calls per second with a finding. First fix: the table above.",
            [query(f"sum by (finding) (rate(keytally_key_findings_total{{{K}}}{RATE}))", "{{finding}}")],
            width=24, height=6, unit=units.RequestsPerSecond, stack=True,
            quiet="No findings: every key is sent as it should be",
        ),
    ]


def _limits():
    return [
        series(
            14, "keys/headroom", "How much of each limit is left",
            "Lowest remaining share of the limit within a minute, by account, as the provider states it. Below 10 % calls "
            "will soon be refused. Limits belong to accounts, not keys: several keys share one. First fix: spread the load, "
            "ask for a higher tier before it bites.",
            [query(
                "min by (provider, account, resource) (keytally_ratelimit_headroom_ratio{provider=~\"$provider\"})",
                "{{provider}} · {{account}} · {{resource}}")],
            width=12, height=9, unit=units.PercentUnit, maximum=1, legend="right", calcs=("lastNotNull", "min"), fill=0,
            thresholds=steps("red", (0.1, "green")), line_thresholds=True, gaps=True,
            quiet="No limit is known: the providers in use state none in their answers",
        ),
        series(
            15, "keys/limited-calls", "Calls that a limit refused",
            "Rate-limited calls per second by key and dimension. Refused with much headroom left means bursts: limits are "
            "enforced by the second. First fix: the outcome names the dimension: fewer calls or fewer tokens a minute.",
            [query(
                f'sum by (key, outcome) (rate(keytally_requests_total{{{KM}, outcome=~"rate_limit_.+"}}{RATE}))',
                "{{key}} · {{outcome}}", exemplar=True)],
            width=12, height=9, unit=units.RequestsPerSecond, stack=True, legend="right", calcs=("lastNotNull", "max"),
            links=[TRACES_OF_KEY],
            quiet="No call was refused by a limit: nothing to slow down",
        ),
        rows(
            16, "keys/limits", "Which limits do the providers state?",
            "The limits of the last answers, their remaining part and the lowest share of the last minute. They vanish five "
            "minutes after the reset that they speak of.",
            [
                query('max by (provider, account, model, resource) (keytally_ratelimit_limit{provider=~"$provider"})',
                      instant=True),
                query('min by (provider, account, model, resource) (keytally_ratelimit_remaining{provider=~"$provider"})',
                      instant=True),
                query('min by (provider, account, model, resource) (keytally_ratelimit_headroom_ratio'
                      '{provider=~"$provider"})', instant=True),
            ],
            [
                Column("provider", "Provider", 130),
                Column("account", "Account", 130),
                Column("model", "Model"),
                Column("resource", "Limit of", 170, mappings=[mapping({
                    "requests": "calls", "requests_second": "calls a second", "requests_day": "calls a day",
                    "tokens_day": "tokens a day", "tokens_month": "tokens a month", "input_tokens": "input tokens",
                    "output_tokens": "output tokens"})]),
                Column("Value #A", "Limit", 130, unit="short"),
                Column("Value #B", "Remaining", 130, unit="short"),
                Column("Value #C", "Lowest share of a minute", 330, unit="percentunit", decimals=0, cell="gauge", maximum=1,
                       thresholds=steps("red", (0.1, "orange"), (0.3, "green"))),
            ],
            width=24, height=7, sort=("Lowest share of a minute", False),
            quiet="No limit is known: the providers in use state none in their answers",
        ),
    ]


def _where():
    return [
        rows(
            17, "keys/sidecars", "Through which sidecars does each key go?",
            "Where a key was used last: what you break by revoking it, and where an old key still lives. The links open "
            "the status page of that sidecar (its admin port must be reachable from your browser).",
            [
                query(
                    f"sum by (key, provider, instance) (increase(keytally_requests_total{{{K}}}{RANGE})) > 0", instant=True),
                query(
                    "1000 * max by (key, provider, instance) (keytally_key_last_used_timestamp_seconds"
                    f"{{{K}}})", instant=True),
            ],
            [
                Column("key", "Key", links=KEY_LINKS),
                Column("provider", "Provider", 110),
                Column("instance", "Sidecar", 190, links=[
                    link("Failed calls of this key on the sidecar's status page",
                         f"http://{cell('Sidecar')}/?key={cell('Key')}&outcome=failed"),
                    link("Status page of this sidecar", f"http://{cell('Sidecar')}/")]),
                Column("Value #A", "Calls", 80, unit="locale", decimals=0),
                Column("Value #B", "Last used", 150, unit="dateTimeFromNow"),
            ],
            width=12, height=9, sort=("Calls", True),
        ),
        rows(
            18, "keys/clients", "Which applications hold each key?",
            "The process that made the calls, where the sidecar can tell. First fix for an old key: restart the applications named "
            "here, then revoke it. One key in many applications: give each its own.",
            [query(
                "1000 * max by (key, provider, client, instance) (keytally_key_client_last_used_timestamp_seconds"
                f"{{{K}}})", instant=True)],
            [
                Column("key", "Key", 170, links=KEY_LINKS),
                Column("client", "Application"),
                Column("instance", "Sidecar", 190, links=[
                    link("Calls of this key on the sidecar's status page", f"http://{cell('Sidecar')}/?key={cell('Key')}")]),
                Column("Value", "Last used", 150, unit="dateTimeFromNow"),
            ],
            width=12, height=9, sort=("Last used", True),
            quiet="No application is known: callers are told apart on Linux, on the sidecar's own machine",
        ),
    ]


def board():
    """The board."""
    return Board(
        "keytally-keys",
        "keytally / Key health",
        "What is wrong with which key, since when, and what to do first.",
        data_sources() + BY_KEY,
        [
            (101, "Which key fails, why, and what is the first fix?", _fixes()),
            (102, "Is each key accepted, and when did it last work?", _inventory()),
            (103, "When did it start?", _since()),
            (104, "Is a key kept or sent the wrong way?", _findings()),
            (105, "Do we run into a provider's limits?", _limits()),
            (106, "Where is each key in use?", _where()),
        ],
    )
