"""Feeds spoilt files to every reader of strangers' files for a given time; anything but an error of ours is a find.

    python benchmarks/fuzz_readers.py --seconds 600 [--seed 0] [--what data|config|run|model|all]

data    data files, through `rlp data check` and the judgement reader (tests/hostile_bytes.py)
config  run.toml and annotator files
run     a finished run directory, any of whose files is spoilt: status, plan, report page, metrics, compare
model   the files of a tiny model's folder: loading, one answer, one reward

The last three spoil real files (tests/spoilt_files.py). `all` gives each a quarter of the time.
A line of JSON at the end says how many files were read. A find is written to ./fuzz_find and ends with exit 1
and its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from rlp_engine.config.annotators import annotator_path, list_annotators, load_annotator
from rlp_engine.config.load import load_run
from rlp_engine.config.presets import list_presets, preset_path
from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.check import check_file
from rlp_engine.data.judgements import read_judgements
from rlp_engine.data.shapes import SHAPES
from rlp_engine.errors import RlpError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from hostile_bytes import hostile_bytes
from spoilt_files import spoilt
from tiny_run import RLP, TINY, rlp_environment, sets

ROUND = 500  # data files between two looks at the clock
FIND = Path("fuzz_find")
Counts = dict[str, int]


def read_every_way(path: Path) -> bool:
    """Whether some reader found nothing wrong. Raises what a reader should not raise."""
    accepted = False
    for kind in SHAPES:
        report = check_file(path, kind)
        assert report.good_rows <= report.rows, f"{report.good_rows} good of {report.rows} rows"
        assert all(len(what) < 2000 for _, what in report.problems), "a message without end"
        accepted |= not report.num_problems
    return accepts(lambda: read_judgements(DataFile(path=str(path)))) or accepted


def accepts(read: Callable[[], object]) -> bool:
    """Whether it ends without an error of ours; any other is raised."""
    try:
        read()
    except RlpError:
        return False
    return True


def fuzz_data(folder: Path, seconds: float, first_seed: int) -> Counts:
    path, counts = folder / "any.file", {"files": 0, "accepted": 0}

    def one(data: bytes) -> None:
        path.write_bytes(data)
        counts["files"] += 1
        with kept_if_it_raises(data):
            counts["accepted"] += read_every_way(path)

    start, number = time.monotonic(), first_seed
    while time.monotonic() - start < seconds:
        number += 1
        options = settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        seed(number)(options(given(hostile_bytes())(one)))()
    return counts


def fuzz_config(folder: Path, seconds: float, first_seed: int) -> Counts:
    originals = [preset_path(name) for name in list_presets()] + [annotator_path(name) for name in list_annotators()]

    def read(original: Path, path: Path) -> bool:
        if original in map(preset_path, list_presets()):
            (folder / "run.toml").write_bytes(path.read_bytes())
            return accepts(lambda: load_run(folder))
        return accepts(lambda: load_annotator(path))

    return spoil(originals, folder / "any.toml", read, seconds, first_seed)


def fuzz_run(folder: Path, seconds: float, first_seed: int) -> Counts:
    """Every command that only reads, on a finished run of which one file is spoilt."""
    run_dir = folder / "run"
    made = subprocess.run(
        [*RLP, "run", "--preset", "quickstart", str(run_dir), *sets(TINY)],
        env=rlp_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    files = [p for p in sorted(run_dir.rglob("*")) if p.is_file() and "superseded" not in p.parts]
    commands = (
        ["status", str(run_dir), "--why"],
        ["status", str(run_dir), "--verify", "--json"],
        ["report", str(run_dir)],
        ["metrics", str(run_dir), "ppo", "--samples"],
        ["run", str(run_dir), "--dry-run"],
        ["compare", str(run_dir), str(run_dir)],
    )

    def read(original: Path, path: Path) -> bool:
        whole = original.read_bytes()
        original.write_bytes(path.read_bytes())
        try:
            return all(list(map(command_ends_well, commands)))
        finally:
            original.write_bytes(whole)

    return spoil(files, folder / "any.file", read, seconds, first_seed)


def command_ends_well(words: list[str]) -> bool:
    """Run a command in this process; whether it ended with 0. Exit code 1 is our bug, and raised."""
    from rlp_cli.app import main

    with tempfile.TemporaryFile("w+") as stream:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            try:
                main(words)
            except SystemExit as ended:
                code = ended.code
        stream.seek(0)
        assert code != 1, f"rlp {' '.join(words)}\n{stream.read()}"
    return code == 0


def fuzz_model(folder: Path, seconds: float, first_seed: int) -> Counts:
    """One answer of a spoilt policy, and one reward of a reward model that starts from it."""
    import torch

    from rlp_engine.config.sections.model import ModelConfig, ScratchConfig
    from rlp_engine.data.records import Prompt
    from rlp_engine.data.templates import PromptTemplate
    from rlp_engine.generation.native import Request, Sampling, generate
    from rlp_engine.models.policy import load_policy, save_policy
    from rlp_engine.models.reward import ResponseScorer, load_reward
    from rlp_engine.models.scratch import build_scratch

    torch.set_num_threads(1)
    scratch = ScratchConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, tokenizer="word")
    model_dir = folder / "model"
    save_policy(build_scratch(ModelConfig(init="scratch", scratch=scratch), ["one two three"], seed=1), model_dir)
    files = sorted(model_dir.iterdir())

    def use() -> None:
        policy = load_policy(model_dir, ModelConfig())
        prompt = PromptTemplate("plain", policy.tokenizer).encode_prompt(Prompt("p", "one two"))
        settings = Sampling(1.0, 1.0, 3, policy.eos_ids, policy.tokenizer.pad_token_id)
        policy.answer_text(generate(policy.model, [Request(prompt, (1,))], settings, rows=2)[0].token_ids)
        reward_model = load_reward(model_dir, ModelConfig(), from_policy=True)
        template = PromptTemplate("plain", reward_model.tokenizer)
        ResponseScorer(reward_model, template, 2, 32).score_responses([Prompt("p", "one")], ["two"])

    def read(original: Path, path: Path) -> bool:
        whole = original.read_bytes()
        original.write_bytes(path.read_bytes())
        try:
            return accepts(use)
        finally:
            original.write_bytes(whole)

    return spoil(files, folder / "any.file", read, seconds, first_seed)


def spoil(
    originals: list[Path], path: Path, read: Callable[[Path, Path], bool], seconds: float, first_seed: int
) -> Counts:
    """Write a spoilt copy of one of the files to `path` and let `read` look at it, again and again."""
    counts, start, number = {"files": 0, "accepted": 0}, time.monotonic(), first_seed
    while time.monotonic() - start < seconds:
        number += 1
        draw = random.Random(number)
        original = draw.choice(originals)
        data = spoilt(original.read_bytes(), draw)
        path.write_bytes(data)
        with kept_if_it_raises(data, f"{original} spoilt with seed {number}"):
            counts["accepted"] += read(original, path)
        counts["files"] += 1
    return counts


@contextlib.contextmanager
def kept_if_it_raises(data: bytes, what: str = "") -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        FIND.write_bytes(data)
        if what:
            error.add_note(what)
        raise


FUZZERS = {"data": fuzz_data, "config": fuzz_config, "run": fuzz_run, "model": fuzz_model}


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the readers of strangers' files.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--what", choices=[*FUZZERS, "all"], default="all")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = list(FUZZERS) if arguments.what == "all" else [arguments.what]
    start = time.monotonic()
    found: dict[str, object] = {}
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = FUZZERS[name](Path(folder), arguments.seconds / len(chosen), arguments.seed)
    found |= {"seconds": round(time.monotonic() - start, 1), "first_seed": arguments.seed + 1}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
