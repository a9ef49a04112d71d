#!/usr/bin/env python3
"""Makes the price book (`book.json`) and says what it was made from (`bundled.rs`).

In: the package genai-prices of the Python that runs this. Its `data.py` is read as text and never run: one literal of
constructor calls, each of which is a JSON object. Out: the same data in the package's own JSON format (v2), a line a
model, without what prices do not need (descriptions, comments, links, extractors). `make prices` installs the newest
package and runs this. With `--check` nothing is written; exit code 1 when the stored files are others.
"""

import ast
import json
import re
import sys
from datetime import date
from decimal import Decimal
from importlib.metadata import distribution
from pathlib import Path

HERE = Path(__file__).resolve().parent
BOOK = HERE / "book.json"
BUNDLED = HERE / "bundled.rs"
PINNED = HERE.parents[2] / "tests/tools/requirements.txt"

# What is kept and what is left out, by constructor. Whatever is in neither is news, and for a person to decide.
KEPT = {
    "Provider": ["id", "name", "api_pattern", "model_match", "provider_match", "fallback_model_providers", "models"],
    "ModelInfo": ["id", "match", "context_window", "prices", "price_variants"],
    "PriceVariant": ["when", "prices", "constraint"],
    "ConditionalPrice": ["constraint", "prices"],
    "StartDateConstraint": ["start_date"],
    "TimeOfDateConstraint": ["start_time", "end_time"],
    "TieredPrices": ["base", "tiers"],
    "Tier": ["start", "price"],
    "ClauseEquals": ["equals"],
    "ClauseStartsWith": ["starts_with"],
    "ClauseEndsWith": ["ends_with"],
    "ClauseContains": ["contains"],
    "ClauseRegex": ["regex"],
    "ClauseOr": ["or_"],
    "ClauseAnd": ["and_"],
}
LEFT_OUT = {
    "Provider": ["pricing_urls", "description", "price_comments", "extractors"],
    "ModelInfo": ["name", "description", "price_comments", "deprecated"],
}


def value(node):
    """A literal of data.py as JSON has it."""
    match node:
        case ast.Constant():
            return node.value
        case ast.List():
            return [value(item) for item in node.elts]
        case ast.Dict():
            return {value(key): value(item) for key, item in zip(node.keys, node.values)}
        case ast.Call():
            return called(ast.unparse(node.func), node)
    sys.exit(f"data.py:{node.lineno}: {ast.unparse(node)[:80]}: not a literal; teach {__file__} what it means")


def called(name, node):
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if name == "Decimal":
        return number(node.args[0].value)
    if name == "datetime.date":
        return date(*map(value, node.args)).isoformat()
    if name == "datetime.time" and ast.unparse(given["tzinfo"]) in ("datetime.UTC", "datetime.timezone.utc"):
        hour, minute, second = [*map(value, node.args), 0, 0][:3]
        return f"{hour:02}:{minute:02}:{second:02}Z"
    if name == "ModelPrice":
        order = list(given)
    else:
        order = KEPT.get(name, [])
    for field in given:
        if field not in order and field not in LEFT_OUT.get(name, []):
            sys.exit(f"data.py:{node.lineno}: {name}({field}=…): unknown; decide in {__file__} whether prices need it")
    fields = {field.rstrip("_"): value(given[field]) for field in order if field in given}
    return {field: item for field, item in fields.items() if item is not None}


def number(text):
    exact = Decimal(text)
    near = int(exact) if exact == int(exact) else float(exact)
    if Decimal(repr(near)) != exact:
        sys.exit(f"{text}: more digits than a float has")
    return near


def one_line(item):
    return json.dumps(item, separators=(",", ":"), ensure_ascii=False)


def book(providers):
    shown = []
    for provider in providers:
        models = ",\n".join(map(one_line, provider.pop("models")))
        shown.append(f'{one_line(provider)[:-1]},"models":[\n{models}\n]}}')
    return "[\n" + ",\n".join(shown) + "\n]\n"


def bundled(version, day):
    return f"""//! Where the prices in `book.json` are from: genai-prices {version} on PyPI (MIT, see `LICENSE.genai-prices`).
//! Written by `renew.py`, with the book.

/// Newest date on which one of its rates came into force, when the book was made.
pub(super) const DATE: &str = "{day}";
"""


def main():
    check = "--check" in sys.argv[1:]
    package = distribution("genai-prices")
    module = ast.parse(Path(package.locate_file("genai_prices/data.py")).read_text(encoding="utf-8"))
    [found] = [
        node for node in module.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "providers"
    ]
    text = book(value(found.value))
    # Announced changes have dates to come: what counts as past is today, or for --check the day that is stored.
    stored = re.search(r'DATE: &str = "(.*)"', BUNDLED.read_text()) if check else None
    today = stored[1] if stored else date.today().isoformat()
    day = max(day for day in re.findall(r'"start_date":"([0-9-]+)"', text) if day <= today)
    wanted = {BOOK: text, BUNDLED: bundled(package.version, day)}
    pin = re.sub(r"(?m)^genai-prices==.*$", f"genai-prices=={package.version}", PINNED.read_text())
    wanted[PINNED] = pin
    for path, content in wanted.items():
        if check and path.read_text(encoding="utf-8") != content:
            sys.exit(f"{path}: is not what genai-prices {package.version} makes it; run `make prices`")
        if not check:
            path.write_text(content, encoding="utf-8")
    providers = json.loads(text)
    models = sum(len(provider["models"]) for provider in providers)
    print(f"genai-prices {package.version} of {day}: {models} models of {len(providers)} providers")


if __name__ == "__main__":
    main()
