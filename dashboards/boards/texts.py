"""Texts that other parts of keytally own: the first fix of an outcome, of a finding, the names of the alerts.

They reach the panels as value mappings, so that a table can say what to do beside what happened.
"""

import json
import re
from pathlib import Path

from .kit import mapping

ROOT = Path(__file__).resolve().parents[2]

FAULTS = {
    "key": "the key",
    "config": "our configuration",
    "traffic": "our traffic",
    "account": "the account's money",
    "provider": "the provider",
    "network": "the network",
    "client": "our application",
    "unknown": "unknown",
}
FAULT_COLORS = {
    "key": "red",
    "config": "orange",
    "traffic": "yellow",
    "account": "purple",
    "provider": "blue",
    "network": "super-light-blue",
    "client": "green",
    "unknown": "text",
}


def _json(path):
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def outcome_fixes():
    """Outcome → first fix, from the meter's rules."""
    outcomes = _json("src/meter/outcomes.json")["outcomes"]
    return [mapping({name: outcome["fix"] for name, outcome in outcomes.items() if name != "ok"})]


def finding_fixes():
    """Finding → first fix, from the meter's rules."""
    return [mapping(_json("src/meter/outcomes.json")["findings"])]


def alert_anchors():
    """Alert → its anchor in the runbook: links cannot make lower case themselves."""
    names = set()
    for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml")):
        names |= set(re.findall(r"^\s*- alert: (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    return [mapping({name: name.lower() for name in sorted(names)})] if names else []


def faults():
    """Fault → whose it is, in words."""
    return [mapping(FAULTS, FAULT_COLORS)]
