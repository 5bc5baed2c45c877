"""Labels, win-rates and RLAIF by annotators behind a local server that prefers the longer output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer
from tiny_run import RLP, TIMEOUT_SECONDS, TINY, outputs, rlp, rlp_environment, sets

PLACED = re.compile(r"<(?:output_of_model|output|response)_[12]>\n(.*?)\n</|Output [AB]:\n(.*?)\n\n", re.DOTALL)
POOL = ["alpaca-eval", "alpacafarm-label", "alpacafarm-reasons", "alpacafarm-example"]


def shown(body: dict[str, Any]) -> tuple[str, str]:
    first, second = ("".join(found) for found in PLACED.findall(body["messages"][-1]["content"]))
    return first, second


def says(body: dict[str, Any]) -> str | dict[str, Any]:
    """The longer output, in the form that each built-in annotator asks for; of equal lengths the first."""
    first, second = shown(body)
    better = 1 if len(first) >= len(second) else 2
    question = body["messages"][-1]["content"]
    if "logprobs" in body:
        top = [{"token": str(better), "logprob": -0.1}, {"token": str(3 - better), "logprob": -2.4}]
        place = {"token": str(better), "logprob": -0.1, "top_logprobs": top}
        return {"message": {"content": str(better)}, "finish_reason": "length", "logprobs": {"content": [place]}}
    if "model_1" in question:
        return json.dumps([{"model": f"model_{better}", "rank": 1}, {"model": f"model_{3 - better}", "rank": 2}])
    if "JSON" in question:
        return json.dumps({"first": "so", "second": "so", "better": better})
    return "AB"[better - 1] if "A or B" in question else str(better)


def settings(server: FakeServer, **more: object) -> dict[str, object]:
    return TINY | {
        "judge.server.base_urls": [server.url],
        "judge.server.model": "judge",
        "judge.server.backoff_seconds": 0.01,
        "collect.annotator.kind": "server",
        "collect.label_noise.temperature": 0,
        **more,
    }


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(run_dir: Path, stage: str) -> dict[str, Any]:
    return json.loads((run_dir / stage / "stage.json").read_text())["summary"]


def test_labels_by_server_survive_a_kill_and_are_paid_once(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    answers = run_dir / ".cache" / "judge" / "answers.jsonl"
    processes: list[subprocess.Popen[bytes]] = []

    def says_or_kills(body: dict[str, Any]) -> str | dict[str, Any]:
        if len(server.requests) == 8 and processes:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while len(rows(answers)) < 7 and time.monotonic() < deadline:
                time.sleep(0.01)  # until all that was answered has been written down
            os.kill(processes.pop().pid, signal.SIGKILL)
        return "hm" if len(shown(body)[0]) % 4 == 0 else says(body)

    with FakeServer(says_or_kills) as server:
        once = {"sft.epochs": 1, "collect.pairs_per_instruction": 1, "judge.server.max_in_flight": 1}
        words = sets(settings(server, **once))
        command = [*RLP, "run", "--preset", "quickstart", str(run_dir), "--until", "collect", *words]
        processes.append(subprocess.Popen(command, env=rlp_environment(), stdout=subprocess.DEVNULL))
        process = processes[0]
        assert process.wait(TIMEOUT_SECONDS) == -signal.SIGKILL
        killed_at = len(server.requests)
        assert killed_at == 8
        rlp("run", run_dir, "--until", "collect")
        asked = Counter(json.dumps(body, sort_keys=True) for body in server.requests)
        assert sorted(asked.values())[-2:] == [1, 2], "only the request that nobody answered is sent again"
    summary, pairs = recorded(run_dir, "collect"), rows(run_dir / "collect" / "pairs.jsonl")
    costs, outcomes = summary["judging"], summary["outcomes"]
    assert (costs["cached"], costs["calls"]) == (7, len(asked) - 7)
    assert costs["completion_tokens"] == 2 * len(asked)
    assert costs["unparsed"] == outcomes["not readable"] > 0
    assert outcomes["agrees with the score"] == len(pairs)
    assert summary["source"] == "alpaca-eval by judge"
    assert all(len(pair["chosen"]) >= len(pair["rejected"]) for pair in pairs)


@pytest.mark.slow
def test_a_whole_run_judged_by_server(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    wanted = {
        "judge.annotators": POOL,
        "evaluate.judge.kind": "server",
        "synthesize.rlaif.engine": "server",
        "methods": ["rlaif", "spg"],
        "ppo.select": "judge",
        "ppo.candidates": [3],
        "judge.price_per_million_input": 1.0,
    }
    with FakeServer(says) as server:
        rlp("run", "--preset", "quickstart", run_dir, *sets(settings(server, **wanted)))
        assert max(Counter(json.dumps(body, sort_keys=True) for body in server.requests).values()) == 1
        before = outputs(run_dir)
        count = len(server.requests)
        rlp("run", run_dir, "--force", "evaluate")
        assert len(server.requests) == count
        assert outputs(run_dir) == before
    results = json.loads((run_dir / "evaluate" / "results.json").read_text())
    assert all(row["mean_score"] is None and row["gain"] is None for row in results["policies"])
    annotations = rows(run_dir / "evaluate" / "annotations.jsonl")
    for row in results["policies"]:
        own = [line for line in annotations if line["generator_2"] == row["name"]]
        assert row["win_rate"] == pytest.approx(100 * sum(line["preference"] - 1 for line in own) / len(own))
        for line in own:
            reference, output = len(line["output_1"]), len(line["output_2"])
            assert reference == output or line["preference"] == (2.0 if output > reference else 1.0)
    assert {line["pool_member"] for line in annotations} == set(POOL)
    assert {line["annotator"] for line in annotations} == {results["judge"]}
    synthetic = {row["name"]: row for row in results["synthetic_pairs"]}
    pairs = rows(run_dir / "round-1" / "rlaif" / "synthesize" / "pairs.jsonl")
    assert all(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs)  # equal lengths: a draw, no pair
    assert synthetic["round-1/rlaif"]["accuracy"] == 1.0
    assert recorded(run_dir, "round-1/rlaif/synthesize")["rlaif_consistent_rate"] > 0
    assert recorded(run_dir, "round-1/rlaif/synthesize")["judging"]["calls"] > 0
    assert recorded(run_dir, "evaluate")["judging"]["cost"] > 0
    assert 0 <= json.loads((run_dir / "ppo" / "selection.json").read_text())["scores"]["3"] <= 100
    assert recorded(run_dir, "ppo")["judging"]["comparisons"] > 0
    assert (run_dir / "report.html").read_text().count("alpaca-eval by judge")
