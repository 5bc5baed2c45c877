"""Where config values come from: the schema's defaults, a preset's file, run.toml, `--set`.

A key is a path of names; a source is a `Layer` of paths and values that knows on which line each stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlp_engine.config.nesting import longest
from rlp_engine.config.outside import read_config_text
from rlp_engine.config.presets import preset_path
from rlp_engine.config.schema import RunConfig
from rlp_engine.config.toml_text import KeyPath, key_lines, parse_key, parse_toml, parse_value, shortened
from rlp_engine.errors import ConfigError

MOST_KEYS = 1000  # of a file, and --set options of a command line; the schema has some 300
MOST_ITEMS = 1000  # of one list or free-form table: tomlkit takes the square of their number


@dataclass(frozen=True)
class Layer:
    """Values of one source, and the words that say where a key of it stands."""

    source: str
    values: Mapping[KeyPath, Any]
    file: str = ""
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        if not self.file:
            return f"--set {'.'.join(path)}"
        for length in range(len(path), 0, -1):  # a key of an inline table stands on the table's line
            if path[:length] in self.lines:
                return f"{self.file}, line {self.lines[path[:length]]}"
        return self.file


def file_layer(path: Path, source: str) -> Layer:
    try:
        text = read_config_text(path)
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror}"
        raise ConfigError(what, where=str(path), mend="check its permissions and its disk") from error
    if text.startswith("\ufeff"):
        what = f"{path} starts with a byte order mark"
        raise ConfigError(what, where=f"{path}, line 1", mend="save it as UTF-8 without one")
    values = dict(leaves(parse_toml(text, str(path)), defaults()))
    if len(values) > MOST_KEYS:  # each one that is wrong is looked up among all that are right
        mend = "is it another file?"
        raise ConfigError(f"a config of {len(values)} keys", where=str(path), want=f"at most {MOST_KEYS}", mend=mend)
    layer = Layer(source, values, str(path), key_lines(text))
    _refuse_long_lists(layer)
    return layer


def preset_layer(name: Any, where: str = "") -> Layer:
    try:
        return file_layer(preset_path(str(name)), f"preset {name}")
    except ConfigError as error:
        raise ConfigError(error.what, where=where or error.where, mend=error.mend) from None


def set_layer(sets: Sequence[str]) -> Layer:
    layer = Layer("--set", parse_sets(sets))
    _refuse_long_lists(layer)
    return layer


def _refuse_long_lists(layer: Layer) -> None:
    for path, value in layer.values.items():
        if (count := longest(value)) > MOST_ITEMS:
            raise ConfigError(
                f"{'.'.join(path)} holds {count:,} items", where=layer.place(path), want=f"at most {MOST_ITEMS:,}",
                mend="no key needs so many",
            )  # fmt: skip


def parse_sets(sets: Sequence[str]) -> dict[KeyPath, Any]:
    if len(sets) > MOST_KEYS:
        mend = "write them into run.toml"
        raise ConfigError(f"{len(sets):,} --set options", where="--set", want=f"at most {MOST_KEYS:,}", mend=mend)
    values: dict[KeyPath, Any] = {}
    schema = defaults()
    for text in sets:
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            what = f"--set {shortened(ascii(text))} is not UTF-8 text"
            raise ConfigError(what, where="--set", mend="write it in UTF-8")
        key, equals, value = text.partition("=")
        if not equals:
            what = f"--set {shortened(text)}: want KEY=VALUE"
            raise ConfigError(what, where="--set", mend="for example --set ppo.steps=40")
        path = parse_key(key.strip())
        values[path] = parse_value(value.strip(), at(schema, path))
    return values


def defaults() -> dict[str, Any]:
    return RunConfig().model_dump(mode="json")


def at(tree: Any, path: KeyPath) -> Any:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return None
        tree = tree[part]
    return tree


def leaves(tree: Mapping[str, Any], schema: Any, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """(path, value) of every key. A free-form table (`where`, `fields`) is one value; so is a table nobody knows."""
    for key, value in tree.items():
        below = schema.get(key) if isinstance(schema, dict) else None
        if isinstance(value, dict) and isinstance(below, dict) and below:
            yield from leaves(value, below, (*prefix, key))
        else:
            yield (*prefix, key), value


def all_keys() -> list[str]:
    schema = defaults()
    return [".".join(path) for path, _ in leaves(schema, schema)]


def key_of(path: KeyPath, keys: Mapping[str, str]) -> str:
    """The schema's key that this path sets: `data.test.fields.output` sets a part of `data.test.fields`."""
    names = [".".join(path[:length]) for length in range(len(path), 0, -1)]
    return next((name for name in names if name in keys), names[0])


def put(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[path[-1]] = value
