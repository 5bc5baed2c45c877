"""Every faulty file of the shared data through the command line: exit code, place and mend, and no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_process import SANDBOX, environment

BAD = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "bad"
pytestmark = pytest.mark.skipif(not BAD.is_dir(), reason="the shared test data (../shared/data) is not here")

OURS = {"preference": "preferences", "sft": "demonstrations", "eval": "outputs", "any": "prompts"}
DECIDED = {"json_array_named.jsonl": "accept", "sft_utf16.json": "reject"}  # the manifest leaves these to us
TABLES = {"preferences": "preferences", "demonstrations": "demonstrations", "prompts": "unlabeled"}
MANY = """
import contextlib, io, json, sys
from rlp_cli.app import main
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=sys.__stdout__)
"""


def told(commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each command line, all in one process, which saves the start of 27."""
    done = subprocess.run(
        [sys.executable, "-c", MANY],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def entries() -> list[tuple[str, str, bool]]:
    """(file, kind, whether it is refused)."""
    manifest = json.loads((BAD / "manifest.json").read_text())
    return [
        (entry["file"], OURS.get(entry["kind"], entry["kind"]), DECIDED.get(entry["file"], entry["expect"]) == "reject")
        for entry in manifest
    ]


def check(name: str, refused: bool, code: int, out: str, err: str) -> None:
    assert code == (4 if refused else 0), f"{name}: {err}"
    assert "Traceback" not in out + err
    assert "\x1b" not in out + err
    assert len(out + err) < 10_000
    if refused:
        assert err.count("error: ") == 1
        [where] = [line for line in err.splitlines() if line.startswith("  where: ")]
        assert name in where


def test_checked():
    cases = entries()
    commands = [["data", "check", str(BAD / name), "--as", kind] for name, kind, _ in cases]
    for (name, _, refused), result in zip(cases, told(commands), strict=True):
        check(name, refused, *result)


def test_named_by_a_run(tmp_path):
    cases = [case for case in entries() if case[1] in TABLES]
    commands = []
    good = {"instruction": "q", "output": "a", "chosen": "a", "rejected": "b"}
    (tmp_path / "good.jsonl").write_text(json.dumps(good) + "\n")
    for number, (name, kind, _) in enumerate(cases):
        run_dir = tmp_path / str(number)
        run_dir.mkdir()
        tables = dict.fromkeys([*TABLES.values(), "validation", "test"], str(tmp_path / "good.jsonl"))
        tables[TABLES[kind]] = str(BAD / name)
        paths = "".join(f'data.{table}.path = "{path}"\n' for table, path in tables.items())
        text = SANDBOX
        for old, new in (
            ('data.source = "sandbox"\n', paths),
            ('annotator.kind = "gold"', 'source = "file"'),
            ('judge.kind = "gold"', 'judge.kind = "reward-model"\njudge.path = "OWNER/NAME"'),
            ('equivalence.kind = "sandbox"', 'equivalence.kind = "exact-match"'),
        ):
            text = text.replace(old, new)
        (run_dir / "run.toml").write_text(text)
        commands.append(["run", str(run_dir), "--only", "prepare"])
    for (name, _, refused), result in zip(cases, told(commands), strict=True):
        check(name, refused, *result)
        if refused:
            assert "  mend:  " in result[2]
