"""What a study is asked for: read, kept in study.toml, added to, refused."""

from __future__ import annotations

import pytest

from rlp_engine.errors import ConfigError
from rlp_engine.study.request import (
    Asked,
    Request,
    combined,
    parse_seeds,
    parse_sweep,
    read_request,
    write_request,
)

OLD = Request(
    "quickstart",
    (42, 43),
    ("spg",),
    {"ppo.steps": 3},
    {"ppo.kl_coefficient": (0.1,), "synthesize.min_confidence": (0.6,)},
)


def asked(**values):
    return combined(Asked(**values), OLD, seed=42, methods=["uml"])


def test_seeds_are_a_count_or_a_list():
    assert parse_seeds("3", 42) == (42, 43, 44)
    assert parse_seeds("1,5,1", 42) == (1, 5)
    assert parse_seeds("7,", 42) == (7,)


@pytest.mark.parametrize("text", ["0", "-1", "a", "1,b", "", ",", "1.5"])
def test_what_is_no_seeds_is_said(text):
    with pytest.raises(ConfigError, match="no number of seeds"):
        parse_seeds(text, 42)


def test_values_are_split_outside_of_brackets_and_read_as_their_key_wants():
    found = parse_sweep(["ppo.kl_coefficient=.05, 1", "ppo.candidates=[4,8],[16]", "ppo.select=last,judge"])
    assert found == {
        "ppo.kl_coefficient": (0.05, 1.0),
        "ppo.candidates": ([4, 8], [16]),
        "ppo.select": ("last", "judge"),
    }


@pytest.mark.parametrize("text", ["ppo.steps", "ppo.steps=", "ppo.steps=,", "=3"])
def test_a_sweep_without_values_is_refused(text):
    with pytest.raises(ConfigError):
        parse_sweep([text])


@pytest.mark.parametrize(
    "words", [{"sets": ["seed=3"]}, {"sweep": ["seed=3,4"]}, {"sweep": ["curve.kl_coefficients=1"]}]
)
def test_keys_that_the_study_sets_itself_are_refused(words):
    with pytest.raises(ConfigError, match="the study's own"):
        combined(Asked(preset="quickstart", **words), None, seed=42, methods=["spg"])


def test_a_new_study_takes_what_it_is_not_told_from_the_preset():
    found = combined(Asked(preset="quickstart"), None, seed=42, methods=["spg", "reseed"])
    assert (found.seeds, found.methods, found.sweep) == ((42, 43, 44, 45, 46), ("spg", "reseed"), {})


def test_study_toml_gives_back_what_was_written(tmp_path):
    request = Request(
        "quickstart",
        (1, 2),
        ("spg", "uml+spg"),
        {"data.test.where": {"a": 1}, "x.y": "z"},
        {"k.l": ([1, 2], [3])},
        True,
    )
    write_request(tmp_path, request)
    assert read_request(tmp_path) == request
    assert read_request(tmp_path / "none") is None


def test_a_broken_study_toml_is_an_error_that_names_it(tmp_path):
    (tmp_path / "study.toml").write_text("preset = 'quickstart'\n")
    with pytest.raises(ConfigError, match=r"study\.toml cannot be read") as caught:
        read_request(tmp_path)
    assert "seeds" in caught.value.found


def test_more_seeds_methods_and_values_are_added_and_nothing_is_lost():
    assert asked() == OLD
    assert asked(seeds="1,").seeds == (42, 43, 1)
    assert asked(seeds="1").seeds == (42, 43)
    assert asked(methods=["reseed", "spg"]).methods == ("spg", "reseed")
    assert asked(sweep=["ppo.kl_coefficient=0.1,0.4", "ppo.epochs=1"]).sweep == {
        "ppo.kl_coefficient": (0.1, 0.4),
        "synthesize.min_confidence": (0.6,),
        "ppo.epochs": (1,),
    }


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ({"preset": "alpacafarm"}, "of preset 'quickstart'"),
        ({"sets": ["ppo.steps=4"]}, "ppo.steps = 3, not 4"),
        ({"sets": ["ppo.epochs=4"]}, "does not set ppo.epochs"),
        ({"same_world": True}, "a world of its own"),
    ],
)
def test_what_contradicts_a_study_is_refused(words, what):
    with pytest.raises(ConfigError, match=what) as caught:
        asked(**words)
    assert "another folder" in caught.value.mend


def test_what_repeats_a_study_is_not():
    assert asked(preset="quickstart", sets=["ppo.steps=3"]) == OLD
