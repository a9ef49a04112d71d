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


FINDINGS = {
    "key_whitespace": "strip the white space or line end around the key where it is set",
    "key_hidden_unicode": "type the key anew: it holds invisible or typographic characters",
    "key_quoted": "remove the quotes: they are part of the key as it is sent",
    "key_empty": "the variable is empty in this process: set it",
    "key_missing": "no key was sent: set the key variable in the process that makes the call",
    "key_literal_null": "the program had no key and sent the word for nothing: set the variable",
    "key_unexpanded": "the variable's name was sent, not its value: expand it",
    "key_placeholder": "put a real key in place of the placeholder",
    "key_double_scheme": "remove the word Bearer (or Basic) from the key variable: the client adds it",
    "key_is_url_or_prose": "the variable holds an address or a sentence: put the key there",
    "key_wrong_provider": "this is another provider's key: use one of the provider that is called",
    "key_wrong_place": "send the key in the header that this provider reads",
    "key_truncated": "the key is too short: copy it whole",
    "key_in_url": "move the key from the address to the header: addresses end up in logs",
    "key_in_browser": "revoke the key now, move the call behind a server, give browsers short-lived keys",
    "admin_key_on_data_path": "use a project key: admin keys are for the admin API only",
    "org_header_set": "remove the organization and project variables, or use a key of that project",
    "both_auth_headers": "two different keys were sent: remove one",
    "stale_key": "restart what still holds the old key: a newer one works",
    "old_key_still_used": "restart what still holds the old key, then revoke it",
    "shared_key": "give each workload a key of its own",
    "quantised_burst": "spread calls within the minute: the limit is enforced by the second",
    "retry_storm": "stop retrying in the client: this outcome never gets better by itself",
    "idle_key": "revoke the key if nobody needs it",
}


def _json(path):
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def outcome_fixes():
    """Outcome → first fix, from the meter's rules."""
    outcomes = _json("src/meter/outcomes.json")["outcomes"]
    return [mapping({name: outcome["fix"] for name, outcome in outcomes.items() if name != "ok"})]


def finding_fixes():
    """Finding → first fix."""
    return [mapping(FINDINGS)]


def alert_anchors():
    """Alert → its anchor in the runbook: links cannot make lower case themselves."""
    names = set()
    for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml")):
        names |= set(re.findall(r"^\s*- alert: (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    return [mapping({name: name.lower() for name in sorted(names)})] if names else []


def faults():
    """Fault → whose it is, in words."""
    return [mapping(FAULTS, FAULT_COLORS)]
