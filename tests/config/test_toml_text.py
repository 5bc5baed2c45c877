"""Lines of keys, against texts that try to mislead a scanner; values set in place."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlp_engine.config.presets import list_presets, preset_path
from rlp_engine.config.toml_text import key_lines, parse_key, with_values
from rlp_engine.errors import ConfigError

TRICKY = '''\
# seed = 1
seed = 2  # = 3

text = """
[not.a.table]
key = 1
"""
list = [
  1,  # [a]
  2,
]
"quoted = key".b = 1
literal = \'\'\'
x = 1\'\'\'
inline = {a = 1, b = {c = 2}}
dotted.one.two = 3
[table]  # comment
key = 4
[table."sub table"]
key = 5
[[many]]
key = 6
'''


def test_keys_are_found_on_their_lines():
    assert key_lines(TRICKY) == {
        ("seed",): 2,
        ("text",): 4,
        ("list",): 8,
        ("quoted = key", "b"): 12,
        ("literal",): 13,
        ("inline",): 15,
        ("dotted", "one", "two"): 16,
        ("table",): 17,
        ("table", "key"): 18,
        ("table", "sub table"): 19,
        ("table", "sub table", "key"): 20,
        ("many",): 21,
        ("many", "key"): 22,
    }


@given(st.text(max_size=20))
def test_a_key_is_parsed_or_refused_and_never_more_than_a_key(text):
    try:
        path = parse_key(text)
    except ConfigError:
        return
    node = tomllib.loads(f"{text} = 0")
    for part in path:
        node = node[part]
    assert node == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seed",), 9),
        (("new",), "at the top, before the tables"),
        (("table", "key"), [1, 2]),
        (("table", "fresh"), True),
        (("table", "sub table", "key"), 1.5),
        (("other", "deep", "key"), "x"),
        (("dotted", "one", "two"), 4),
        (("dotted", "one", "three"), 4),
        (("inline", "b", "c"), 7),
    ],
)
def test_setting_a_value_changes_that_value_alone(path, value):
    want = tomllib.loads(TRICKY)
    node = want
    for part in path[:-1]:
        node = node.setdefault(part, {})
    node[path[-1]] = value
    text = with_values(TRICKY, {path: value})
    assert tomllib.loads(text) == want
    assert sum(line not in text.splitlines() for line in TRICKY.splitlines()) <= 1


@pytest.mark.parametrize("name", list_presets())
@pytest.mark.parametrize("key", ["data.test.where", "data.test.limit", "ppo.health.max_kl", "seed", "model.lora.rank"])
def test_keys_that_a_preset_leaves_out_can_be_set_in_its_text(name, key):
    """tomlkit alone writes [test.where] for the first of them: below dotted keys it loses the table's name."""
    path, value = tuple(key.split(".")), {"split": "eval"} if key.endswith("where") else 3
    text = preset_path(name).read_text()
    changed = with_values(text, {path: value})
    node = tomllib.loads(changed)
    for part in path:
        node = node[part]
    assert node == value
    assert sum(line not in changed.splitlines() for line in text.splitlines()) <= 1


def test_a_key_below_a_value_cannot_be_set():
    with pytest.raises(ConfigError, match="'seed' is not a table"):
        with_values(TRICKY, {("seed", "x"): 1})
