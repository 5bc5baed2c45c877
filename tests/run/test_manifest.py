import json

import pytest

from rlp_engine.errors import CorruptArtifactError
from rlp_engine.run.fingerprint import InputDigest, Work
from rlp_engine.run.manifest import Manifest, content_problems, read_manifest, record_contents, size_problems


def manifest(folder, **other) -> Manifest:
    contents = record_contents(folder)
    values = {
        "name": "sft",
        "reason": "not done yet",
        "fingerprint": "f",
        "work": Work(1, {"round": 1}, {"seed": 42}, {"rows": InputDigest("prepare", "rows.txt", "d")}),
        "outputs": contents.outputs,
        "logs": contents.logs,
        "summary": {"loss": 0.5},
        "seed": 42,
        "started": "a",
        "finished": "b",
        "seconds": 1.0,
        "peak_rss_bytes": 1,
        "versions": {"python": "3.11"},
        "platform": {"world_size": 1},
        "attempts": 2,
    }
    return Manifest(**{**values, **other})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.bin").write_bytes(b"12345")
    (tmp_path / "model2").mkdir()
    (tmp_path / "model2" / "b.bin").write_bytes(b"1")
    return tmp_path


def test_what_was_written_is_read(folder):
    before = manifest(folder)
    before.write(folder)
    assert read_manifest(folder) == before
    assert json.loads((folder / "stage.json").read_text())["status"] == "done"


def test_a_stage_json_of_before_the_memory_fields_is_read(folder):
    before = manifest(folder)
    before.write(folder)
    values = json.loads((folder / "stage.json").read_text())
    assert values.pop("start_rss_bytes", 0) is None
    assert values.pop("peak_device_bytes", 0) is None
    (folder / "stage.json").write_text(json.dumps(values))
    assert read_manifest(folder) == before


def test_no_stage_json_means_not_complete(tmp_path):
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "nothing") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 99}', "null"])
def test_an_illegible_stage_json_is_an_error_that_names_it(folder, text):
    (folder / "stage.json").write_text(text)
    with pytest.raises(CorruptArtifactError) as error:
        read_manifest(folder)
    assert error.value.where == str(folder / "stage.json")


def test_logs_checkpoints_and_leftovers_are_no_outputs(folder):
    for name in ("metrics.jsonl", "samples/step_000001.jsonl", "samples/shard_1.jsonl", "checkpoints/s/COMPLETE"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for name in ("attempt.json", "config.json", ".x.json.12-0.tmp"):
        (folder / name).write_text("x")
    (folder / "times.txt").write_text("12:00")
    contents = record_contents(folder, ["times.*"])
    assert sorted(contents.outputs) == ["model/a.bin", "model2/b.bin", "samples/shard_1.jsonl"]
    assert sorted(contents.logs) == ["metrics.jsonl", "samples/step_000001.jsonl", "times.txt"]


def test_a_model_named_checkpoints_deeper_down_is_an_output(folder):
    (folder / "model" / "checkpoints").mkdir()
    (folder / "model" / "checkpoints" / "c").write_text("x")
    assert "model/checkpoints/c" in record_contents(folder).outputs


def test_a_link_is_refused_because_it_breaks_when_the_run_is_copied(folder, tmp_path_factory):
    (folder / "link").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(AssertionError, match="links"):
        record_contents(folder)


def test_a_digest_covers_its_folder_and_no_namesake(folder):
    before = manifest(folder)
    (folder / "model2" / "b.bin").write_bytes(b"2")
    after = manifest(folder)
    assert after.digest("model") == before.digest("model")
    assert after.digest("model2") != before.digest("model2")
    assert after.digest("") != before.digest("")
    assert after.digest("mod") == ""


def test_sizes_show_what_is_cut_or_gone_and_content_shows_the_rest(folder):
    outputs = manifest(folder).outputs
    assert size_problems(folder, outputs) == content_problems(folder, outputs) == []
    (folder / "model" / "a.bin").write_bytes(b"12346")
    assert size_problems(folder, outputs) == []
    assert content_problems(folder, outputs) == ["model/a.bin has other content than when it was made"]
    (folder / "model" / "a.bin").write_bytes(b"1234")
    (folder / "model2" / "b.bin").unlink()
    assert size_problems(folder, outputs) == ["model/a.bin is 4 bytes, was 5", "model2/b.bin is missing"]
