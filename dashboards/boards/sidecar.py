"""The sidecar itself: is it up, does it slow calls down, does it lose telemetry, what passes unread, does it stay small."""

from grafana_foundation_sdk.models import units

from .kit import (
    INSTANCE, JOB, RANGE, RATE, SIDECAR, Board, Column, board_link, cell, data_sources, label, link, mapping, query,
    quantile, rows, series, steps,
)

S = SIDECAR
STATUS = link("Status page of this sidecar", f"http://{label('instance')}/")


def _ours(expr):
    """Only targets that are sidecars: process_* and up exist on others too."""
    return f"{expr} and on (job, instance) keytally_build_info{{{S}}}"


def _up():
    return [
        rows(
            1, "sidecar/fleet", "Every sidecar: version, age, configuration",
            "Sidecars that Prometheus reaches. `Configuration` rejected means: the file on disk is not what runs; the old one "
            "still does. First fix: keytally check FILE. The link opens the sidecar's status page.",
            [
                query(f"max by (job, instance, version, revision) (keytally_build_info{{{S}}})", instant=True),
                query(_ours(f"1000 * max by (job, instance) (process_start_time_seconds{{{S}}})"), instant=True),
                query(f"max by (job, instance) (keytally_config_last_reload_successful{{{S}}})", instant=True),
                query(
                    f"1000 * max by (job, instance) (keytally_config_last_reload_success_timestamp_seconds{{{S}}})",
                    instant=True),
                query(f"1000 * max by (job, instance) (keytally_price_table_timestamp_seconds{{{S}}})", instant=True),
                query(f"max by (job, instance) (keytally_series{{{S}}})", instant=True),
            ],
            [
                Column("instance", "Sidecar", links=[
                    link("Status page of this sidecar", f"http://{cell('Sidecar')}/"),
                    board_link("keytally-sidecar", "Only this sidecar", f"&var-instance={cell('Sidecar')}")]),
                Column("job", "Job", 140),
                Column("version", "Version", 110),
                Column("revision", "Revision", 140),
                Column("Value #B", "Started", 160, unit="dateTimeFromNow"),
                Column("Value #C", "Configuration", 130, cell="color-background", mappings=[
                    mapping({"1": "in force", "0": "rejected"}, {"1": "semi-dark-green", "0": "red"})]),
                Column("Value #D", "Configured", 160, unit="dateTimeFromNow"),
                Column("Value #E", "Price book of", 160, unit="dateTimeFromNow"),
                Column("Value #F", "Series", 100, unit="short", decimals=0),
            ],
            height=7, sort=("Sidecar", False),
            quiet="No sidecar is reached: look at the scrape configuration and the PodMonitor's labels",
        ),
        series(
            2, "sidecar/restarts", "Restarts in the last hour",
            "Changes of the process's start time, by sidecar. More than 2 in an hour fires KeytallyRestarting. First fix: "
            "memory limit (OOM)? Read the end of the container's log.",
            [query(
                f"sum by (instance) (changes(process_start_time_seconds{{{S}}}[1h]) "
                f"and on (job, instance) last_over_time(keytally_build_info{{{S}}}[1h]))", "{{instance}}")],
            width=12, height=7, decimals=0, stepped=True, soft_maximum=4, thresholds=steps("green", (2.5, "red")), line_thresholds=True,
            links=[STATUS],
        ),
        series(
            18, "sidecar/throughput", "Calls through each sidecar",
            "Calls per second. A sidecar at 0 while its neighbours work: did its application bypass it (base URL, proxy "
            "variables)?",
            [query(f"sum by (instance) (rate(keytally_requests_total{{{S}}}{RATE}))", "{{instance}}")],
            width=12, height=7, unit=units.RequestsPerSecond, fill=0, links=[STATUS],
        ),
    ]


def _overhead():
    return [
        series(
            3, "sidecar/overhead", "Time that the sidecar adds, 99 of 100 within",
            "Added to one call before and after the provider, upstream excluded. Above 10 ms KeytallyOverheadHigh fires. First "
            "fix: raise the CPU limit of the sidecar's container.",
            [
                query(quantile(0.99, "keytally_overhead_seconds", S, "phase"), "{{phase}}, 99 of 100"),
                query(quantile(0.5, "keytally_overhead_seconds", S, "phase"), "{{phase}}, half"),
            ],
            width=12, unit=units.Seconds, fill=0, thresholds=steps("green", (0.01, "red")),
            line_thresholds=False,
        ),
        series(
            4, "sidecar/overhead-by-instance", "Which sidecar adds most? 99 of 100 within",
            "Time added before a request is sent on, by sidecar. First fix: the CPU limit of that container.",
            [query(quantile(0.99, "keytally_overhead_seconds", f'{S}, phase="request"', "instance"), "{{instance}}")],
            width=12, unit=units.Seconds, fill=0, links=[STATUS],
        ),
        series(
            5, "sidecar/connections", "Open connections",
            "Client: from applications. Upstream: to providers, kept for the next call. First fix when client connections only "
            "grow: an application opens a client for each call.",
            [query(f"sum by (side) (keytally_connections{{{S}}})", "{{side}}")],
            width=12, decimals=0, fill=0, names={"client": "from applications", "upstream": "to providers"},
        ),
        series(
            6, "sidecar/in-flight", "Calls open now, by sidecar",
            "Calls that have begun and not ended.",
            [query(f"sum by (instance) (keytally_requests_in_flight{{{S}}})", "{{instance}}")],
            width=12, decimals=0, stack=True, links=[STATUS],
        ),
    ]


def _losses():
    return [
        rows(
            7, "sidecar/dropped", "What was lost?",
            "Spans, records and ledger rows that were lost in the chosen range (`metrics`: calls that nothing tells of). Calls "
            "themselves are never affected. First fix: is the collector reachable, the disk full? Then raise the queue or sample.",
            [query(
                f"sum by (instance, signal, reason) (increase(keytally_telemetry_dropped_total{{{S}}}{RANGE})) > 0",
                instant=True)],
            [
                Column("instance", "Sidecar", links=[
                    link("Status page of this sidecar", f"http://{cell('Sidecar')}/")]),
                Column("signal", "Signal", 110),
                Column("reason", "Reason", 130, mappings=[mapping({
                    "queue_full": "queue was full", "export_failed": "export failed", "shutdown": "at shutdown",
                    "internal": "keytally's fault"})]),
                Column("Value", "Lost", 90, unit="locale", decimals=0),
            ],
            width=10, height=8, sort=("Lost", True),
            quiet="Nothing was lost: every span, record and row was written",
        ),
        series(
            8, "sidecar/dropped-over-time", "Since when?",
            "Lost per second by signal and reason.",
            [query(
                f"sum by (signal, reason) (rate(keytally_telemetry_dropped_total{{{S}}}{RATE})) > 0",
                "{{signal}}, {{reason}}")],
            width=7, height=8, stack=True, gaps=True,
            quiet="Nothing was lost: every span, record and row was written",
        ),
        series(
            9, "sidecar/queues", "How full are the queues?",
            "Waiting to be written or sent, by signal. At the ceiling they drop. First fix: a slow collector or disk.",
            [query(f"sum by (signal) (keytally_telemetry_queue_length{{{S}}})", "{{signal}}")],
            width=7, height=8, decimals=0, fill=0, soft_maximum=10,
        ),
    ]


def _blind():
    return [
        series(
            10, "sidecar/tunnelled", "Connections that passed unread, per second",
            "The known blind spot: nothing is known of the calls in them. First fix by reason: pinned: use the base URL for this "
            "client; unknown_host: add the provider; no_ca: keytally ca init; not_permitted: keytally ca rotate; intercept_off: turn it "
            "on.",
            [query(f"sum by (reason) (rate(keytally_tunnelled_connections_total{{{S}}}{RATE}))", "{{reason}}")],
            width=12, soft_maximum=1, names={"unknown_host": "host not in the catalogue", "intercept_off": "interception is off",
                            "no_ca": "no CA yet", "not_permitted": "CA may not vouch for the host",
                            "pinned": "client pins certificates", "encrypted_hello": "server name is encrypted",
                            "old_tls": "TLS before 1.2", "not_http": "not HTTP"},
        ),
        series(
            19, "sidecar/handshakes", "TLS handshakes with applications, per second",
            "Connections to providers that are opened, by how their handshake with the application ended. Refused: it does not "
            "trust the local CA; unless it passes unread from then on (pinned), its calls fail and KeytallyInterceptRefused fires. "
            "First fix: have it trust the file that keytally ca path names, or tls.intercept: auto.",
            [query(f"sum by (result) (rate(keytally_tls_handshakes_total{{{S}}}{RATE}))", "{{result}}")],
            width=12, soft_maximum=1, colors={"refused": "red"},
        ),
        series(
            11, "sidecar/taps", "Bodies that could not be read, per second",
            "The bytes passed untouched, but usage of these calls is estimated or unknown. First fix by reason: body_limit and "
            "unsupported_encoding: ask for answers that are not packed (accept-encoding: identity); decode_error: what damages "
            "bodies on the way? event_limit: report the API.",
            [query(f"sum by (reason) (rate(keytally_tap_overflows_total{{{S}}}{RATE}))", "{{reason}}")],
            width=12, soft_maximum=1, names={"body_limit": "body unpacks to too much", "event_limit": "too many facts in one event",
                            "decode_error": "could not be decoded", "unsupported_encoding": "unknown encoding"},
        ),
        series(
            12, "sidecar/folds", "Names and trace contexts that were not taken, per second",
            "Values folded into `other` because a ceiling was reached (sums stay exact), and trace contexts that could not be "
            "read. First fix: raise limits.keys, limits.models; or find what invents names.",
            [
                query(f"sum by (label) (rate(keytally_label_overflow_total{{{S}}}{RATE}))", "{{label}} folded"),
                query(f"sum(rate(keytally_malformed_trace_contexts_total{{{S}}}{RATE}))", "trace context malformed"),
            ],
            width=12, soft_maximum=1,
        ),
    ]


def _size():
    def process(title, id, slug, description, expr, unit, width=8, **more):
        return series(
            id, slug, title, description, [query(f"sum by (instance) ({_ours(expr)})", "{{instance}}")],
            width=width, height=7, unit=unit, fill=0, links=[STATUS], **more,
        )

    return [
        process("Memory", 13, "sidecar/memory",
                "Resident memory by sidecar. First fix for steady growth: report it with the series count; the ceilings are "
                "under limits:.", f"process_resident_memory_bytes{{{S}}}", units.BytesIEC),
        process("CPU", 14, "sidecar/cpu",
                "Processor time by sidecar, 1 is one core. First fix near the container's limit: raise it.",
                f"rate(process_cpu_seconds_total{{{S}}}{RATE})", units.Short, decimals=3),
        process("Threads", 15, "sidecar/threads",
                "Threads by sidecar: does not grow with traffic.", f"process_threads{{{S}}}", units.Short, decimals=0),
        process("Open files, of the most allowed", 16, "sidecar/files",
                "Files and connections by sidecar. First fix near 100 %: raise the file limit (ulimit -n).",
                f"process_open_fds{{{S}}} / process_max_fds{{{S}}}", units.PercentUnit, width=12,
                thresholds=steps("green", (0.8, "red"))),
        series(
            17, "sidecar/series", "Series that each sidecar exports",
            "Bounded by limits:. First fix for a jump: which label grew? keytally_label_overflow_total tells the ceilings.",
            [query(f"sum by (instance) (keytally_series{{{S}}})", "{{instance}}")],
            width=12, height=7, fill=0, links=[STATUS],
        ),
    ]


def board():
    """The board."""
    return Board(
        "keytally-sidecar",
        "keytally / The sidecar itself",
        "Whether keytally itself is up, fast, small and complete. Calls never wait for telemetry.",
        data_sources(traces=False) + [JOB, INSTANCE],
        [
            (101, "Is every sidecar up, and does it run what it should?", _up()),
            (102, "Does it slow calls down?", _overhead()),
            (103, "Does it lose telemetry?", _losses()),
            (104, "What passes unread or unnamed?", _blind()),
            (105, "Does it stay small?", _size()),
        ],
    )
