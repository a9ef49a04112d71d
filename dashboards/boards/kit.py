"""What the boards are built with: queries, panels, rows, links, on top of Grafana's Foundation SDK.

A panel has an id that never changes (alert rules link to it), a slug for people and rules, and either data on any day
with traffic or a reason why it may be empty (`quiet`), which the tests read from panels.yml.
"""

import json
import re
from dataclasses import dataclass, field
from urllib.parse import quote

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.models import common as cm
from grafana_foundation_sdk.models import dashboard as dm
from grafana_foundation_sdk.models import units

# === labels and windows ===

# `$key` is the list of keys of the chosen environments and teams (by keytally_key_info) also when it says All.
K = 'key=~"$key", provider=~"$provider"'
KM = K + ', model=~"$model"'
PM = 'provider=~"$provider", model=~"$model"'
SIDECAR = 'job=~"$job", instance=~"$instance"'
RATE = "[$__rate_interval]"
RANGE = "[$__range]"

PROMETHEUS = cm.DataSourceRef(type_val="prometheus", uid="${datasource}")


def owner(label):
    """Join with the owner of a key: adds `label` (team or env), one value a key even if sidecars disagree."""
    return (
        f"* on (key, provider) group_left ({label}) "
        f"topk by (key, provider) (1, max by (key, provider, {label}) (keytally_key_info))"
    )


def key_up(matchers):
    """Is a key accepted, by key and provider, as told by the sidecars that used it within 15 minutes of its last use."""
    used = f"keytally_key_last_used_timestamp_seconds{{{matchers}}}"
    return (
        f"max by (key, provider) (keytally_key_up{{{matchers}}} and on (job, instance, key, provider) "
        f"max by (key, provider) ({used}) - on (key, provider) group_right () {used} < 900)"
    )


def by_team(per_key):
    """Sums a vector by key and provider up by team; keys without a team are `no team`."""
    return (
        f"sum by (team) (label_replace({per_key} {owner('team')} or on (key, provider) {per_key}, "
        '"team", "no team", "team", ""))'
    )


def share(part, whole):
    """`part` of `whole`: 0 where the whole is there and the part is not, absent where there was nothing at all."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def ratio(part, whole):
    """`part` of `whole` of those only that ever had a part."""
    return f"{part} / ({whole} > 0)"


def quantile(q, family, matchers, by):
    """A quantile of a histogram over the rate interval; absent, not NaN, where nothing happened."""
    labels = f"le, {by}" if by else "le"
    return f"(histogram_quantile({q}, sum by ({labels}) (rate({family}_bucket{{{matchers}}}{RATE}))) >= 0)"


# === queries ===


def query(expr, legend="", *, instant=False, exemplar=False, ref=None, interval=None):
    """A range query, or one at the end of the range for tables and single numbers."""
    target = prometheus.Dataquery().expr(expr).legend_format(legend or "__auto").editor_mode("code")
    target.datasource(PROMETHEUS)
    if instant:
        target.instant()
        target.format("table")
    else:
        target.range()
        target.format("time_series")
    if exemplar:
        target.exemplar(True)
    if ref:
        target.ref_id(ref)
    if interval:
        target.interval(interval)
    return target


# === links ===


def explore_traces(condition):
    """Data link into Explore: traces that fulfil a TraceQL condition, in the panel's time range."""
    panes = {
        "traces": {
            "datasource": "${traces}",
            "queries": [{"refId": "A", "queryType": "traceql", "query": f"{{ {condition} }}"}],
            "range": {"from": "${__from}", "to": "${__to}"},
        }
    }
    # Variables stay as they are for Grafana; everything else is encoded.
    encoded = quote(json.dumps(panes, separators=(",", ":")), safe="")
    encoded = re.sub(r"%24%7B([\w.]+)%7D", r"${\1}", encoded)
    return f"/explore?schemaVersion=1&orgId=1&panes={encoded}"


def link(title, url, blank=True):
    """One data link."""
    return {"title": title, "url": url, "targetBlank": blank}


def board_link(uid, title, variables="", panel=None):
    """A data link to another of our boards: keeps the time range and all filters but those given."""
    view = f"&viewPanel={panel}" if panel else ""
    return link(title, f"/d/{uid}?${{__url_time_range}}&${{datasource:queryparam}}{variables}{view}", blank=False)


def label(name):
    """A label of the series that was clicked."""
    return f"${{__field.labels.{name}}}"


def cell(name):
    """Another cell of the row that was clicked."""
    assert name.isalpha(), "other names would need quotes, which links cannot carry"
    return f"${{__data.fields.{name}}}"


TRACES_OF_KEY = link("Traces of this key", explore_traces(f'span.keytally.key = "{label("key")}"'))
TRACES_OF_MODEL = link(
    "Traces of this model", explore_traces(f'span.gen_ai.response.model =~ ".*{label("model")}.*"')
)

# === parts of a panel ===


def mapping(values, colors=None):
    """Shows other texts (and colors) for values."""
    colors = colors or {}
    return dm.ValueMap(
        options={
            str(value): dm.ValueMappingResult(text=shown, color=colors.get(value), index=index)
            for index, (value, shown) in enumerate(values.items())
        }
    )


def steps(*pairs, percentage=False):
    """Thresholds: the first color holds below the second pair's value."""
    first, *rest = pairs
    built = [dm.Threshold(value=None, color=first)] + [dm.Threshold(value=at, color=color) for at, color in rest]
    mode = dm.ThresholdsMode.PERCENTAGE if percentage else dm.ThresholdsMode.ABSOLUTE
    return dashboard.ThresholdsConfig().mode(mode).steps(built)


def prop(name, value):
    """One property of an override."""
    return dm.DynamicConfigValue(id_val=name, value=value)


def fixed(color):
    """A fixed color as an override's property."""
    return prop("color", {"mode": "fixed", "fixedColor": color})


@dataclass
class Panel:
    """A built panel and what is known of it."""

    id: int
    slug: str
    title: str
    builder: object
    quiet: str | None = None
    repeat: str | None = None


@dataclass
class Column:
    """One column of a table: where it comes from and how it is shown."""

    source: str
    name: str
    width: int | None = None
    unit: str | None = None
    decimals: int | None = None
    mappings: list = field(default_factory=list)
    thresholds: object = None
    cell: str | None = None
    links: list = field(default_factory=list)
    wrap: bool = False
    align: str | None = None
    maximum: float | None = None


def _common(builder, id, title, description, queries, width, height, quiet, links):
    builder.id(id).title(title).description(description).datasource(PROMETHEUS).span(width).height(height)
    for at, target in enumerate(queries):
        if not target.build().ref_id:
            target.ref_id("ABCDEFGHIJ"[at])
        builder.with_target(target)
    if quiet:
        builder.no_value(quiet.split(":")[0])
    if links:
        builder.links(links)
    return builder


def series(
    id,
    slug,
    title,
    description,
    queries,
    *,
    width=12,
    height=8,
    unit=units.Short,
    stack=False,
    bars=False,
    fill=8,
    thresholds=None,
    line_thresholds=False,
    minimum=0,
    maximum=None,
    decimals=None,
    links=(),
    colors=None,
    names=None,
    calcs=("lastNotNull", "max"),
    legend="bottom",
    quiet=None,
    repeat=None,
    overrides=(),
    sort_desc=True,
    stepped=False,
    gaps=False,
    soft_maximum=None,
):
    """A graph over time."""
    panel = _common(timeseries.Panel(), id, title, description, queries, width, height, quiet, None)
    # Stacked areas without a line: a band of height 0 leaves no colored edge on the others.
    panel.unit(unit).fill_opacity(70 if stack else fill).line_width(0 if stack else 1)
    panel.show_points(cm.VisibilityMode.NEVER).span_nulls(False if gaps else True)
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if decimals is not None:
        panel.decimals(decimals)
    if soft_maximum is not None:
        panel.axis_soft_max(soft_maximum)
    if bars:
        panel.draw_style(cm.GraphDrawStyle.BARS).fill_opacity(80)
    if stepped:
        panel.line_interpolation(cm.LineInterpolation.STEP_AFTER)
    if stack:
        panel.stacking(common.StackingConfig().mode(cm.StackingMode.NORMAL))
    if thresholds is not None:
        panel.thresholds(thresholds)
        if line_thresholds:
            panel.thresholds_style(
                common.GraphThresholdsStyleConfig().mode(cm.GraphThresholdsStyleMode.DASHED)
            )
    shown = common.VizLegendOptions().show_legend(True)
    if legend == "none":
        shown = common.VizLegendOptions().show_legend(False).display_mode(cm.LegendDisplayMode.LIST)
        shown.placement(cm.LegendPlacement.BOTTOM)
    elif legend == "right":
        shown.display_mode(cm.LegendDisplayMode.TABLE).placement(cm.LegendPlacement.RIGHT).calcs(list(calcs))
    elif legend == "table":
        shown.display_mode(cm.LegendDisplayMode.TABLE).placement(cm.LegendPlacement.BOTTOM).calcs(list(calcs))
        if calcs and sort_desc:
            shown.sort_by({"lastNotNull": "Last *", "max": "Max", "mean": "Mean", "sum": "Total"}[calcs[0]])
            shown.sort_desc(True)
    else:
        shown.display_mode(cm.LegendDisplayMode.LIST).placement(cm.LegendPlacement.BOTTOM)
    panel.legend(shown)
    panel.tooltip(common.VizTooltipOptions().mode(cm.TooltipDisplayMode.MULTI).sort(cm.SortOrder.DESCENDING))
    properties = [prop("links", list(links))] if links else []
    if properties:
        panel.override_by_regexp(".*", properties)
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [fixed(color)])
    for name, shown_name in (names or {}).items():
        panel.override_by_name(name, [prop("displayName", shown_name)])
    for name, props in overrides:
        panel.override_by_name(name, props)
    if repeat:
        panel.repeat(repeat).repeat_direction("h").max_per_row(3)
    return Panel(id, slug, title, panel, quiet, repeat)


def number(
    id,
    slug,
    title,
    description,
    queries,
    *,
    width=4,
    height=5,
    unit=units.Short,
    thresholds=None,
    decimals=None,
    mappings=(),
    links=(),
    names=None,
    graph=False,
    text_mode=cm.BigValueTextMode.AUTO,
    quiet=None,
    overrides=(),
    color=cm.BigValueColorMode.VALUE,
):
    """One or a few big numbers."""
    panel = _common(stat.Panel(), id, title, description, queries, width, height, quiet, None)
    panel.unit(unit).color_mode(color).text_mode(text_mode)
    panel.graph_mode(cm.BigValueGraphMode.AREA if graph else cm.BigValueGraphMode.NONE)
    panel.justify_mode(cm.BigValueJustifyMode.AUTO).wide_layout(True)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.thresholds(thresholds or steps("text"))
    if decimals is not None:
        panel.decimals(decimals)
    if mappings:
        panel.mappings(list(mappings))
    if links:
        panel.override_by_regexp(".*", [prop("links", list(links))])
    for name, shown in (names or {}).items():
        panel.override_by_name(name, [prop("displayName", shown)])
    for name, props in overrides:
        panel.override_by_name(name, props)
    return Panel(id, slug, title, panel, quiet)


def bars(id, slug, title, description, queries, *, width=12, height=8, unit=units.PercentUnit, thresholds=None,
         maximum=1, quiet=None, links=(), decimals=None):
    """Horizontal bars against a common maximum."""
    panel = _common(bargauge.Panel(), id, title, description, queries, width, height, quiet, None)
    panel.unit(unit).min(0).max(maximum).orientation(cm.VizOrientation.HORIZONTAL)
    panel.display_mode(cm.BarGaugeDisplayMode.BASIC).value_mode(cm.BarGaugeValueMode.COLOR)
    panel.name_placement(cm.BarGaugeNamePlacement.LEFT).show_unfilled(True).sizing(cm.BarGaugeSizing.AUTO)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.text(common.VizTextDisplayOptions().title_size(14).value_size(16))
    panel.thresholds(thresholds or steps("green"))
    if decimals is not None:
        panel.decimals(decimals)
    if links:
        panel.override_by_regexp(".*", [prop("links", list(links))])
    return Panel(id, slug, title, panel, quiet)


def rows(
    id,
    slug,
    title,
    description,
    queries,
    columns,
    *,
    width=24,
    height=9,
    sort=None,
    quiet=None,
):
    """A table: the queries' results side by side by their common labels, with the columns named, in order."""
    panel = _common(table.Panel(), id, title, description, queries, width, height, quiet, None)
    panel.cell_height(cm.TableCellHeight.SM).filterable(False).show_header(True)
    if len(queries) > 1:
        panel.with_transformation(dm.DataTransformerConfig(id_val="merge", options={}))
    if len(queries) == 1:
        columns = [
            Column(**{**vars(column), "source": "Value"}) if column.source == "Value #A" else column
            for column in columns
        ]
    panel.with_transformation(
        dm.DataTransformerConfig(
            id_val="filterFieldsByName",
            options={"include": {"names": [column.source for column in columns]}},
        )
    )
    panel.with_transformation(
        dm.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {},
                "includeByName": {},
                "indexByName": {column.source: at for at, column in enumerate(columns)},
                "renameByName": {column.source: column.name for column in columns},
            },
        )
    )
    for column in columns:
        # The panel's text for "no data" is not meant for single empty cells.
        properties = [prop("noValue", "–")] if quiet else []
        if column.width:
            properties.append(prop("custom.width", column.width))
        if column.unit:
            properties.append(prop("unit", column.unit))
        if column.decimals is not None:
            properties.append(prop("decimals", column.decimals))
        if column.mappings:
            properties.append(prop("mappings", column.mappings))
        if column.thresholds is not None:
            properties.append(prop("thresholds", column.thresholds.build()))
        if column.maximum is not None:
            properties += [prop("min", 0), prop("max", column.maximum)]
        if column.cell:
            options = {"type": column.cell}
            if column.cell == "color-background":
                options["mode"] = "basic"
            if column.cell == "gauge":
                options |= {"mode": "basic", "valueDisplayMode": "text"}
            properties.append(prop("custom.cellOptions", options))
            if column.cell == "gauge" and column.maximum is None:
                # Its own largest value is the full bar, not that of all columns.
                properties += [prop("min", 0), prop("fieldMinMax", True)]
        if column.wrap:
            properties.append(prop("custom.wrapText", True))
        if column.align:
            properties.append(prop("custom.align", column.align))
        if column.links:
            properties.append(prop("links", column.links))
        if properties:
            panel.override_by_name(column.name, properties)
    if sort:
        name, descending = sort
        panel.sort_by([common.TableSortByFieldState().display_name(name).desc(descending)])
    return Panel(id, slug, title, panel, quiet)


def words(id, slug, title, markdown, *, width=24, height=3):
    """Text for people."""
    panel = text.Panel().id(id).title(title).span(width).height(height).mode("markdown").content(markdown)
    return Panel(id, slug, title, panel)


# === boards ===


@dataclass
class Board:
    """One dashboard."""

    uid: str
    title: str
    description: str
    variables: list
    rows: list
    window: str = "now-24h"

    def panels(self):
        """All panels with their row's title."""
        return [(title, panel) for _, title, panels in self.rows for panel in panels]

    def build(self):
        """The dashboard as Grafana's JSON model."""
        built = (
            dashboard.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags(["keytally"])
            .timezone("browser")
            .editable()
            .time(self.window, "now")
            .refresh("1m")
            .tooltip(dm.DashboardCursorSync.CROSSHAIR)
            .link(
                dashboard.DashboardLink("keytally")
                .type(dm.DashboardLinkType.DASHBOARDS)
                .tags(["keytally"])
                .icon("external link")
                .include_vars(True)
                .keep_time(True)
            )
            .link(
                dashboard.DashboardLink("Runbook")
                .type(dm.DashboardLinkType.LINK)
                .url("${runbook}")
                .icon("doc")
                .tooltip("What each alert means, how to see it, the first fix")
                .target_blank(True)
            )
        )
        for variable in self.variables:
            built.with_variable(variable)
        for id, title, panels in self.rows:
            built.with_row(dashboard.Row(title).id(id))
            for panel in panels:
                built.with_panel(panel.builder)
        return built.build()


# === variables ===

RUNBOOK = "https://github.com/keytally/keytally/blob/main/docs/runbook.md"


def _query_variable(name, shown, description, expression, *, all_value=None, multi=True, kind=1):
    variable = (
        dashboard.QueryVariable(name)
        .label(shown)
        .description(description)
        .datasource(PROMETHEUS)
        .query({"query": expression, "refId": name, "qryType": kind})
        .refresh(dm.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dm.VariableSort.ALPHABETICAL_ASC)
        .multi(multi)
        .include_all(True)
        .current(dm.VariableOption(selected=True, text="All", value="$__all"))
    )
    if all_value:
        variable.all_value(all_value)
    return variable


def data_sources(traces=True):
    """The two data sources and the address of the runbook."""
    found = [
        dashboard.DatasourceVariable("datasource")
        .label("Metrics")
        .description("Prometheus, or what speaks its language (Mimir, Thanos), with keytally's recording rules loaded")
        .type("prometheus")
    ]
    if traces:
        found.append(
            dashboard.DatasourceVariable("traces")
            .label("Traces")
            .description("Tempo; the links to traces open here")
            .type("tempo")
        )
    found.append(
        dashboard.ConstantVariable("runbook").label("Runbook").description("Where docs/runbook.md is read").value(RUNBOOK)
    )
    return found


ENV = _query_variable(
    "env", "Environment", "Environment of the keys, from the configuration", "label_values(keytally_key_info, env)",
    all_value=".*",
)
TEAM = _query_variable(
    "team", "Team", "Team of the keys, from the configuration",
    'label_values(keytally_key_info{env=~"$env"}, team)',
    all_value=".*",
)
PROVIDER = _query_variable(
    "provider", "Provider", "Provider, by its catalogue id", "label_values(keytally_requests_total, provider)",
    all_value=".+",
)
# keytally_key_up knows neither environment nor team, so it adds calls without a key (`none`) where neither is chosen.
KEY = _query_variable(
    "key", "Key", "Name of the key, or its fingerprint where it has no name; `none` is calls without a key",
    'label_values({__name__=~"keytally_key_(info|up)", env=~"$env", team=~"$team", provider=~"$provider"}, key)',
    kind=5,
)
# Keys that have spent: those that only fail have no band to draw.
SPENDER = _query_variable(
    "spender", "Key with spend", "The chosen keys that have spent", 'label_values(keytally_spend_usd_total{key=~"$key"}, key)',
).hide(dm.VariableHide.HIDE_VARIABLE)
MODEL = _query_variable(
    "model", "Model", "Model that answered", 'label_values(keytally_requests_total{provider=~"$provider"}, model)',
    all_value=".+",
)
JOB = _query_variable("job", "Job", "Prometheus job", "label_values(keytally_build_info, job)", all_value=".+")
INSTANCE = _query_variable(
    "instance", "Sidecar", "Address that Prometheus scrapes", 'label_values(keytally_build_info{job=~"$job"}, instance)',
    all_value=".+",
)
BY_KEY = [ENV, TEAM, PROVIDER, KEY, MODEL]
