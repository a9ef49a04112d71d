"""docs/dashboards.md: what each row of each board answers, with its picture."""

HEAD = """\
# Dashboards

<!-- Written by dashboards/generate.py; change dashboards/boards/document.py and run it. -->

Five Grafana dashboards in [`dashboards/`](../dashboards), made for Grafana 13 (schema version 42). Each row asks a question; each
panel says in its description what it shows and the first fix. They need keytally's recording rules
([`deploy/prometheus/rules`](../deploy/prometheus/rules)) for the bands, budgets and comparisons with the week.

**By provisioning**: mount `dashboards/` and the two files of [`deploy/grafana/provisioning`](../deploy/grafana/provisioning), as the
Compose file does. **By hand**: Dashboards → New → Import, one JSON file after the other. Nothing is asked; the data source is a
variable at the top.

**Filters**: environment and team choose keys by the owner in the configuration (`keytally_key_info`); provider, key and model narrow
further. All are kept when you go from one board to another. Calls without a key (`none`) and keys beyond the ceiling (`other`) have no
owner, so they are seen where no environment or team is chosen.

**From a number to a call**: a dot on a graph is an exemplar and opens its trace (Prometheus needs
`--enable-feature=exemplar-storage`, the data source `exemplarTraceIdDestinations`; both are provisioned). Click a key, model or outcome
for its traces (TraceQL in the board's time range), for the other boards with this key chosen, or for the status page of a sidecar.
The alerts' table opens the runbook entry.

**From an alert**: its text links to the panel that shows it, with the key chosen: `/d/<uid>?viewPanel=panel-<id>`. Uids and panel ids do
not change; [`dashboards/panels.yml`](../dashboards/panels.yml) lists them, and says of every panel that may be empty why.

The pictures were drawn from the shipped JSON by Grafana's own panel components in Chromium, under the scripted day of trouble of the
tests (a spend spike, a revoked key, an old key after a rotation, a used-up account, limits, an outage, broken streams, a model without
a price, restarts). They show no exemplars and no panel menus. `tests/dashboards/pictures.rs` draws them again in every test run.

"""


def write(boards):
    """The document's text."""
    text = HEAD
    for board in boards:
        text += f"## {board.title.split(' / ')[1]}\n\n`{board.uid}`. {board.description}\n\n"
        for _, question, panels in board.rows:
            shown = " · ".join(_name(panel) for panel in panels)
            text += f"- **{question}** {shown}\n"
        text += f"\n![{board.title}](dashboards/{board.uid}.png)\n\n"
    return text.rstrip("\n") + "\n"


def _name(panel):
    if panel.repeat:
        return "for each key: what it spent, what is expected, and the most that is normal"
    return panel.title.rstrip("?")
