"""`rlp doctor` in real processes."""

from __future__ import annotations

import json
from pathlib import Path


def snapshot(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_a_small_run_fits_and_nothing_is_written(rlp, new_run):
    before = snapshot(new_run)
    found = json.loads(rlp("doctor", new_run, "--json").stdout)
    assert found["fits"] is True
    assert snapshot(new_run) == before
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert "round-1/spg/ppo" in stages
    for stage in stages.values():
        assert sum(stage["parts"].values()) == stage["needed_bytes"] == stage["host_bytes"]
    assert found["largest"] == max(stages.values(), key=lambda stage: stage["needed_bytes"])["stage"]
    assert stages["prepare"]["host_bytes"] < 2**27 < stages["sft"]["host_bytes"]
    assert 1.0 <= found["heap_factor"] < 4.0


def test_what_does_not_fit_is_told_with_keys_that_help(rlp, tmp_path):
    sizes = {"hidden_size": 2048, "num_layers": 8, "num_heads": 16, "intermediate_size": 8192}
    sets = [word for key, value in sizes.items() for word in ("--set", f"model.scratch.{key}={value}")]
    done = rlp("doctor", "--preset", "quickstart", *sets, "--gpus", "2xToy-4G", code=6, cwd=tmp_path)
    assert "error: ppo will not fit: it needs" in done.stderr
    assert "4.0 GiB free" in done.stderr
    assert "where: Toy (as named)" in done.stderr
    assert "--set model.lora.rank=16" in done.stderr
    assert "Traceback" not in done.stderr
    assert "reckoned with 2 ranks and deepspeed.zero_stage = 2" in done.stderr
    assert "no time is estimated: the speed of Toy is not known" in done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["policy:", "AdamW's", "moments"] in [line[:3] for line in lines]
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_told_before_anything_is_measured(rlp, new_run, tmp_path):
    done = rlp("doctor", new_run, "--gpus", "lots", code=2)
    assert "--gpus takes COUNTxNAME-SIZEG, such as 8xA100-80G" in done.stderr
    rlp("doctor", code=2)
    assert "is not a run directory" in rlp("doctor", tmp_path / "none", code=3).stderr
    missing = ["--set", "model.init=pretrained", "--set", "model.path=/not/there"]
    done = rlp("doctor", new_run, *missing, code=3)
    assert "error: model.path names a model folder that is not there" in done.stderr
    assert "looked for /not/there" in done.stderr
