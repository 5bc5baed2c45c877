"""The speed benchmarks: tables worked by hand, the work that both sides get, one real measurement of our side."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the installed packages

from benchmarks.speed import workload  # noqa: E402
from benchmarks.speed.build import (  # noqa: E402
    EOS_ID,
    build_policy,
    build_reward,
    build_tokenizer,
    eos_probabilities,
    save_models,
)
from benchmarks.speed.clock import Job  # noqa: E402
from benchmarks.speed.entailment import (  # noqa: E402
    ENTAILMENT,
    NEUTRAL,
    Relation,
    draw_texts,
    made_up_texts,
)
from benchmarks.speed.entailment import build_tokenizer as build_pieces  # noqa: E402
from benchmarks.speed.roofline import decode_bound, figures, utilisation  # noqa: E402
from benchmarks.speed.run import read_lines, write_lines  # noqa: E402
from benchmarks.speed.shapes import SHAPES, Shape, cases  # noqa: E402
from benchmarks.speed.startup import stage_seconds  # noqa: E402
from benchmarks.speed.table import BEGIN, END, spread, tables, write_tables  # noqa: E402
from rlp_engine.errors import ConfigError  # noqa: E402

MICRO = Shape(64, 16, 32, 2, 2, 2)


def test_parameters_are_those_of_the_models():
    model = build_policy(MICRO, 8)
    assert MICRO.parameters == sum(parameter.numel() for parameter in model.parameters())
    grouped = Shape(64, 16, 32, 1, 4, 2)  # two heads share a key
    assert grouped.parameters == sum(parameter.numel() for parameter in build_policy(grouped, 8).parameters())
    assert SHAPES["tiny"].parameters == 1_180_800
    assert SHAPES["small"].parameters == 26_483_200


def line(case: str, side: str, pair: int, rate: float, **more) -> dict:
    own = {"benchmark": "reward", "case": case, "side": side, "role": "pair", "pair": pair, "batch": 8, "rate": rate}
    return own | {"peak_bytes": 512 * 2**20 if side == "ours" else 1024 * 2**20, "versions": {"torch": "2.13"}} | more


def test_table_has_the_medians_and_the_ratios_of_pairs():
    lines = [line("tiny", "ours", i, rate) for i, rate in enumerate((30.0, 44.0, 20.0))]
    lines += [line("tiny", "peer", i, rate) for i, rate in enumerate((20.0, 22.0, 16.0))]
    lines += [line("tiny", "ours", 3, 99.0), line("tiny", "peer", 0, 1.0, role="search")]  # no pair; no measurement
    text = tables({"reward": lines})
    row = next(row for row in text.splitlines() if row.startswith("| reward"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3:6] == ["30.0 (20.0 to 44.0)", "20.0 (16.0 to 22.0)", "**1.50 (1.25 to 2.00)**"]
    assert cells[6:] == [">= 1.50", "8 / 8", "512 / 1,024 (50%)"]


def test_shares_of_the_machine_have_what_was_asked():
    name = cases("sampling", ("1b",))[0].name
    lines = [
        line(name, side, 0, 1.0, roofline_share=share) | {"benchmark": "sampling"}
        for side, share in (("ours", 0.52), ("peer", 0.1))
    ]
    assert f"| sampling | {name} | reading weights and cache | 52.0% | 10.0% | >= 50% |" in tables({"sampling": lines})


def test_spread_of_one_number_is_the_number():
    assert spread([2.0], "{:.1f}".format) == "2.0"
    assert spread([4.0, 1.0], "{:.1f}".format) == "2.5 (1.0 to 4.0)"


def test_clustering_has_its_shares():
    case = cases("clustering", ("tiny",))[0].name
    lines = [line(case, "ours", 0, 4.0, forwards=57), line(case, "peer", 0, 2.0, forwards=200)]
    lines = [one | {"benchmark": "clustering"} for one in lines]
    assert "| 57 | 200 | 28% | <= 57% | 50% | <= 55% |" in tables({"clustering": lines})


def test_page_keeps_what_is_outside_the_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_lines(tmp_path, "reward", [line("tiny", "ours", 0, 3.0), line("tiny", "peer", 0, 2.0)])
    write_tables(tmp_path, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "**1.50**" in text
    assert "old" not in text
    page.write_text("no markers")
    with pytest.raises(ConfigError, match="no place"):
        write_tables(tmp_path, page)


def test_a_new_measurement_takes_the_place_of_its_own_case_only(tmp_path):
    write_lines(tmp_path, "reward", [line("tiny", "ours", 0, 1.0), line("small", "ours", 0, 2.0)])
    write_lines(tmp_path, "reward", [line("tiny", "ours", 0, 3.0)])
    path = tmp_path / "speed-reward.jsonl"
    assert {one["case"]: one["rate"] for one in read_lines(path)} == {"small": 2.0, "tiny": 3.0}
    path.write_text("{\n")
    with pytest.raises(ConfigError, match="not JSON"):
        list(read_lines(path))


def test_roofline_by_hand():
    # 16 x 64 numbers of head, 2 layers of 4 x 16 x 16 + 3 x 16 x 32 + 2 x 16, norm 16: 6224 that multiply
    assert MICRO.matmul_parameters == 1024 + 2 * (1024 + 1536 + 32) + 16 == 6224
    # cache of a row: 2 (keys, values) x 2 layers x 16 x 10 tokens = 640 numbers
    bound = decode_bound(MICRO, rows=3, context=10, bandwidth=2 * (6224 + 3 * 640) * 5.0, number_bytes=2)
    assert bound == pytest.approx(3 * 5.0)
    assert utilisation(MICRO, tokens=100, seconds=2.0, flops=6 * 6224 * 100.0) == pytest.approx(0.5)
    measured = {"benchmark": "ppo", "device": "cpu", "phases_cpu_seconds": {"optimise": 4.0}, "cpu_seconds": 9.0}
    found = figures(measured | {"trained_tokens": 100}, MICRO, {"flops": 12 * 6224 * 100.0, "bandwidth": 1.0})
    assert found["utilisation"] == pytest.approx(0.25)  # policy and value model, in the optimisation's 4 s


@pytest.mark.parametrize("benchmark", ["sampling", "ppo", "reward", "sft"])
def test_the_same_seed_gives_the_same_work(benchmark):
    settings = cases(benchmark, ("tiny",))[0].settings
    first, again = (workload.draw(benchmark, settings, 2048) for _ in range(2))
    assert first == again
    assert workload.draw(benchmark, settings, 2048, seed=1) != first
    assert min(_numbers(first)) >= len(workload.CONTROL_TOKENS)


def _numbers(value) -> list[int]:
    if isinstance(value, int):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [number for one in values for number in _numbers(one)]


def test_lengths_are_as_said():
    rng = np.random.default_rng(0)
    lengths = [len(ids) for ids in workload.prompts(rng, 4000, {"shortest": 24, "mean": 48, "longest": 96}, 2048)]
    assert (min(lengths), max(lengths) <= 96) == (24, True)
    assert np.mean(lengths) == pytest.approx(48, abs=1)
    responses = workload.response_lengths(rng, 4000, {"mean": 90, "sigma": 0.6, "longest": 320})
    assert np.mean(responses) == pytest.approx(90, rel=0.04)
    assert max(responses) == 320
    assert np.std(np.log(responses)) == pytest.approx(0.6, abs=0.03)


def test_answers_end_as_often_as_asked_everywhere():
    model = build_policy(SHAPES["tiny"], 40)
    ids_BL = torch.randint(3, 2048, (8, 64), generator=torch.Generator().manual_seed(5))
    eos_BL = eos_probabilities(model, ids_BL)
    assert float(eos_BL.mean()) == pytest.approx(1 / 40, rel=0.1)
    assert float(eos_BL.std()) < 0.5 / 40
    with torch.no_grad():
        probabilities_BLV = model(ids_BL).logits.softmax(-1)
    assert float(probabilities_BLV[..., [0, 2]].max()) < 1e-9  # no padding, no unknown token
    assert float(probabilities_BLV.max()) == pytest.approx(float(eos_BL.max()))  # EOS is the likeliest, of id 1
    assert EOS_ID == 1


def test_texts_have_the_tokens_they_were_made_of():
    tokenizer = build_tokenizer(64)
    assert tokenizer(workload.text_of([5, 63, 3]))["input_ids"] == [5, 63, 3]
    assert tokenizer.decode([5, 63, 3]) == "w5 w63 w3"


def test_reward_model_reads_the_policys_backbone():
    policy = build_policy(MICRO, 8)
    reward = build_reward(policy)
    assert reward.config.num_labels == 1
    ids_BL = torch.tensor([[5, 6, 7]])
    hidden_BD = policy.model(ids_BL).last_hidden_state[:, -1]
    torch.testing.assert_close(reward(ids_BL).logits, hidden_BD @ reward.score.weight.T)


def test_relation_is_known_from_the_tokens():
    texts = made_up_texts(2, 10)
    tokenizer = build_pieces([text for instruction, outputs in texts for text in (instruction, *outputs)])
    rows = draw_texts({"outputs": 10, "mean_tokens": 20}, texts, tokenizer)
    assert rows == draw_texts({"outputs": 10, "mean_tokens": 20}, texts, tokenizer)
    rows = [
        {"instruction": "bost da", "outputs": ["ba ba", "ba den", "fir"], "meanings": [0, 0, 1], "one_way": [[1, 0]]},
        {"instruction": "gul", "outputs": ["ba ba"], "meanings": [0], "one_way": []},
    ]
    relation = Relation(rows, tokenizer)

    def label(premise: str, hypothesis: str) -> int:
        return int(relation.logits(tokenizer(premise, hypothesis, return_tensors="pt")["input_ids"]).argmax())

    assert label("bost da ba ba", "bost da ba den") == label("bost da ba den", "bost da ba ba") == ENTAILMENT
    assert label("bost da fir", "bost da ba ba") == ENTAILMENT  # one way
    assert label("bost da ba ba", "bost da fir") == NEUTRAL
    assert label("bost da ba ba", "gul ba ba") == NEUTRAL  # another instruction
    assert label("bost da fir", "gul ba ba") == NEUTRAL
    with pytest.raises(KeyError):
        label("bost da ba", "bost da fir")


def test_stage_seconds_are_summed_over_the_run(tmp_path):
    for name, seconds in (("sft", 2.5), ("round-1/spg/ppo", 1.25)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "stage.json").write_text(json.dumps({"seconds": seconds}))
    assert stage_seconds(tmp_path) == 3.75


def speed(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.speed", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)


def test_missing_peers_end_with_2_and_the_command_that_mends_it(tmp_path):
    done = speed("sampling", "--out", str(tmp_path), RLP_PEERS_PYTHON=str(tmp_path / "python"))
    assert done.returncode == 2
    assert "make bench-peers" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sft", "--sizes", "huge"], "huge"),
        (["ppo", "--side", "left"], "left"),
        (["reward", "--only", "nothing"], "nothing"),
    ],
)
def test_bad_arguments_end_with_2(words, said):
    done = speed(*words)
    assert done.returncode == 2
    assert said in done.stderr


def test_peers_do_not_import_rlp():
    package = ROOT / "benchmarks" / "speed"
    files = [*(package / "peers").glob("*.py"), *(package / f"{name}.py" for name in ("__init__", "clock", "workload"))]
    assert len(files) > 6
    for file in files:
        assert "rlp_" not in file.read_text(), file


@pytest.fixture(scope="module")
def micro_models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_models(folder, MICRO, 8, device="cpu", dtype="float32")
    return folder


LENGTHS = {"shortest": 4, "mean": 6, "longest": 9}
MICRO_WORK = {
    "sampling": {"prompts": 3, "lengths": LENGTHS, "answers": 4, "max_new_tokens": 6},
    "ppo": {"lengths": LENGTHS, "max_new_tokens": 6, "warmup": 1, "updates": 2, "batch": 4, "epochs": 2},
    "reward": {"lengths": LENGTHS, "response": {"mean": 6, "sigma": 0.5, "longest": 9}, "items": 6, "minibatch": 4},
    "sft": {"lengths": LENGTHS, "response": {"mean": 6, "sigma": 0.5, "longest": 9}, "items": 6, "minibatch": 4}
    | {"max_length": 32},
}


@pytest.mark.parametrize("benchmark", list(MICRO_WORK))
def test_our_side_does_the_work_and_counts_it(benchmark, micro_models, tmp_path):
    settings = MICRO_WORK[benchmark]
    work = workload.draw(benchmark, settings, MICRO.vocab_size)
    (micro_models / "work.json").write_text(json.dumps(work))
    job = Job(micro_models, tmp_path / "result.json", "cpu", 2, settings)
    importlib.import_module(f"benchmarks.speed.ours.{benchmark}").measure(job)
    found = json.loads(job.result.read_text())
    tokens = sum(sum(map(len, row)) + 1 for row in work["items"]) if benchmark == "sft" else None
    units = {"ppo": 2 * 4, "reward": 6, "sft": tokens}
    if benchmark == "sampling":
        assert 12 <= found["units"] <= 12 * 6  # 12 answers
    else:
        assert found["units"] == units[benchmark]
    if benchmark == "ppo":
        phases = found["phases_cpu_seconds"]
        assert set(phases) == {"generate", "score", "optimise"}
        assert min(phases.values()) > 0
        assert sum(phases.values()) == pytest.approx(found["cpu_seconds"])
    measured = found | {"benchmark": benchmark, "device": "cpu", "dtype": "float32", "rate": 1.0, "batch": 2}
    assert figures(measured, MICRO, {"bandwidth": 1e10, "flops": 1e11})
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.slow
def test_our_side_is_measured_in_a_process_of_its_own(tmp_path):
    words = ["sampling", "--size", "tiny", "--only", "32 prompts", "--side", "ours", "--ours-batch", "320"]
    done = speed(*words, "--repeats", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [measured] = read_lines(tmp_path / "speed-sampling.jsonl")
    assert measured["answers"] == 320
    assert 28 < measured["units"] / measured["answers"] < 36  # tokens
    assert measured["rate"] == pytest.approx(measured["units"] / measured["cpu_seconds"])
    assert measured["peak_bytes"] > 10**8
    assert 0 < measured["roofline_share"] < 1
    assert str(tmp_path) not in json.dumps(measured)
    assert "peer" not in tables({"sampling": [measured]})
