"""Help and status come without the heavy packages: people ask for them all the time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.main import get_command

from rlp_cli.app import app

HEAVY = {"torch", "transformers", "datasets", "accelerate", "peft", "matplotlib", "sklearn"}
HEAVY_FOR_HELP = HEAVY | {"pydantic", "numpy", "rich.progress", "rlp_engine.config.schema"}

CHILD = """
import contextlib, io, json, sys
from rlp_cli.app import main
ends = []
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main(words)
        except SystemExit as end:
            ends.append([end.code, out.getvalue()])
print(json.dumps({"ends": ends, "modules": sorted(sys.modules)}))
"""


def in_child(*command_lines: list[str]) -> tuple[list[tuple[int, str]], set[str]]:
    """(exit code, stdout) of each command line, and the modules that were imported, in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(command_lines)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found["ends"], set(found["modules"])


def commands(group=None, path=()) -> list[list[str]]:
    found = []
    for name, command in (group or get_command(app)).commands.items():
        found.append([*path, name])
        if hasattr(command, "commands"):
            found += commands(command, (*path, name))
    return found


def test_help_of_every_command_imports_nothing_heavy():
    lines = [["--help"], ["--version"], *([*words, "--help"] for words in commands())]
    assert len(lines) > 20
    ends, modules = in_child(*lines)
    assert not modules & HEAVY_FOR_HELP
    for words, (code, text) in zip(lines, ends, strict=True):
        assert code == 0, words
        assert "Usage: rlp" in text or words == ["--version"]


def test_every_command_takes_the_four_words():
    lines = [[*words, "--help"] for words in commands() if words not in (["config"], ["data"])]
    for words, (_, text) in zip(lines, in_child(*lines)[0], strict=True):
        for option in ("--json", "--quiet", "--verbose", "--no-color"):
            assert option in text, words


def test_all_commands_of_the_specification_are_there():
    names = {" ".join(words) for words in commands()}
    wanted = "run init sft collect train-rm ppo sample embed synthesize refine-rm evaluate prepare status metrics"
    wanted += " presets report export clean doctor"
    assert set(wanted.split()) | {"config show", "config check", "config diff", "data check"} <= names


def test_status_and_dry_run_import_neither_torch_nor_transformers(sft_run):
    run_dir = str(sft_run)
    lines = [["status", run_dir, "--why"], ["run", run_dir, "--dry-run"], ["config", "show", run_dir]]
    lines += [["metrics", run_dir, "sft"], ["status", run_dir, "--verify"]]
    ends, modules = in_child(*lines)
    assert [code for code, _ in ends] == [0] * len(lines)
    assert not modules & {"torch", "transformers"}


def test_no_words_at_all_give_the_help(rlp):
    assert "Commands:" in rlp().stdout


def test_version_is_the_packages(rlp):
    from rlp_engine import __version__

    assert rlp("--version").stdout == f"rlp {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_can_be_shown(rlp, shell):
    done = rlp("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "rlp" in done.stdout


def test_presets_complete(rlp):
    done = rlp(_RLP_COMPLETE="complete_bash", COMP_WORDS="rlp run --preset alpaca", COMP_CWORD="3")
    assert "alpacafarm" in done.stdout.split()
    assert "Usage:" not in done.stdout
