"""Results of runs on the disk -> numbers, tables, study.md, figure."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlp_engine.errors import CorruptArtifactError
from rlp_engine.run.fingerprint import Work
from rlp_engine.run.manifest import Manifest
from rlp_engine.study.read import RunResults, flat, read_run_results, tables_of
from rlp_engine.study.request import Request
from rlp_engine.study.summary import summarise
from rlp_engine.study.tables import Table, markdown, tables
from rlp_engine.study.write import command, write_study

WORK = Work(1, {}, {}, {})


def stage(folder, name, seconds, *, adopted_from="", started="2026-01-01", **files):
    (folder / name).mkdir(parents=True)
    manifest = Manifest(
        name, "", "f", WORK, {}, {}, {}, 1, started, "2026-01-02", seconds, 2**30, {"rlp": "1"}, {}, 1, adopted_from
    )
    manifest.write(folder / name)
    for file, text in files.items():
        (folder / name / file.replace("_", ".")).write_text(text)


def results_json(win_rate, **more):
    return json.dumps(
        {
            "judge": "gold",
            "reference": "data.test",
            "instructions": 2,
            "policies": [
                {"name": "sft", "win_rate": 50.0, "mean_score": 1.0, "kl": None, "n": 2, "eos_share": 1.0},
                {"name": "ppo", "win_rate": win_rate, "mean_score": 2.0, "kl": 3.0, "parts": {"correct": 0.5, "x": 1}},
            ],
            "reward_models": [{"name": "train-rm", "accuracy": {"sft": {"accuracy": 0.75, "n": 4}}}],
            "paired": [{"a": "ppo", "b": "sft", "difference": 1.0}],
            **more,
        }
    )


def annotations(**preferences):
    rows = [
        {"instruction": f"q{i}", "input": "", "generator_2": name, "preference": value}
        for name, values in preferences.items()
        for i, value in enumerate(values)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def two_seeds(tmp_path):
    for seed, win_rate, seconds in ((1, 60.0, 2.0), (2, 80.0, 4.0)):
        folder = tmp_path / f"seed-{seed}"
        stage(folder, "sft", seconds, started="2026-01-01T01")
        stage(
            folder,
            "evaluate",
            1.0,
            started="2026-01-01T02",
            results_json=results_json(win_rate, synthetic_pairs=[{"name": "spg", "accuracy": 0.5 + seed / 10}]),
            annotations_jsonl=annotations(sft=[1, 2], ppo=[2, 1.5 + seed / 4]),
        )
    return [read_run_results(tmp_path / f"seed-{seed}", seed, "") for seed in (1, 2)]


def test_numbers_are_read_by_name_and_what_is_none_is_left_out():
    row = {"name": "ppo", "kl": None, "nan": float("nan"), "ok": True, "a": {"b": {"c": 2}}, "d": [1]}
    assert flat(row) == {"a.b.c": 2.0}
    assert tables_of([{"name": "x", "y": 1}, {"y": 2}]) == {"x": {"y": 1.0}}
    assert tables_of({"x": {"y": 1}, "z": 3}) == {"x": {"y": 1.0}}
    assert tables_of(3) == {}


def test_means_over_seeds_of_everything_that_evaluate_wrote(two_seeds):
    [group] = summarise(two_seeds).groups
    rows = group.numbers["policies"]
    # 60, 80: mean 70, error sqrt(200 / 2) = 10
    assert (rows["ppo"]["win_rate"].mean, rows["ppo"]["win_rate"].standard_error) == (70.0, pytest.approx(10.0))
    assert "kl" not in rows["sft"]
    assert group.numbers["synthetic_pairs"]["spg"]["accuracy"].mean == pytest.approx(0.65)
    assert group.numbers["reward_models"]["train-rm"]["accuracy.sft.accuracy"].mean == 0.75
    # ppo - sft: seed 1 (1 + -.25) / 2 = 37.5 points, seed 2 (1 + 0) / 2 = 50
    [found] = group.compared
    assert (found.a, found.b, found.win_rate.mean, found.win_rate.positive) == ("ppo", "sft", 43.75, 2)
    assert found.score.mean == 1.0


def test_costs_are_of_the_runs_that_did_the_work(two_seeds, tmp_path):
    third = tmp_path / "seed-1--x=1"
    stage(third, "sft", 100.0, adopted_from="../seed-1")
    stage(third, "evaluate", 3.0, results_json=results_json(1.0), annotations_jsonl=annotations(sft=[1, 2], ppo=[2, 2]))
    runs = [*two_seeds, read_run_results(third, 1, "x=1")]
    costs = {cost.stage: cost for cost in summarise(runs).costs}
    assert list(costs) == ["sft", "evaluate"], "in the order of the work"
    assert (costs["sft"].seconds.mean, costs["sft"].seconds.seeds, costs["sft"].adopted) == (3.0, 2, 1)
    assert costs["sft"].peak_gib.mean == 1.0
    assert costs["evaluate"].seconds.seeds == 3


def test_a_value_is_compared_with_the_preset_where_it_touches_a_policy(results):
    base = results(1, sft=(None, 1.0, [1, 2]), ppo=(2.0, 2.0, [2, 2]))
    other = results(1, "x=1", instructions=base.instructions, sft=(None, 1.0, [1, 2]), ppo=(2.0, 1.5, [1, 2]))
    first, second = summarise([base, other]).groups
    assert first.against_preset == ()
    [found] = second.against_preset
    assert (found.a, found.win_rate.mean, found.score.mean) == ("ppo", -50.0, -0.5)


def test_other_instructions_are_not_compared_and_it_is_said(results):
    base = results(1, sft=(None, 1.0, [1, 2]))
    other = results(1, "x=1", instructions=(("p", ""), ("q", "")), sft=(None, 2.0, [2, 2]))
    summary = summarise([base, other])
    assert summary.groups[1].against_preset == []
    assert "other instructions" in summary.notes[0]


def test_results_that_cannot_be_read_name_the_run(tmp_path):
    stage(tmp_path / "a", "evaluate", 1.0, results_json="{", annotations_jsonl="")
    with pytest.raises(CorruptArtifactError) as caught:
        read_run_results(tmp_path / "a", 1, "")
    assert "--force evaluate" in caught.value.mend
    assert read_run_results(tmp_path / "none", 1, "") is None


def test_tables_show_per_cent_and_errors_and_a_dash_for_what_is_not_there(two_seeds):
    found = {table.title: table for table in tables(summarise(two_seeds))}
    policies = found["Policies"]
    assert list(policies.headers) == ["policy", "win-rate %", "score", "correct", "KL", "EOS %"]
    assert policies.rows[0] == ["sft", "50.0 ± 0.0", "1.000 ± 0.000", "-", "-", "100.0 ± 0.0"]
    assert found["Synthetic pairs"].rows == [["spg", "65.0 ± 5.0"]]
    assert found["Reward models: accuracy on the samples of each policy"].rows == [["train-rm", "75.0 ± 0.0"]]
    assert found["Paired differences"].rows[0][:2] == ["ppo - sft", "+43.8 ± 6.2"]


def test_a_table_is_markdown_whatever_a_cell_holds():
    hostile = Table("T", ["a"], [["\x1b[2Ja\n| b <img src=x> \u202e"]])
    assert markdown(hostile).splitlines()[4:] == ["| a \\| b &lt;img src=x> |"]
    assert markdown(Table("T", ["a", "b"], [["x|y", "1"]])).splitlines()[2:] == [
        "| a | b |",
        "| :-- | --: |",
        "| x\\|y | 1 |",
    ]


def test_the_files_of_a_study(two_seeds, tmp_path):
    request = Request("quickstart", (1, 2), ("spg",), {"data.test.path": "a b"}, {"ppo.kl_coefficient": (0.1, 1)}, True)
    standing = {"done": ["seed-1"], "left": {"seed-2": "not done yet"}}
    value = write_study(tmp_path, "runs/s", request, summarise(two_seeds), standing)
    wanted = (
        "rlp study runs/s --preset quickstart --seeds 1,2 --methods spg --sweep ppo.kl_coefficient=0.1,1 "
        "--set 'data.test.path=a b' --same-world"
    )
    assert command("runs/s", request) == wanted
    page = (tmp_path / "study.md").read_text()
    assert wanted in page
    assert "**Not finished:** seed-2 (not done yet)" in page
    assert "| ppo | 70.0 ± 10.0 |" in page
    written = json.loads((tmp_path / "study.json").read_text())
    assert written["results"]["groups"][0]["numbers"]["policies"]["ppo"]["win_rate"]["mean"] == 70.0
    assert [path.rsplit("/", 1)[1] for path in value["files"]] == ["study.md", "study.json", "figure.svg", "figure.png"]
    svg = (tmp_path / "figure.svg").read_text()
    assert "PPO − SFT" in svg
    first = {name: (tmp_path / name).read_bytes() for name in ("study.md", "study.json", "figure.svg", "figure.png")}
    write_study(tmp_path, "runs/s", request, summarise(two_seeds), standing)
    assert {name: (tmp_path / name).read_bytes() for name in first} == first, "the same results, the same bytes"


def test_a_study_of_nothing_yet_has_its_page(tmp_path):
    write_study(
        tmp_path, "s", Request("quickstart", (1,), ("spg",)), summarise([]), {"done": [], "left": {"seed-1": "x"}}
    )
    assert "seed-1 (x)" in (tmp_path / "study.md").read_text()
    assert not (tmp_path / "figure.svg").exists()


def test_an_instruction_that_was_not_judged_counts_for_neither(results):
    run = results(1, sft=(None, 1.0, [1, np.nan, 1]), ppo=(1.0, 1.0, [2, 2, np.nan]))
    assert isinstance(run, RunResults)
    assert summarise([run]).groups[0].compared[0].win_rate.mean == 100.0
