"""Run directories and configs from strangers: nothing outside is read, written or deleted; no file takes forever."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cli_process import SANDBOX, run_rlp

from rlp_cli.results import read_results
from rlp_engine.config.annotators import load_annotator
from rlp_engine.config.load import create_run, load_preset, load_run, require_run
from rlp_engine.config.outside import MOST_CONFIG_BYTES
from rlp_engine.config.toml_text import key_lines
from rlp_engine.errors import ConfigError, CorruptArtifactError
from rlp_engine.run.clean import removable
from rlp_engine.run.events import MetricsLog
from rlp_engine.run.fingerprint import DigestCache
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.manifest import read_manifest


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.toml").write_text(SANDBOX)
    return tmp_path / "run"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Somebody's files, with names that rlp would delete in a run."""
    folder = tmp_path / "outside"
    (folder / "sft-20250101T000000Z").mkdir(parents=True)
    (folder / ".x.1-1.tmp").write_text("mine")
    (folder / "notes").write_text("mine")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    "place", ["superseded", "logs", ".cache", "prepare", "round-1", "prepare.partial/checkpoints", "events.jsonl"]
)
def test_nothing_is_done_through_a_link_that_leads_out_of_the_run(run_dir, outside, place):
    link = run_dir / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside / "notes" if place == "events.jsonl" else outside)
    before = contents(outside)
    for use in (load_run, require_run, removable):
        with pytest.raises(ConfigError, match="leads out of it") as error:
            use(run_dir)
        assert error.value.where == str(link)
    assert contents(outside) == before


def test_the_commands_that_write_and_delete_refuse_it_and_touch_nothing(run_dir, outside):
    (run_dir / "superseded").symlink_to(outside)
    before = contents(outside.parent)
    for words in (["clean", run_dir, "--yes"], ["run", run_dir]):
        assert "leads out of it" in run_rlp(*words, code=3).stderr
    assert contents(outside.parent) == before


def test_links_within_a_run_and_to_a_run_are_fine(run_dir, tmp_path):
    (run_dir / "logs" / "attempt_1").mkdir(parents=True)
    (run_dir / "logs" / "latest").symlink_to("attempt_1")
    (run_dir / "logs" / "loop").symlink_to(run_dir)
    (tmp_path / "elsewhere.toml").write_text(SANDBOX)
    (run_dir / "run.toml").unlink()
    (run_dir / "run.toml").symlink_to(tmp_path / "elsewhere.toml")
    (tmp_path / "alias").symlink_to(run_dir)
    assert load_run(tmp_path / "alias").config.seed == 1


def test_a_pipe_in_a_run_is_named_and_not_waited_for(run_dir):
    (run_dir / "sft").mkdir()
    os.mkfifo(run_dir / "sft" / "stage.json")
    with pytest.raises(ConfigError, match="a pipe or a device"):
        load_run(run_dir)


@pytest.mark.parametrize("name", ["lock", "events.jsonl", "report.html", "sft/stage.json", "sft.partial/attempt.json"])
def test_a_folder_in_place_of_a_file_is_named(run_dir, name):
    (run_dir / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match="a folder is where") as error:
        load_run(run_dir)
    assert error.value.where == str(run_dir / name)


@pytest.mark.parametrize("name", ["logs", "superseded", ".cache", "sft.partial", "round-1/spg/ppo.partial"])
def test_a_file_in_place_of_a_folder_is_named(run_dir, name):
    (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
    (run_dir / name).write_text("?")
    with pytest.raises(ConfigError, match="a file is where") as error:
        load_run(run_dir)
    assert error.value.where == str(run_dir / name)


def test_a_stage_s_own_files_may_be_called_anything(run_dir):
    (run_dir / "sft" / "lock").mkdir(parents=True)
    (run_dir / "sft" / "logs").write_text("fine")
    assert load_run(run_dir).config.seed == 1


@pytest.mark.parametrize("name", ["../../notes", "/etc/passwd", "a/../../b", "", "a//b", "a\x00b"])
def test_names_of_outputs_cannot_lead_out_of_a_stage(tmp_path, name):
    record = {"sha256": "0", "bytes": 0}
    values = {"schema": 1, "status": "done", "outputs": {name: record}, "logs": {}}
    work = {"version": 1, "params": {}, "config": {}, "inputs": {}}
    (tmp_path / "stage.json").write_text(json.dumps(values | work))
    with pytest.raises(CorruptArtifactError) as error:
        read_manifest(tmp_path)
    assert "no path below the stage's folder" in error.value.found


@pytest.mark.parametrize("name", ["../presets/quickstart", "/etc/passwd", "annotators/alpaca-eval", "..", "a\x00b"])
def test_a_preset_is_a_name_and_never_a_path(run_dir, tmp_path, name):
    with pytest.raises(ConfigError, match="there is no preset"):
        load_preset(name)
    with pytest.raises(ConfigError, match="there is no preset"):
        create_run(tmp_path / "new", name)
    (run_dir / "run.toml").write_text(f"preset = {json.dumps(name)}\n")
    with pytest.raises(ConfigError):
        load_run(run_dir)


@pytest.mark.parametrize(
    "sets",
    [
        ["methods=../../x"],
        ['data.test_sets={"../../x" = {path = "x.jsonl"}}'],
        ['data.test_sets={".." = {path = "x.jsonl"}}'],
        ["judge.annotators=../../../etc/passwd", "evaluate.judge.kind=server"],
    ],
)
def test_names_in_a_config_that_would_be_paths_are_refused(run_dir, sets):
    with pytest.raises(ConfigError):
        load_run(run_dir, sets)


@pytest.mark.parametrize("name", ["../x", "a/../b", "/x", "a/./b", "A", "logs", "superseded/x", "", "a\n"])
def test_a_stage_name_stays_below_the_run(tmp_path, name):
    with pytest.raises(AssertionError):
        RunLayout(tmp_path).stage(name)


def test_files_of_a_run_that_are_nested_without_end_are_passed_over(run_dir):
    deep = b"[" * 100_000 + b"\n"
    for name in ("metrics.jsonl", ".cache/digests.json"):
        (run_dir / name).parent.mkdir(exist_ok=True)
        (run_dir / name).write_bytes(deep)
    log = MetricsLog(run_dir / "metrics.jsonl")
    log.append(2, {"loss": 0.5})
    log.cut_to(2)
    assert log.read() == [{"step": 2, "loss": 0.5}]
    assert DigestCache(run_dir / ".cache/digests.json").of(run_dir / "run.toml")
    for folder in ("sft", "evaluate"):
        (run_dir / folder).mkdir()
    (run_dir / "sft" / "stage.json").write_bytes(deep)
    (run_dir / "evaluate" / "results.json").write_bytes(deep)
    for read, place in ((read_manifest, run_dir / "sft"), (read_results, run_dir)):
        with pytest.raises(CorruptArtifactError, match="cannot be read"):
            read(place)


def quickly(act, *words) -> ConfigError:
    """Several of these took minutes, or did not end: the suite would show it."""
    with pytest.raises(ConfigError) as error:
        act(*words)
    return error.value


BOMBS = {
    "deep lists": "x = " + "[" * 50_000 + "]" * 50_000,
    "deep tables": "x = " + "{a=" * 50_000 + "1" + "}" * 50_000,
    "deep keys": "data.test.where." + "a." * 50_000 + "a = 1",
    "deep header": "[" + "a." * 50_000 + "a]\nx = 1",
    "long number": "seed = " + "9" * 100_000,
    "many keys": "".join(f"k{i} = 1\n" for i in range(20_000)),
    "many keys of ours": "[ppo]\n" + "".join(f"stepz{i} = 1\n" for i in range(900)),
    "long value": 'nobody = """' + "a = [1] # ]\n" * 18_000 + '"""\n',
    "long list": "nobody = [\n" + "1,\n" * 60_000 + "]\n",
    "equals signs": '"' + "=" * 200_000 + '" = 1\n',
    "too large": "# " + "x" * MOST_CONFIG_BYTES,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_config_bomb_is_an_error_with_words_and_soon(run_dir, name):
    (run_dir / "run.toml").write_text(BOMBS[name])
    assert quickly(load_run, run_dir).what


@pytest.mark.parametrize("target", ["/dev/zero", "pipe", "/"])
def test_a_config_that_is_a_device_a_pipe_or_a_folder_is_not_read(run_dir, tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    (run_dir / "run.toml").unlink()
    (run_dir / "run.toml").symlink_to(tmp_path / target)
    assert "is not a run directory" in quickly(load_run, run_dir).what
    (tmp_path / "odd.toml").symlink_to(tmp_path / target)
    quickly(load_annotator, tmp_path / "odd.toml")


def test_the_lines_of_keys_are_found_whatever_their_values_hold():
    text = (
        'a = """\n[no]\nb = 1\n"""\n"c = \\" ]" = \'\'\'\n]\n\'\'\'\n'
        '[ "t.u" ] # [x]\nlist = [ # ]\n  "]", { d = "}" },\n]\n'
        "i = { j = 1 }\nx.y = 2 # z = 3\n[[many]]\nk = '''''two quotes'''''\nlast = \"\""
    )
    assert key_lines(text) == {
        ("a",): 1,
        ('c = " ]',): 5,
        ("t.u",): 8,
        ("t.u", "list"): 9,
        ("t.u", "i"): 12,
        ("t.u", "x", "y"): 13,
        ("many",): 14,
        ("many", "k"): 15,
        ("many", "last"): 16,
    }
