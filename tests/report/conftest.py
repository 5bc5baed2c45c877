"""A run directory as the stages leave it, small and made up, for the report to read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rlp_engine import randomness
from rlp_engine.report.page import write_report

HOSTILE = '</style><script>alert("x")</script><img src=x onerror=alert(1)> $\\frac{1}{0}$ \x00\u202eevil\ud800 &amp;'


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_stage(run_dir: Path, name: str, seconds: float = 12.5, **record: Any) -> Path:
    path = run_dir / name
    path.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": 1,
        "name": name,
        "status": "done",
        "reason": "it was missing",
        "seconds": seconds,
        "seed": 42,
        "peak_rss_bytes": 900 * 2**20,
        "attempts": 1,
        "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.1"},
        "platform": {"device": "cpu", "world_size": 1},
        **record,
    }
    (path / "stage.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def ppo_rows(steps: int, gain: float, key: str) -> list[dict[str, float]]:
    noise = randomness.normals(6 * steps, "report-test", key).reshape(6, steps)
    rows = []
    for i in range(steps):
        grown = 1 - math.exp(-3 * i / steps)
        rows.append(
            {
                "step": i + 1,
                "score": gain * grown + 0.15 * noise[0, i],
                "reward": 0.8 * gain * grown + 0.15 * noise[1, i],
                "kl_k1": 3 * gain * grown + 0.1 * noise[2, i],
                "length": 9 + 3 * grown + 0.3 * noise[3, i],
                "eos_share": min(1.0, 0.94 + 0.05 * grown),
                "entropy": 1.1 - 0.5 * grown + 0.02 * noise[4, i],
                "distinct_2": 0.9 - 0.2 * grown,
                "clip_fraction": 0.1 + 0.02 * noise[5, i],
                "explained_variance": 0.8 * grown,
                "value_loss": 1 - 0.6 * grown,
                "collect_seconds": 0.4,
                "seconds": 1.0,
            }
        )
    return rows


def make_results() -> dict[str, Any]:
    def policy(name: str, rate: float, kl: float | None, score: float, polite: float) -> dict[str, Any]:
        wins = round(188 * rate / 100) - 6
        return {
            "name": name,
            "win_rate": rate,
            "standard_error": 2.9,
            "wins": wins,
            "draws": 12,
            "losses": 176 - wins,
            "n": 188,
            "mean_score": score,
            "kl": kl,
            "mean_tokens": 11.2,
            "mean_characters": 52.0,
            "eos_share": 0.985,
            "parts": {"correct": 0.79, "polite": polite},
        }

    def paired(a: str, b: str, difference: float, half: float) -> dict[str, Any]:
        return {"a": a, "b": b, "difference": difference, "low": difference - half, "high": difference + half}

    return {
        "judge": "gold",
        "reference": "demonstrator",
        "policies": [
            policy("sft", 51.6, None, 1.54, 0.06),
            policy("best-of-16", 62.3, 1.8, 1.82, 0.2),
            policy("ppo", 71.0, 2.9, 2.0, 0.38),
            policy("round-1/reseed", 74.0, 3.5, 2.14, 0.81),
            policy("round-1/spg", 79.7, 5.3, 2.32, 0.89),
            policy("round-1/uml", 72.0, 3.0, 2.05, 0.65),
        ],
        "reward_models": [
            {"name": name, "accuracy": {p: {"accuracy": a, "n": 840} for p, a in zip(("sft", "ppo"), row, strict=True)}}
            for name, row in {
                "train-rm": (0.681, 0.613),
                "round-1/reseed": (0.68, 0.609),
                "round-1/spg": (0.69, 0.687),
                "round-1/uml": (0.67, 0.41),
            }.items()
        ],
        "paired": [
            paired("ppo", "sft", 19.4, 6.1),
            paired("round-1/spg", "ppo", 8.7, 5.2),
            paired("round-1/spg", "round-1/reseed", 5.7, 4.8),
            paired("round-1/uml", "ppo", 1.0, 4.0),
            paired("round-1/reseed", "ppo", 3.0, 4.4),
        ],
    }


def make_run(run: Path, results: dict[str, Any]) -> Path:
    """A finished run of three methods, with one hostile text wherever a model or a user may write one."""
    run.mkdir()
    (run / "run.toml").write_text('preset = "quickstart"\nseed = 42\nmethods = ["spg", "uml", "reseed"]\n')
    write_lines(write_stage(run, "sft", 32) / "metrics.jsonl", [{"step": 1, "loss": 3.0}])
    pair = {"prompt": {"prompt_id": "p", "instruction": "what is the opposite of hot ?", "input": ""}}
    labelled = [{**pair, "chosen": "it is cold .", "rejected": "i would rather not say ."}] * 3
    write_lines(
        write_stage(run, "collect", 2) / "pairs.jsonl", [*labelled, {**pair, "chosen": HOSTILE, "rejected": ""}]
    )
    rm = [{"step": i, "loss": 0.7 - 0.004 * i, "accuracy": 0.5 + 0.004 * i} for i in range(1, 69)]
    write_lines(write_stage(run, "train-rm", 6) / "metrics.jsonl", rm)
    for name, gain in {"ppo": 1.0, "round-1/spg/ppo": 1.7, "round-1/uml/ppo": 1.1, "round-1/reseed/ppo": 1.2}.items():
        path = write_stage(run, name, 25)
        write_lines(path / "metrics.jsonl", ppo_rows(60, gain, name))
        for step in (10, 30, 60):
            row = {"prompt_id": "u-1", "instruction": "hello ! compute two plus three .", "input": "", "score": 1.25}
            row |= {
                "response": HOSTILE if step == 10 else "it is five . have a nice day !",
                "kl": 2.0,
                "tokens": 9,
                "ended": True,
            }
            write_lines(path / "samples" / f"step_{step:06d}.jsonl", [row])
    write_stage(run, "round-1/sample", 12)
    side = {"reward_mean": 0.0, "reward_std": 1.0, "tokens_mean": 10.5, "characters_mean": 48.0}
    drift = {
        "preferences": side | {"frechet": None, "classifier_auc": None},
        "sft": side | {"frechet": 0.4, "classifier_auc": 0.52},
        "policy": side | {"frechet": 6.1, "classifier_auc": 0.87, "reward_mean": 1.9, "tokens_mean": 12.0},
    }
    (write_stage(run, "round-1/embed", 8) / "drift.json").write_text(json.dumps(drift))
    synthesize = write_stage(
        run,
        "round-1/spg/synthesize",
        3,
        config={"synthesize": {"min_confidence": 0.5}},
        summary={"reversed_reward_rate": 0.067, "comparisons": 896, "naive_comparisons": 983},
    )
    write_lines(synthesize / "decisions.jsonl", decision_rows())
    write_lines(synthesize / "pairs.jsonl", [{**pair, "chosen": "it is cold .", "rejected": "warm"}] * 40)
    for method in ("spg", "uml", "reseed"):
        rows = [{**row, "accuracy": row["accuracy"] + 0.02} for row in rm]
        if method == "uml":
            rows = [{**row, "jsd": -1.386 + row["step"] / 100, "skl": 0.15} for row in rows]
        write_lines(
            write_stage(
                run, f"round-1/{method}/refine-rm", 19, summary={"held_out_accuracy": 0.731, "held_out_pairs": 500}
            )
            / "metrics.jsonl",
            rows,
        )
    evaluate = write_stage(run, "evaluate", 9)
    (evaluate / "results.json").write_text(json.dumps(results))
    answers = {"sft": ("five .", 1.0), "ppo": ("it is five .", 1.5), "round-1/spg": ("five . have a nice day !", 2.0)}
    row = {"instruction": "hello ! compute two plus three .", "input": "", "output_1": "i think it is five ."}
    write_lines(
        evaluate / "annotations.jsonl",
        ({**row, "generator_2": name, "output_2": text, "preference": p} for name, (text, p) in answers.items()),
    )
    return run


def decision_rows() -> list[dict[str, Any]]:
    rows = []
    for i in range(200):
        u = randomness.uniforms(1, "report-test", "confidence", i)[0]
        size = 1 + int(10 * u**0.6)
        reason = "one-cluster" if size >= 10 else "accepted" if size >= 5 else "low-confidence"
        size = min(size, 10)
        texts = ["it is cold ."] * (size - 1) + ["cold !"] * (size > 0) + [f"answer {j}" for j in range(10 - size)]
        rows.append(
            {
                "prompt_id": f"u-{i}",
                "instruction": "hello ! what is the opposite of hot ?" if i else HOSTILE,
                "reason": reason,
                "confidence": size / 10,
                "cluster_ids": [0] * size + list(range(1, 11 - size)),
                "chosen": 0 if reason == "accepted" else None,
                "rejected": 9 if reason == "accepted" else None,
                "texts": texts if i else [HOSTILE, *texts[1:]],
            }
        )
    return rows


@pytest.fixture
def results() -> dict[str, Any]:
    return make_results()


@pytest.fixture
def run_dir(tmp_path: Path, results: dict[str, Any]) -> Path:
    return make_run(tmp_path / "quickstart", results)


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the finished run, drawn once."""
    folder = tmp_path_factory.mktemp("page")
    write_report(make_run(folder / "quickstart", make_results()), None, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")
