"""Spend and anomalies: does a key spend more than it should, where does the money go, will the budget hold."""

from grafana_foundation_sdk.models import units

from .kit import (
    BY_KEY, K, KM, PM, RANGE, RATE, SPENDER, TRACES_OF_KEY, Board, Column, bars, board_link, by_team, cell, data_sources,
    explore_traces, fixed, label, link, mapping, number, prop, query, ratio, rows, series, steps,
)

SPEND = f"rate(keytally_spend_usd_total{{{KM}}}{RATE})"
MONTH = f'max by (key, provider) (key:keytally_budget_usd:max{{{K}, period="month"}})'
DAY = f'max by (key, provider) (key:keytally_budget_usd:max{{{K}, period="day"}})'


def _rec(name):
    return f"sum by (key, provider) (key:keytally_spend_usd:{name}{{{K}}})"


def _anomalies():
    return [
        series(
            1, "spend/pressure", "Spend of the last hour as a share of what is normal at most",
            "1 is the upper bound of normal for this key at this hour; above it for 10 minutes, KeytallySpendAnomaly fires. "
            "The bound comes from the same hour of the last 7 days; a key gets it after 3 days. First fix above 1: see "
            "below which model grew; if you do not know the caller, rotate the key.",
            [query(f"{_rec('increase1h')} / on (key, provider) {_rec('upper1h')}", "{{key}}")],
            width=13, unit=units.PercentUnit, legend="right", calcs=("lastNotNull", "max"), height=9,
            thresholds=steps("green", (1, "red")), line_thresholds=True, fill=0,
            links=[TRACES_OF_KEY, board_link("keytally-spend", "Only this key", f"&var-key={label('key')}")],
            quiet="No key has a baseline yet: the first comes after 3 days of recorded spend",
        ),
        rows(
            2, "spend/now", "What each key spent in the last hour, and what is normal",
            "Spent, expected and the most that is normal for this hour. `Days` is how many of the last 7 days the "
            "baseline rests on; under 7 the bounds are wider. First fix for red: open the key's traces, dearest first.",
            [
                query(_rec("increase1h"), instant=True),
                query(_rec("expected1h"), instant=True),
                query(_rec("upper1h"), instant=True),
                query(f"{_rec('increase1h')} / on (key, provider) {_rec('upper1h')}", instant=True),
                query(_rec("baseline_days"), instant=True),
            ],
            [
                Column("key", "Key", links=[
                    link("Traces of this key", explore_traces(f'span.keytally.key = "{cell("Key")}"')),
                    board_link("keytally-keys", "This key in Key health", f"&var-key={cell('Key')}")]),
                Column("Value #A", "Spent", 85, unit="currencyUSD", decimals=2),
                Column("Value #B", "Expected", 95, unit="currencyUSD", decimals=2),
                Column("Value #C", "Normal at most", 125, unit="currencyUSD", decimals=2),
                Column("Value #D", "Share", 75, unit="percentunit", decimals=0, cell="color-background",
                       thresholds=steps("transparent", (0.8, "orange"), (1, "red"))),
                Column("Value #E", "Days", 65, unit="short", decimals=0),
            ],
            width=11, height=9, sort=("Spent", True),
        ),
    ]


def _bands():
    return [
        series(
            3, "spend/band", "$spender",
            "Dollars spent in the hour before each moment (line), what is expected (dashed) and the most that is normal (edge "
            "of the band): the largest of ratio, burst, spread and floor of the key. Above the band for 10 minutes, "
            "KeytallySpendAnomaly fires. First fix: open the traces of the key at the moment that it left the band.",
            [
                query('sum by (key) (key:keytally_spend_usd:upper1h{key=~"$spender"})', "normal at most"),
                query('sum by (key) (key:keytally_spend_usd:expected1h{key=~"$spender"})', "expected"),
                query('sum by (key) (key:keytally_spend_usd:increase1h{key=~"$spender"})', "spent"),
            ],
            width=8, height=7, unit=units.Dollars, repeat="spender", fill=0, links=[TRACES_OF_KEY],
            overrides=[
                ("normal at most", [fixed("semi-dark-green"), prop("custom.fillOpacity", 12), prop("custom.lineWidth", 0)]),
                ("expected", [fixed("green"), prop("custom.lineStyle", {"fill": "dash", "dash": [6, 6]})]),
                ("spent", [fixed("blue"), prop("custom.lineWidth", 2)]),
            ],
        ),
    ]


def _where():
    return [
        series(
            4, "spend/by-key", "Spend by key, per hour",
            "Dollars per hour at list price. A dot is the dearest call of its minute: it opens its trace.",
            [query(f"sum by (key) ({SPEND}) * 3600", "{{key}}", exemplar=True)],
            width=12, height=9, unit=units.Dollars, stack=True, legend="right", calcs=("mean", "max"),
            links=[TRACES_OF_KEY, board_link("keytally-spend", "Only this key", f"&var-key={label('key')}")],
        ),
        series(
            5, "spend/by-model", "Spend by model, per hour",
            "Dollars per hour by the model that answered, which is often not the one that was asked for. First fix for a model "
            "that grew: choose its key above and look who calls.",
            [query(f"sum by (model) ({SPEND}) * 3600", "{{model}}")],
            width=12, height=9, unit=units.Dollars, stack=True, legend="right", calcs=("mean", "max"),
        ),
        series(
            6, "spend/by-team", "Spend by team, per hour",
            "Dollars per hour by the team that owns the key. First fix for `no team`: name the key under keys:.",
            [query(by_team(f"sum by (key, provider) ({SPEND}) * 3600"), "{{team}}")],
            width=8, height=9, unit=units.Dollars, stack=True,
        ),
        rows(
            7, "spend/by-key-model", "Which key spends on which model?",
            "Spend, calls and price per thousand calls in the chosen range.",
            [
                query(f"sum by (key, provider, model) (increase(keytally_spend_usd_total{{{KM}}}{RANGE})) > 0", instant=True),
                query(f"sum by (key, provider, model) (increase(keytally_requests_total{{{KM}}}{RANGE})) > 0", instant=True),
                query(
                    f"1000 * sum by (key, provider, model) (increase(keytally_spend_usd_total{{{KM}}}{RANGE})) "
                    f"/ (sum by (key, provider, model) (increase(keytally_requests_total{{{KM}}}{RANGE})) > 0)",
                    instant=True,
                ),
            ],
            [
                Column("key", "Key", 170, links=[
                    link("Traces of this key and model", explore_traces(f'span.keytally.key = "{cell("Key")}"'))]),
                Column("provider", "Provider", 110),
                Column("model", "Model"),
                Column("Value #A", "Spend", 200, unit="currencyUSD", decimals=2, cell="gauge", thresholds=steps("blue")),
                Column("Value #B", "Calls", 90, unit="locale", decimals=0),
                Column("Value #C", "Per 1000 calls", 125, unit="currencyUSD", decimals=2),
            ],
            width=16, height=9, sort=("Spend", True),
        ),
    ]


def _budgets():
    none = "No budget is configured: set keys[].budget_usd to see it here"
    return [
        bars(
            8, "spend/budget-used", "Budget of the month used so far",
            "Month to date (UTC, lags up to an hour) by the key's monthly budget. First fix at 100 %: agree a new budget or "
            "stop the key at the provider; keytally does not block calls.",
            [query(f'{_rec("month_to_date")} / on (key, provider) {MONTH}', "{{key}}")],
            width=8, thresholds=steps("green", (0.8, "orange"), (1, "red")), quiet=none,
            links=[board_link("keytally-spend", "Only this key", f"&var-key={label('key')}")],
        ),
        rows(
            9, "spend/budgets", "Will the budgets hold?",
            "Budgets, what is spent, and where the month ends at the pace of the last 6 days. First fix for a forecast over "
            "100 %: agree a new budget or cut now, starting with the dearest model above.",
            [
                query(MONTH, instant=True),
                query(f'{_rec("month_to_date")} and on (key, provider) {MONTH}', instant=True),
                query(f'{_rec("forecast_month")} and on (key, provider) {MONTH}', instant=True),
                query(f'{_rec("forecast_month")} / on (key, provider) {MONTH}', instant=True),
                query(DAY, instant=True),
                query(f'{_rec("today")} and on (key, provider) ({MONTH} or {DAY})', instant=True),
            ],
            [
                Column("key", "Key"),
                Column("Value #A", "Month's budget", 125, unit="currencyUSD"),
                Column("Value #B", "Spent so far", 110, unit="currencyUSD", decimals=2),
                Column("Value #C", "Month's end", 110, unit="currencyUSD", decimals=2),
                Column("Value #D", "Of budget", 95, unit="percentunit", decimals=0, cell="color-background",
                       thresholds=steps("transparent", (0.9, "orange"), (1.1, "red"))),
                Column("Value #E", "Day's budget", 110, unit="currencyUSD"),
                Column("Value #F", "Today", 100, unit="currencyUSD", decimals=2),
            ],
            width=16, height=8, sort=("Spent so far", True), quiet=none,
        ),
        series(
            10, "spend/burn", "How many times faster than the month's budget allows",
            "1 spends the budget exactly in a month. 14.4 for an hour or 6 for six hours pages (KeytallyBudgetBurnFast). "
            "First fix: stop the caller or disable the key at the provider, then read the calls by their traces.",
            [query(
                f'{_rec("increase1h")} * 720 / on (key, provider) {MONTH}', "{{key}}")],
            width=24, height=7, decimals=1, thresholds=steps("green", (6, "orange"), (14.4, "red")), line_thresholds=True,
            fill=0, quiet=none, links=[TRACES_OF_KEY],
        ),
    ]


def _trust():
    return [
        series(
            11, "spend/usage-source", "Where the token counts come from",
            "Calls by the grade of their numbers. `estimated` and `none` are not the provider's own. First fix: set "
            "stream_options.include_usage in the application, or usage.inject: true in keytally.",
            [query(f"sum by (usage_source) (rate(keytally_usage_records_total{{{KM}}}{RATE}))", "{{usage_source}}")],
            width=8, unit=units.RequestsPerSecond, stack=True,
            colors={"reported": "green", "injected": "blue", "estimated": "orange", "none": "red"},
            names={"reported": "reported by the provider", "injected": "asked for by keytally", "none": "not known"},
        ),
        series(
            12, "spend/pricing", "Calls by whether a price was known",
            "`unpriced` and `partial` calls add less to spend than they cost. `free` is configured so. First fix: add the "
            "model's price to the configuration or load a newer price book.",
            [query(f"sum by (status) (rate(keytally_pricing_lookups_total{{{PM}}}{RATE}))", "{{status}}")],
            width=8, unit=units.RequestsPerSecond, stack=True,
            colors={"priced": "green", "free": "blue", "partial": "orange", "unpriced": "red"},
        ),
        rows(
            13, "spend/unpriced", "Models without a price",
            "Tokens in the chosen range that added nothing to spend because no price was known: the true cost is higher than "
            "shown. First fix: add the model's price under prices: in the configuration, or update the price book.",
            [query(
                f"sum by (provider, model) (increase(keytally_unpriced_tokens_total{{{PM}}}{RANGE})) > 0", instant=True)],
            [
                Column("provider", "Provider", 100),
                Column("model", "Model"),
                Column("Value", "Unpriced tokens", 150, unit="short"),
            ],
            width=8, height=8, sort=("Unpriced tokens", True),
            quiet="Every model has a price: nothing is missing from spend",
        ),
        number(
            14, "spend/price-book", "Age of the price book",
            "Time since the date of the oldest price book in use. First fix after 90 days: update the image or the price file.",
            [query("time() - min(keytally_price_table_timestamp_seconds)", "age")],
            width=4, height=6, unit=units.Seconds, decimals=0,
            thresholds=steps("green", (60 * 86400, "orange"), (90 * 86400, "red")),
        ),
        rows(
            15, "spend/thresholds", "Which thresholds are in force?",
            "Alert thresholds by key, as the sidecars export them from their configuration: change them there, under "
            "keys[].anomaly, not in the rules.",
            [
                query(f"max by (key, provider) (keytally_key_anomaly_ratio{{{K}}})", instant=True),
                query(f"max by (key, provider) (keytally_key_anomaly_min_usd_per_hour{{{K}}})", instant=True),
                query(f"max by (key, provider) (keytally_key_new_key_usd_per_hour{{{K}}})", instant=True),
                query(f'max by (key, provider) (keytally_budget_usd{{{K}, period="month"}})', instant=True),
            ],
            [
                Column("key", "Key"),
                Column("provider", "Provider", 120),
                Column("Value #A", "Times the expected spend", 190, unit="short", decimals=1),
                Column("Value #B", "At least, per hour", 160, unit="currencyUSD", decimals=2),
                Column("Value #C", "New key, per hour", 160, unit="currencyUSD", decimals=2),
                Column("Value #D", "Budget of the month", 170, unit="currencyUSD"),
            ],
            width=20, height=6, sort=("Key", False),
        ),
    ]


def _tokens():
    kinds = {
        "input_uncached": "input", "input_cache_read": "input, read from cache", "input_cache_write": "input, written to cache",
        "output_text": "output", "output_reasoning": "output, reasoning", "input_audio": "input, audio",
        "output_audio": "output, audio", "input_image": "input, images", "output_image": "output, images",
    }
    return [
        series(
            16, "spend/tokens", "Tokens by type, per second",
            "Every token is in exactly one type. Reasoning is billed as output and never shown to the user. First fix for much "
            "reasoning: lower the effort; for much written and little read cache: the prompt's start changes each time.",
            [query(f"sum by (type) (rate(keytally_tokens_total{{{KM}}}{RATE}))", "{{type}}")],
            width=12, stack=True, names=kinds, legend="right", calcs=("mean", "max"), height=8,
        ),
        series(
            17, "spend/cache", "Share of the input that came from the cache",
            "Input tokens read from the provider's cache, of all input, by model. First fix for a fall: the start of the prompt "
            "changed, or calls are further apart than the cache lives.",
            [query(
                ratio(
                    f'sum by (model) (rate(keytally_tokens_total{{{KM}, type="input_cache_read"}}{RATE}))',
                    f'sum by (model) (rate(keytally_tokens_total{{{KM}, type=~"input_.*"}}{RATE}))',
                ),
                "{{model}}",
            )],
            width=12, unit=units.PercentUnit, maximum=1, legend="right", calcs=("mean", "lastNotNull"), height=8, fill=0,
            quiet="No model reports cached input: the providers in use have none, or prompts are too short for it",
        ),
        series(
            18, "spend/tokens-per-call", "Tokens of one call, mean over an hour",
            "Tokens per successful call by key and model. Three times its week's middle fires KeytallyTokensPerRequestJump. "
            "First fix for a jump: is the history trimmed, was a document pasted whole, did the cache get lost?",
            [query(f"key_model:keytally_tokens_per_request:mean1h{{{KM}}}", "{{key}} · {{model}}")],
            width=14, legend="right", calcs=("lastNotNull", "max"), height=8, fill=0, links=[TRACES_OF_KEY],
        ),
        rows(
            19, "spend/units", "What is billed by something else than tokens?",
            "Images, seconds of audio, characters, pages, searches and calls in the chosen range, by key and model.",
            [query(
                f"sum by (key, model, unit) (increase(keytally_billed_units_total{{{KM}}}{RANGE})) > 0", instant=True)],
            [
                Column("key", "Key", 170),
                Column("model", "Model"),
                Column("unit", "Unit", 140, mappings=[mapping({
                    "image": "images", "audio_second": "seconds of audio", "character": "characters", "page": "pages",
                    "search": "searches", "request": "calls"})]),
                Column("Value", "Count", 100, unit="locale", decimals=0),
            ],
            width=10, height=8, sort=("Count", True),
            quiet="Nothing but tokens was billed: no images, audio, pages or searches in this range",
        ),
    ]


def board():
    """The board."""
    return Board(
        "keytally-spend",
        "keytally / Spend and anomalies",
        "What each key, model and team costs, whether that is normal, whether the budgets hold, and how far to trust it.",
        data_sources() + BY_KEY + [SPENDER],
        [
            (101, "Does a key spend more than is normal for it?", _anomalies()),
            (102, "What is normal for each key, and when did it leave that?", _bands()),
            (103, "Where does the money go?", _where()),
            (104, "Will the budgets hold?", _budgets()),
            (105, "Can these numbers be trusted?", _trust()),
            (106, "What are the tokens spent on?", _tokens()),
        ],
    )
