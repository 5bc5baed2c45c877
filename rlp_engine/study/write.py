"""study.md, study.json and the figure of a study, from the runs that are done."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlp_engine.run.atomic import write_json, write_text
from rlp_engine.run.events import finite
from rlp_engine.study.figures import write_figures
from rlp_engine.study.request import Request
from rlp_engine.study.summary import Summary, as_object
from rlp_engine.study.tables import Table, markdown, tables

SCHEMA = 1
MD, JSON = "study.md", "study.json"
_SHOWN_VERSIONS = ("rlp", "python", "torch", "transformers", "numpy")


def write_study(
    study_dir: Path, shown: str, request: Request, summary: Summary, standing: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the files. Returns what study.json holds, and the paths.

    Args:
        shown: the study's folder as people type it.
        standing: {"done": [run, ...], "left": {run: why it is not done}}.
    """
    found = tables(summary)
    figures = write_figures(study_dir, summary.groups[0], score=score_name(summary)) if summary.groups else []
    value = finite(  # a judge that only compares gives no scores
        {
            "schema": SCHEMA,
            "command": command(shown, request),
            "request": asdict(request),
            "runs": dict(standing),
            "results": as_object(summary),
        }
    )
    write_json(study_dir / JSON, value)
    write_text(study_dir / MD, page(shown, request, summary, standing, found, has_figure=bool(figures)))
    paths = [study_dir / MD, study_dir / JSON, *figures]
    return value | {"files": [str(path) for path in paths]}


def command(shown: str, request: Request) -> str:
    """The one command that makes this study from nothing."""
    words = ["rlp", "study", shown, "--preset", request.preset, "--seeds", _seeds(request.seeds)]
    words += ["--methods", ",".join(request.methods)]
    for key, values in request.sweep.items():
        words += ["--sweep", f"{key}={','.join(_text(value) for value in values)}"]
    for key, value in request.sets.items():
        words += ["--set", f"{key}={_text(value)}"]
    return shlex.join(words + ["--same-world"] * request.same_world)


def _seeds(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def score_name(summary: Summary) -> str:
    """What the judge's mean score is."""
    return "gold reward" if summary.judges == ["gold"] else "judge's score"


def page(
    shown: str,
    request: Request,
    summary: Summary,
    standing: Mapping[str, Any],
    found: Sequence[Table],
    *,
    has_figure: bool,
) -> str:
    """The text of study.md."""
    versions = ", ".join(f"{name} {' and '.join(summary.versions.get(name, ['?']))}" for name in _SHOWN_VERSIONS)
    counts = sorted(set(summary.instructions.values()))
    instructions = " to ".join(str(count) for count in dict.fromkeys([counts[0], counts[-1]])) if counts else "no"
    lines = [
        f"# Study of `{request.preset}`: {len(request.seeds)} seeds, methods {', '.join(request.methods)}",
        "",
        "```",
        command(shown, request),
        "```",
        "",
        f"- Seeds: {', '.join(map(str, request.seeds))}.",
        f"- Judge: {', '.join(summary.judges) or '-'}; win-rates against {', '.join(summary.references) or '-'}; "
        f"{instructions} instructions a seed. Score: the {score_name(summary)}.",
        f"- Made with {versions}; last results of {summary.finished or '-'}.",
    ]
    if standing["left"]:
        names = "; ".join(f"{name} ({why})" for name, why in standing["left"].items())
        lines.append(f"- **Not finished:** {names}.")
    lines += [f"- {note}." for note in summary.notes]
    if has_figure:
        lines += ["", "![Paired differences, and score and win-rate against KL](figure.svg)"]
    return "\n".join([*lines, "", *map(markdown, found)])
