"""Configs that nobody writes by mistake only: a ConfigError for each, never a crash and never an endless loop."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlp_engine.config.layers import all_keys
from rlp_engine.config.load import create_run, load_run
from rlp_engine.config.schema import RunConfig
from rlp_engine.errors import ConfigError

DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        (f"a = {DEEP}", "nested too deeply", ""),
        (".".join(["a"] * 3000) + " = 1", "nested too deeply", ""),
        ("seed = " + "9" * 5000, "a value cannot be held", ""),
        ('"a.b" = 1', "unknown key 'a.b'", "line 1"),
        ('\n[data.test_sets."a.b"]\npath = "hub:a/b"\nlimit = -1', "data.test_sets.a.b.limit = -1", "run.toml"),
        ("\ufeffseed = 1", "starts with a byte order mark", "line 1"),
        ('[data.test]\npath = "a\\u0000b"', "names a file that is not there", "line 2"),
        (f"[data.test]\npath = '{'a' * 5000}'", "cannot be reached", "line 2"),
        ("[data.test]\npath = '~nobody-of-this-name/x'", "names a file that is not there", "line 2"),
        ("[data.test]\npath = '/dev/zero'", "is a pipe or a device", "line 2"),
        (f"[model]\npath = '{'a' * 5000}'", "names a model folder that is not there", "line 2"),
        ("[model]\npath = '~nobody-of-this-name/x'", "names a model folder that is not there", "line 2"),
        (f"[ppo]\ncandidates = {[1] * 1001}", "ppo.candidates holds 1,001 items", "line 2"),
    ],
)
def test_a_hostile_run_toml_is_one_message(tmp_path, text, what, line):
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_run(tmp_path)
    assert what in error.value.what
    assert error.value.where.startswith(str(tmp_path / "run.toml"))
    assert error.value.where.endswith(line)
    assert error.value.mend


@pytest.mark.parametrize(
    "text",
    [
        "seed=" + "9" * 5000,
        f"seed={DEEP}",
        ".".join("a" * 3000) + "=1",
        "seed=\udc80",
        "\udc80=1",
        "data.test.path=a\0b",
        "ppo.candidates=[" + "1," * 100_000 + "]",
        "data.test.where={" + ",".join(f"a{i}=1" for i in range(1001)) + "}",
    ],
)
def test_a_hostile_set_is_one_message(tmp_path, text):
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(ConfigError):
        load_run(tmp_path, [text])


def test_more_set_options_than_there_are_keys_are_one_message(tmp_path):
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(ConfigError, match="10,000 --set options"):
        load_run(tmp_path, ["ppo.steps=4"] * 10_000)


def test_a_list_as_long_as_is_allowed_is_written_to_run_toml(tmp_path):
    create_run(tmp_path / "run", "quickstart", [f"ppo.candidates={list(range(1, 1001))}"])
    assert load_run(tmp_path / "run").config.ppo.candidates[-1] == 1000


WORDS = st.sampled_from(
    [*all_keys(), "a", '"a.b"', "data.test_sets.x", "nan", "inf", "[", "]", "{", "}", '"', "'", "1"]
)
LINES = st.lists(st.tuples(WORDS | st.text(max_size=8), st.sampled_from(["=", "\n", ".", ""]), WORDS), max_size=4)


@given(lines=LINES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_config_or_a_config_error(tmp_path, lines):
    text = "\n".join("".join(parts) for parts in lines)
    (tmp_path / "run.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = load_run(tmp_path).config
    except ConfigError as error:
        found = error
    assert isinstance(found, RunConfig) or found.what
