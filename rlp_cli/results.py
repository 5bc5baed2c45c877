"""What a run came to: the tables of evaluate/results.json and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlp_cli.render import Output

PARTS_SHOWN = 2  # of what the judge's score is made of; --verbose, --json and the page have all


def read_results(run_dir: Path) -> dict[str, Any] | None:
    """evaluate/results.json, or None before `evaluate` is done."""
    from rlp_engine.errors import CorruptArtifactError
    from rlp_engine.run.events import parse_json
    from rlp_engine.run.layout import RunLayout

    path = RunLayout(run_dir).stage("evaluate") / "results.json"
    try:
        found = parse_json(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}, not an object")
        return found
    except FileNotFoundError:
        return None
    except ValueError as error:
        mend = f"rlp run {run_dir} --force evaluate"
        raise CorruptArtifactError(
            "results.json cannot be read", where=str(path), found=str(error), mend=mend
        ) from None


def show_results(output: Output, results: dict[str, Any]) -> None:
    """Policies, those of a curve, gains over SFT, accuracies of the reward models and of the synthetic pairs.

    A table of what the results do not hold is left out.

    Raises:
        CorruptArtifactError: they are not what `evaluate` writes.
    """
    from rlp_engine.errors import CorruptArtifactError

    try:
        _show_tables(output, results)
    except (TypeError, KeyError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise CorruptArtifactError(
            "results.json is not what evaluate writes",
            found=f"{type(error).__name__}: {error}",
            mend="make it again: rlp run DIR --force evaluate",
        ) from error


def _show_tables(output: Output, results: dict[str, Any]) -> None:
    policies = results["policies"]
    base = [row for row in policies if not _is_curve_point(row)]
    _show_policies(output, base)
    if curve := [row for row in policies if _is_curve_point(row)]:
        output.show()
        headers = ["at other KL coefficients", "win-rate %", "±", "score", "kl", "tokens"]
        output.table(headers, [_policy_cells(row) for row in curve])
    _show_parts_of_tests(output, results)
    _show_gains(output, base)
    _show_accuracies(output, results.get("reward_models") or [])
    if pairs := results.get("synthetic_pairs"):
        rows = [[row["name"], _percent(row), _percent(row, "standard_error"), str(row["n"])] for row in pairs]
        output.show()
        output.table(["synthetic pairs that the judge confirms", "%", "±", "pairs"], rows)


def _show_policies(output: Output, policies: list[dict[str, Any]]) -> None:
    parts = _parts_that_tell_more(policies)
    parts = parts if output.verbose else parts[:PARTS_SHOWN]
    headers = ["policy", "win-rate %", "±", "score", "kl", "tokens", *parts]
    output.table(
        headers,
        [[*_policy_cells(row), *(_fixed((row.get("parts") or {}).get(part), 3) for part in parts)] for row in policies],
    )


def _policy_cells(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        _fixed(row["win_rate"], 1),
        _fixed(row["standard_error"], 1),
        _fixed(row["mean_score"], 3),
        _fixed(row["kl"], 2),
        _fixed(row["mean_tokens"], 1),
    ]


def _show_parts_of_tests(output: Output, results: dict[str, Any]) -> None:
    """Win-rates on every subset of data.test, on every further test set, and on each of its subsets."""
    rows: list[tuple[str, list[dict[str, Any]]]] = [
        (row["subset"] or "(none)", row["policies"]) for row in results.get("subsets") or []
    ]
    for test_set in results.get("test_sets") or []:
        name = test_set["test_set"]
        rows.append((f"{name}: all", test_set["policies"]))
        rows += [(f"{name}: {row['subset'] or '(none)'}", row["policies"]) for row in test_set["subsets"]]
    if not rows:
        return
    policies = [row["name"] for row in results["policies"] if not _is_curve_point(row)]
    cells = []
    for label, judged in rows:
        found = {row["name"]: row for row in judged}
        most = max(row["n"] for row in judged)
        cells.append([label, str(most), *(_fixed((found.get(name) or {}).get("win_rate"), 1) for name in policies)])
    output.show()
    output.table(["win-rate % on", "n", *policies], cells)


def _show_gains(output: Output, policies: list[dict[str, Any]]) -> None:
    """What of each gain over the SFT policy is correctness, where the judge tells it from style."""
    gained = [(row["name"], row["gain"]) for row in policies if (row.get("gain") or {}).get("correct") is not None]
    if gained:
        output.show()
        output.table(
            ["gain over sft", "score", "±", "correct", "style", "correct %"],
            [
                [
                    name,
                    *(_fixed(gain[key], 3) for key in ("score", "standard_error", "correct", "style")),
                    _fixed(100 * gain["correct"] / gain["score"], 0) if _is_whole(gain) else "-",
                ]
                for name, gain in gained
            ],
        )


def _is_whole(gain: dict[str, Any]) -> bool:
    """Are both parts gained, so that one is a share of the whole?"""
    return gain["score"] > 0 and min(gain["correct"], gain["style"]) >= 0


def _show_accuracies(output: Output, models: list[dict[str, Any]]) -> None:
    """On the samples of SFT, of PPO and of the policy that each reward model trained; --verbose: of every policy."""
    sets = list(dict.fromkeys(name for row in models for name in row["accuracy"]))
    if not sets:
        return
    if output.verbose:
        columns = [(name, lambda model, name=name: name) for name in sets]
    else:
        columns = [(name, lambda model, name=name: name) for name in ("sft", "ppo") if name in sets]
        if any(name not in ("sft", "ppo") for name in sets):
            columns.append(("its policy", lambda model: "ppo" if model["name"] == "train-rm" else model["name"]))
    differ = [("", False)]
    if any("differing" in entry for row in models for entry in row["accuracy"].values()):
        differ.append((" of pairs of which one is right", True))
    for words, only_differing in differ:
        output.show()
        output.table(
            [f"accuracy %{words} on samples of", *(title for title, _ in columns)],
            [
                [
                    model["name"],
                    *(_accuracy(model["accuracy"].get(of(model)), differing=only_differing) for _, of in columns),
                ]
                for model in models
            ],
        )


def _is_curve_point(row: dict[str, Any]) -> bool:
    from rlp_engine.stages.branches import is_curve_point

    return is_curve_point(row["name"])


def _parts_that_tell_more(policies: list[dict[str, Any]]) -> list[str]:
    """Names of the judge's parts, without the first one if it only repeats the score."""
    names = list(dict.fromkeys(part for row in policies for part in row.get("parts") or {}))
    is_score = all((row.get("parts") or {}).get(name) == row["mean_score"] for name in names[:1] for row in policies)
    return names[1:] if is_score else names


def write_report(run_dir: Path) -> Path:
    """report.html of what there is so far. Raises ResourceError when the disk is full."""
    from rlp_engine.report.page import write_report as write
    from rlp_engine.run.atomic import remove_temporaries_of
    from rlp_engine.run.layout import RunLayout
    from rlp_engine.run.resources import ResourcesInWords

    path = RunLayout(run_dir).report
    with ResourcesInWords("the report", RunLayout(run_dir).run_dir):
        remove_temporaries_of(path)
        write(run_dir, read_results(run_dir), path)
    return path


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: never "-0.00"


def _accuracy(entry: dict[str, Any] | None, *, differing: bool) -> str:
    entry = (entry or {}).get("differing") if differing else entry
    return _percent(entry or {})


def _percent(entry: dict[str, Any], key: str = "accuracy") -> str:
    return "-" if entry.get(key) is None else _fixed(100 * entry[key], 1)
