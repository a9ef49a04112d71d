"""Latency and streaming: are the answers slow, do streams start fast and end whole, is it the provider or our calls."""

from grafana_foundation_sdk.models import units

from .kit import (
    MODEL, PM, PROVIDER, RATE, TRACES_OF_MODEL, Board, Column, cell, data_sources, explore_traces, link,
    query, quantile, ratio, rows, series, steps,
)

P = 'provider=~"$provider"'
WEEK = "[7d] offset 6h"


def _typical(recorded):
    return f"quantile_over_time(0.5, {recorded}{{{PM}}}{WEEK})"


def _regression(name):
    recorded = f"model:keytally_{name}_seconds:p90_30m"
    return f"max by (provider, model) ({recorded}{{{PM}}}) / max by (provider, model) ({_typical(recorded)})"


def _slow():
    ok = f'{PM}, result="ok"'
    family = "keytally_request_duration_seconds"
    return [
        series(
            1, "latency/duration", "Whole answer: half, 9 of 10 and 99 of 100 are done within",
            "From the request to the last byte, successful calls of the chosen models together. A dot is one call: it opens "
            "its trace. First fix for a rise: see by model beside; long answers are slow answers.",
            [
                query(quantile(0.5, family, ok, ""), "half"),
                query(quantile(0.9, family, ok, ""), "9 of 10", exemplar=True),
                query(quantile(0.99, family, ok, ""), "99 of 100"),
            ],
            width=12, height=9, unit=units.Seconds, fill=0,
            colors={"half": "green", "9 of 10": "yellow", "99 of 100": "orange"},
        ),
        series(
            2, "latency/duration-by-model", "Whole answer, 9 of 10 done within, by model",
            "From the request to the last byte, successful calls. First fix for one model that rises: another model or region, "
            "a smaller max_tokens, less reasoning effort.",
            [query(quantile(0.9, family, ok, "model"), "{{model}}", exemplar=True)],
            width=12, height=9, unit=units.Seconds, fill=0, legend="right", calcs=("lastNotNull", "max"),
            links=[TRACES_OF_MODEL],
        ),
        rows(
            3, "latency/regressions", "Which model is slower than its week?",
            "9 of 10 within, over the last 30 minutes with at least 50 calls, and how many times the middle of the last 7 days "
            "that is. 1.5 and more for 20 minutes fires an alert. First fix: compare models and regions; long prompts? cache "
            "lost?",
            [
                query(f"max by (provider, model) (model:keytally_request_duration_seconds:p90_30m{{{PM}}})", instant=True),
                query(_regression("request_duration"), instant=True),
                query(f"max by (provider, model) (model:keytally_time_to_first_token_seconds:p90_30m{{{PM}}})", instant=True),
                query(_regression("time_to_first_token"), instant=True),
                query(f"max by (provider, model) (model:keytally_time_per_output_token_seconds:p90_30m{{{PM}}})", instant=True),
                query(_regression("time_per_output_token"), instant=True),
            ],
            [
                Column("model", "Model", links=[
                    link("Traces of this model", explore_traces(
                        f'span.gen_ai.response.model =~ ".*{cell("Model")}.*"'))]),
                Column("provider", "Provider", 120),
                Column("Value #A", "Whole answer", 130, unit="s", decimals=2),
                *_times("Value #B", "× its week"),
                Column("Value #C", "First token", 130, unit="s", decimals=2),
                *_times("Value #D", "× its week "),
                Column("Value #E", "Each token", 130, unit="s", decimals=1),
                *_times("Value #F", "× its week  "),
            ],
            height=8, sort=("× its week", True),
            quiet="No model has 50 calls in 30 minutes: too few to compare",
        ),
    ]


def _times(source, name, width=130):
    return [Column(source, name, width, unit="short", decimals=2, cell="color-background",
                   thresholds=steps("transparent", (1.3, "orange"), (1.5, "red")))]


def _streams():
    first, each = "keytally_time_to_first_token_seconds", "keytally_time_per_output_token_seconds"
    return [
        series(
            4, "latency/first-token", "First token: half and 9 of 10 arrive within",
            "Streams: from the request to the first event with output of any kind. A dot is one call. First fix for a rise: long "
            "prompts or a lost cache; then the provider's load.",
            [
                query(quantile(0.5, first, PM, ""), "half"),
                query(quantile(0.9, first, PM, ""), "9 of 10", exemplar=True),
            ],
            width=8, height=8, unit=units.Seconds, fill=0, colors={"half": "green", "9 of 10": "yellow"},
            quiet="No streams: nothing in this range was streamed",
        ),
        series(
            5, "latency/first-token-by-model", "First token, 9 of 10 within, by model",
            "Streams only. First fix for one model that rises: try another region or tier.",
            [query(quantile(0.9, first, PM, "model"), "{{model}}", exemplar=True)],
            width=16, height=8, unit=units.Seconds, fill=0, legend="right", calcs=("lastNotNull", "max"),
            links=[TRACES_OF_MODEL],
            quiet="No streams: nothing in this range was streamed",
        ),
        series(
            6, "latency/speed-by-model", "Output speed in the middle, tokens per second, by model",
            "After the first token: tokens per second of the stream in the middle, from streams with reported usage. First fix "
            "for a fall: the provider's load; try another tier or region.",
            [query(f"1 / ({quantile(0.5, each, PM, 'model')} > 0)", "{{model}}")],
            width=14, height=8, unit=units.Short, fill=0, legend="right", calcs=("lastNotNull", "min"),
            links=[TRACES_OF_MODEL],
            quiet="No streams with usage: ask for it with stream_options.include_usage",
        ),
        series(
            7, "latency/per-token", "Time for each token, 9 of 10 within",
            "After the first token, all chosen models. 0.05 s is about as fast as people read.",
            [query(quantile(0.9, each, PM, ""), "9 of 10")],
            width=10, height=8, unit=units.Seconds, fill=8,
            quiet="No streams with usage: ask for it with stream_options.include_usage",
        ),
    ]


def _ends():
    def part(outcome):
        return ratio(
            f'sum by (model) (rate(keytally_requests_total{{{PM}, outcome="{outcome}"}}{RATE}))',
            f"sum by (model) (rate(keytally_requests_total{{{PM}}}{RATE}))",
        )

    return [
        series(
            8, "latency/truncated", "Streams cut off before their end, share of calls",
            "Answers that began well and stopped without their last event; they are billed in part. More than 2 % fires "
            "KeytallyStreamTruncated. First fix: idle timeouts of proxies on the way; keep-alive; the provider's status page.",
            [query(part("stream_truncated"), "{{model}}")],
            unit=units.PercentUnit, fill=0, legend="right", calcs=("lastNotNull", "max"),
            links=[link("Traces of cut-off streams", explore_traces('span.keytally.outcome = "stream_truncated"'))],
            quiet="No stream was cut off: all ended with their last event",
        ),
        series(
            9, "latency/cancelled", "Calls that the application left, share of calls",
            "The application went away first; the provider may still bill. First fix: raise its timeout, or accept it where "
            "users stop answers.",
            [query(part("client_cancelled"), "{{model}}")],
            unit=units.PercentUnit, fill=0, legend="right", calcs=("lastNotNull", "max"),
            links=[link("Traces of calls left early", explore_traces('span.keytally.outcome = "client_cancelled"'))],
            quiet="No call was left early: the application waited for each answer",
        ),
    ]


def _why():
    tokens = "keytally_request_tokens"
    return [
        series(
            10, "latency/fault-share", "Calls that failed for the provider or the network, share",
            "By provider, over 5 minutes. The provider's fault above 25 % on most keys is an outage (KeytallyProviderOutage). The "
            "network's is that it cannot be reached (KeytallyProviderUnreachable; at two providers it is our egress), or that streams "
            "break off. First fix: fall back to another model; or DNS, proxy, CA bundle, firewall.",
            [
                query(f"provider:keytally_provider_fault:ratio_rate5m{{{P}}}", "{{provider}}, its own"),
                query(f"provider:keytally_network_fault:ratio_rate5m{{{P}}} > 0", "{{provider}}, network"),
            ],
            unit=units.PercentUnit, maximum=1, fill=0, legend="right", calcs=("lastNotNull", "max"),
            thresholds=steps("green", (0.25, "red")), line_thresholds=True,
        ),
        series(
            11, "latency/codes", "Status codes as they came",
            "Answers per second by raw status code; `none` is no answer at all. An error inside a 200 stream is a 200 here.",
            [query(f"sum by (code) (rate(keytally_http_responses_total{{{P}}}{RATE}))", "{{code}}")],
            unit=units.RequestsPerSecond, stack=True, legend="right", calcs=("lastNotNull", "max"),
        ),
        series(
            12, "latency/input-size", "Input of one call, 9 of 10 below, by model",
            "Tokens, cache included; from a histogram with steps of four, so only the size is meant. First fix for a rise with "
            "slower first tokens: trim the history, do not paste documents whole.",
            [query(quantile(0.9, tokens, f'{PM}, direction="input"', "model"), "{{model}}")],
            fill=0, legend="right", calcs=("lastNotNull", "max"),
        ),
        series(
            13, "latency/output-size", "Output of one call, 9 of 10 below, by model",
            "Tokens, reasoning included. Long output is the usual reason of long answers. First fix: max_tokens, less reasoning "
            "effort, ask for brevity.",
            [query(quantile(0.9, tokens, f'{PM}, direction="output"', "model"), "{{model}}")],
            fill=0, legend="right", calcs=("lastNotNull", "max"),
        ),
        series(
            14, "latency/in-flight", "Calls open at the same time",
            "By provider. A rise without more calls means slower answers; limits on parallel calls bite here. First fix: cap "
            "parallel calls in the application.",
            [query(f"sum by (provider) (keytally_requests_in_flight{{{P}}})", "{{provider}}")],
            stack=True, legend="right", calcs=("lastNotNull", "max"), decimals=0,
        ),
        series(
            15, "latency/bytes", "Bytes on the wire",
            "Bodies per second as they passed, compressed if they were.",
            [query(f"sum by (direction) (rate(keytally_body_bytes_total{{{P}}}{RATE}))", "{{direction}}")],
            unit=units.BytesPerSecondIEC, names={"request": "to the providers", "response": "from the providers"},
        ),
    ]


def board():
    """The board."""
    return Board(
        "keytally-latency",
        "keytally / Latency and streaming",
        "How long answers take, how streams start, run and end, and whether it is the provider or what is sent.",
        data_sources() + [PROVIDER, MODEL],
        [
            (101, "Are the answers slow, and slower than usual?", _slow()),
            (102, "How soon do streams start, and how fast do they run?", _streams()),
            (103, "Do answers reach their end?", _ends()),
            (104, "Is it the provider, or what we send?", _why()),
        ],
    )
