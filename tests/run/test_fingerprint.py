import json
import os

import pytest

from rlp_engine.config.schema import RunConfig
from rlp_engine.run.fingerprint import (
    DigestCache,
    InputDigest,
    Work,
    canonical,
    changes,
    safe_keys,
    section_values,
    without,
)

SAFE = safe_keys(RunConfig)


def work(config: RunConfig, *sections: str, digest: str = "a", version: int = 1, **params) -> Work:
    inputs = {"model": InputDigest("sft", "model", digest)}
    return Work(version, params, section_values(config, sections), inputs)


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert canonical({"b": 1, "a": {"d": 2.5, "c": None}}) == canonical({"a": {"c": None, "d": 2.5}, "b": 1})


def test_a_safe_key_does_not_change_the_fingerprint_and_another_does():
    before = work(RunConfig(), "ppo", "log", "checkpoint")
    logged_more = RunConfig(log={"every_steps": 7}, checkpoint={"keep": 5}, ppo={"health": {"max_kl": 3.0}})
    assert work(logged_more, "ppo", "log", "checkpoint").fingerprint(SAFE) == before.fingerprint(SAFE)
    assert work(RunConfig(ppo={"steps": 7}), "ppo", "log", "checkpoint").fingerprint(SAFE) != before.fingerprint(SAFE)


def test_a_section_that_is_not_declared_does_not_change_the_fingerprint():
    assert work(RunConfig(sft={"epochs": 9}), "ppo").fingerprint(SAFE) == work(RunConfig(), "ppo").fingerprint(SAFE)


@pytest.mark.parametrize("other", [{"digest": "b"}, {"version": 2}, {"round": 2}])
def test_inputs_version_and_constants_are_in_the_fingerprint(other):
    assert work(RunConfig(), "ppo", **other).fingerprint(SAFE) != work(RunConfig(), "ppo").fingerprint(SAFE)


def test_there_is_no_fingerprint_before_all_inputs_are_known():
    assert work(RunConfig(), "ppo", digest="").fingerprint(SAFE) == ""


def test_a_part_of_a_section_can_be_declared():
    assert section_values(RunConfig(), ["seed", "data.source"]) == {"seed": 42, "data": {"source": "files"}}


def test_differences_are_told_in_words():
    old = work(RunConfig(), "synthesize", "log", round=1)
    new = work(RunConfig(synthesize={"min_confidence": 0.6}, log={"samples": 9}), "synthesize", "log", digest="b")
    assert new.differs_from(old, SAFE) == [
        "synthesize.min_confidence: 0.5 -> 0.6",
        "constant.round: 1 -> (not set)",
        "its input sft/model changed",
    ]
    assert old.differs_from(old, SAFE) == []


def test_every_difference_of_config_is_a_difference_of_fingerprint_and_the_other_way():
    old = work(RunConfig(), "data", "model", "seed")
    for config in (RunConfig(seed=1), RunConfig(data={"test": {"fields": {"input": "q"}}}), RunConfig(rounds=2)):
        new = work(config, "data", "model", "seed")
        assert bool(new.differs_from(old, SAFE)) == (new.fingerprint(SAFE) != old.fingerprint(SAFE))


def test_new_and_lost_keys_are_named():
    assert changes({"a": {"x": 1}}, {"a": {"y": "v"}}) == ["a.x: 1 -> (not set)", 'a.y: (not set) -> "v"']


def test_leaving_out_safe_keys_leaves_out_what_is_empty_then():
    assert without({"log": {"a": 1}, "b": {"c": 1, "d": 2}, "e": {}}, frozenset({"log.a", "b.d"})) == {
        "b": {"c": 1},
        "e": {},
    }


def settled(path):
    """As old as files are that nobody works on."""
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path):
    file = tmp_path / "data.txt"
    file.write_text("first")
    settled(file)
    cache = DigestCache(tmp_path / "digests.json")
    before = cache.of(file)
    file.write_text("other")
    settled(file)
    assert cache.of(file) != before


def test_a_remembered_file_is_not_read_again(tmp_path):
    file = tmp_path / "data.txt"
    file.write_text("first")
    status = file.stat()
    identity = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    (tmp_path / "digests.json").write_text(json.dumps({str(file): [identity, "remembered"]}))
    assert DigestCache(tmp_path / "digests.json").of(file) == "remembered"


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"FILE": 3}', '{"FILE": [[1], "x"]}'])
def test_a_broken_cache_is_no_cache(tmp_path, content):
    file = tmp_path / "data.txt"
    file.write_text("first")
    cache = tmp_path / "digests.json"
    cache.write_text(content.replace("FILE", str(file)))
    assert DigestCache(cache).of(file) == DigestCache(tmp_path / "none.json").of(file)


def test_a_folder_counts_names_and_content_but_not_hidden_files_or_its_own_place(tmp_path):
    digests = DigestCache(tmp_path / "digests.json")
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a.txt").write_text("1")
    (tmp_path / "two" / ".cache").mkdir()
    (tmp_path / "two" / ".cache" / "x").write_text("2")
    assert digests.of(tmp_path / "one") == digests.of(tmp_path / "two")
    (tmp_path / "two" / "sub" / "a.txt").rename(tmp_path / "two" / "sub" / "b.txt")
    assert digests.of(tmp_path / "one") != digests.of(tmp_path / "two")


def test_links_are_followed_and_a_loop_ends(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "x").write_text("1")
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").symlink_to(tmp_path / "blobs" / "x")
    (model / "loop").symlink_to(model)
    digests = DigestCache(tmp_path / "digests.json")
    before = digests.of(model)
    (tmp_path / "blobs" / "x").write_text("2")
    assert digests.of(model) != before


def test_a_file_that_was_just_written_is_not_remembered(tmp_path):
    """It may change again within the grain of its time stamp."""
    file = tmp_path / "data.txt"
    file.write_text("first")
    cache = DigestCache(tmp_path / "digests.json")
    cache.of(file)
    cache.save()
    assert not (tmp_path / "digests.json").exists()


def test_only_save_writes(tmp_path):
    file = tmp_path / "data.txt"
    file.write_text("first")
    DigestCache(tmp_path / "cache" / "digests.json").of(file)
    assert not (tmp_path / "cache").exists()
