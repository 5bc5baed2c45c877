"""One self-contained HTML page about a run: no script, no network, every text escaped.

The page works for a run at any point: what is not there yet is left out. The same files give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rlp_engine.report import examples, names, preferences, provenance, training
from rlp_engine.report import results as headline
from rlp_engine.report.html import Markup, clip, number, tag
from rlp_engine.report.newest import META_NAME, results_digest
from rlp_engine.report.read import RunFiles, read_json, read_run
from rlp_engine.run.atomic import write_text

# The page can load nothing and run nothing, whatever a model wrote into it. Inline styles are the figures' own.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'none'; style-src 'unsafe-inline'; img-src 'none'; font-src 'none'; "
    "connect-src 'none'; base-uri 'none'; form-action 'none'"
)
# What code that reads a record of another shape raises.
ODD_CONTENT = (TypeError, KeyError, ValueError, AttributeError, IndexError, ArithmeticError)
TITLES = {
    "results": "Results",
    "ppo": "Policy optimisation",
    "reward-models": "Reward models",
    "drift": "Distribution shift",
    "synthetic": "Synthetic preferences",
    "read": "Read it",
    "stages": "How it was made",
}


def write_report(run_dir: Path, results: dict[str, Any] | None, out: Path) -> None:
    """Write the page about `run_dir` to `out` (whole or not at all).

    Args:
        results: the content of evaluate/results.json; None reads it from the run directory, if it is there.
    """
    digest = results_digest(run_dir)
    run = read_run(run_dir)
    found = results if results is not None else read_json(run_dir / "evaluate" / "results.json", run.problems)
    write_text(out, render(run, found, digest))


def render(run: RunFiles, found: Mapping[str, Any] | None, digest: str = "none") -> str:
    """The page as text. `digest`: of the results that it is made of (newest.py)."""
    colours = names.colours(_names(run, found))
    makers: dict[str, Callable[[], Markup | None]] = {
        "results": lambda: headline.section(found, colours) if found else _no_results(run),
        "ppo": lambda: training.ppo_section(run, colours),
        "reward-models": lambda: training.reward_section(run, found, colours),
        "drift": lambda: preferences.drift_section(run),
        "synthetic": lambda: preferences.synthesis_section(run, found, colours),
        "read": lambda: examples.section(run),
        "stages": lambda: provenance.section(run),  # last: it names what the others could not read
    }
    sections = {key: _made(key, make) for key, make in makers.items()}
    shown = {key: section for key, section in sections.items() if section is not None}
    body = tag(
        "main",
        _header(run),
        tag("nav", [tag("a", TITLES[key], href=f"#{key}") for key in shown], aria_label="Sections"),
        list(shown.values()),
        tag(
            "footer",
            "Reward Learning on Policy (Lang, Huang and Li, NAACL 2024). Written by ",
            tag("code", "rlp report"),
            ".",
        ),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=CONTENT_SECURITY_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name=META_NAME, content=digest),
        tag("title", f"{run.name} – rlp"),
        tag("style", Markup(resources.files("rlp_engine.report").joinpath("style.css").read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', body), lang='en')}\n"


def _made(key: str, make: Callable[[], Markup | None]) -> Markup | None:
    """The section, or why there is none: a file of the run may hold anything, if a stranger wrote it."""
    try:
        return make()
    except ODD_CONTENT as error:
        text = f"This could not be shown: a file of the run is not as rlp writes it ({type(error).__name__}: {error})."
        return tag("section", tag("h2", TITLES[key]), tag("p", clip(text)), id=key)


def _header(run: RunFiles) -> Markup:
    done = [stage for stage in run.stages if stage.status == "done"]
    seconds = sum(s for stage in done if isinstance(s := stage.record.get("seconds"), int | float))
    methods = run.settings.get("methods")
    facts = [
        ("preset", run.settings.get("preset") or None),
        ("seed", run.settings.get("seed")),
        ("methods", ", ".join(map(str, methods)) if isinstance(methods, list) else None),
        ("stages done", f"{len(done)} of {len(run.stages)} begun" if run.stages else None),
        ("time", provenance.duration(seconds) if seconds else None),
    ]
    shown = [tag("span", f"{label} ", tag("b", str(value))) for label, value in facts if value is not None]
    return tag("header", tag("h1", run.name), tag("div", shown, class_="facts"))


def _no_results(run: RunFiles) -> Markup:
    unfinished = [f"{stage.name} ({stage.status})" for stage in run.stages if stage.status != "done"]
    text = "The run has not been evaluated yet."
    if unfinished:
        text += f" Under way: {', '.join(unfinished)}."
    last = [stage for stage in run.of_kind("ppo") if stage.metrics]
    if last:
        row = last[-1].metrics[-1]
        text += f" {last[-1].name} is at step {number(row['step'], 0)}."
    return tag("section", tag("h2", "Results"), tag("p", text), id="results")


def _names(run: RunFiles, found: Mapping[str, Any] | None) -> list[str]:
    tables = [(found or {}).get(key) for key in ("policies", "reward_models")]
    rows = [row for table in tables if isinstance(table, list) for row in table]
    named = [str(row.get("name")) for row in rows if isinstance(row, Mapping)]
    return [*named, *(stage.name for stage in run.stages)]
