"""TOML as text: on which line a key stands, how a `KEY=VALUE` is read, how a value is changed in place.

`tomllib` tells values and no lines; `tomlkit` keeps comments and tells no lines either. Both are used
for what they do, and `key_lines` finds the lines.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import tomlkit
from tomlkit.items import AbstractTable

from rlp_engine.config.nesting import deeper_than
from rlp_engine.errors import ConfigError

KeyPath = tuple[str, ...]
MOST_LEVELS = 32  # of tables and lists in each other; what walks a config recurses
_FLATTER = f"no key has more than {MOST_LEVELS} levels"
# A key of 32 parts; tomllib takes the square of their number, which is minutes for a line of 50,000.
_MANY_PARTS = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}""")
# Every token of a valid TOML text, as far as it decides where statements end.
_TOKENS = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*|[\[{]|[\]}]|=|\n|[^\"'#\[\]{}=\n]+",
    re.S,
)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The values of a TOML text.

    Raises:
        ConfigError: naming `where` and the line, when the text is not TOML; or it is nested deeper than any config.
    """
    try:
        values = None if _MANY_PARTS.search(text) else tomllib.loads(text)
    except RecursionError:
        values = None
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).rpartition(" (at ")
        line = place.rstrip(")").split(",")[0]  # "line 3, column 9" or "end of document"
        what = re.sub(r"\(([^()]*?),?\)", lambda m: m[1].replace("', '", "."), what)  # ('a', 'b') -> 'a.b'
        mend = "TOML wants text in quotes, true and false in lower case, and every key once"
        raise ConfigError(
            f"not TOML: {what or error}", where=f"{where}, {line}" if what else where, mend=mend
        ) from None
    except ValueError as error:  # a whole number of thousands of digits, a date that no calendar has
        raise ConfigError(f"a value cannot be held: {error}", where=where, mend="write a smaller value") from None
    if values is None or deeper_than(values, MOST_LEVELS):
        raise ConfigError("tables or lists are nested too deeply", where=where, mend=_FLATTER)
    return values


def shortened(text: str, most: int = 200) -> str:
    """What somebody wrote, as far as a message shows it."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def parse_key(text: str) -> KeyPath:
    """'data.test."a b"' -> ("data", "test", "a b").

    Raises:
        ConfigError: when it is not a TOML key.
    """
    mend = "write --set SECTION.KEY=VALUE, for example ppo.steps=40"
    bad = ConfigError(f"'{shortened(text)}' is not a key", where="--set", mend=mend)
    if "\n" in text:
        raise bad
    try:
        node: Any = tomllib.loads(f"{text} = 0")
    except (ValueError, RecursionError):
        raise bad from None
    path: list[str] = []
    while isinstance(node, dict):
        if len(node) != 1:  # "a = 1 # " would hide the rest
            raise bad
        key, node = next(iter(node.items()))
        path.append(key)
    if node != 0 or len(path) > MOST_LEVELS:
        raise bad
    return tuple(path)


def parse_value(text: str, like: Any) -> Any:
    """The VALUE of a `--set KEY=VALUE`: a TOML value; or plain text, read as the type of `like` (the key's default)."""
    value = _toml_value(text)
    if isinstance(like, str):
        return value if isinstance(value, str) else text
    if isinstance(like, list) and not isinstance(value, list):
        inner = like[0] if like else ""
        return [parse_value(part.strip(), inner) for part in text.split(",") if part.strip()]
    if isinstance(like, bool):
        return {"true": True, "false": False}.get(text.lower(), value)
    if isinstance(like, int | float) and isinstance(value, str | float):
        return _number(text, value, whole=isinstance(like, int))
    return value


def _toml_value(text: str) -> Any:
    if "\n" in text:
        return text
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
    return text if deeper_than(value, MOST_LEVELS) else value


def _number(text: str, value: Any, *, whole: bool) -> Any:
    """`.5` and `1e3` are no TOML integers or floats, and everyone writes them."""
    try:
        number = float(text)
    except ValueError:
        return value
    return int(number) if whole and number.is_integer() else number


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of every table and key of a valid TOML text. Keys inside an inline table are not listed."""
    table: KeyPath = ()
    lines: dict[KeyPath, int] = {}
    for number, head in _heads(text):
        if head.startswith("["):
            table = _header(head)
            lines.setdefault(table, number)
        else:
            lines.setdefault(table + parse_key(head), number)
    return lines


def _header(statement: str) -> KeyPath:
    path: list[str] = []
    node: Any = tomllib.loads(statement)
    while node:
        if isinstance(node, list):  # [[table]]
            node = node[0]
            continue
        key, node = next(iter(node.items()))
        path.append(key)
    return tuple(path)


def _heads(text: str) -> Iterator[tuple[int, str]]:
    """(line, `key` or `[table]`) of each statement; its value may take several lines. One pass over the text."""
    line, depth = 1, 0
    begin = -1  # where the statement begins; -1 = between two
    is_told = False
    for token in _TOKENS.finditer(text):
        word = token[0]
        if word == "\n" and not depth:
            begin, is_told = -1, False
        elif begin < 0 and not word.isspace() and word[0] != "#":
            begin = token.start()
        if word in "[{":
            depth += 1
        elif word in "]}":
            depth -= 1
        if begin >= 0 and not is_told:
            if word == "=":
                yield line, text[begin : token.start()].strip()
                is_told = True
            elif word == "]" and not depth:
                yield line, text[begin : token.end()].strip()
                is_told = True
        line += word.count("\n")


def with_values(text: str, values: Mapping[KeyPath, Any]) -> str:
    """The text with these keys set; comments, order and all other lines stay.

    Raises:
        ConfigError: when a key runs through something that is not a table.
    """
    document = tomlkit.parse(text)
    wanted = tomllib.loads(text)
    for path, value in values.items():
        node: Any = document
        for depth, part in enumerate(path[:-1]):
            if part not in node:
                # tomlkit writes a wrong header for a new [table] below dotted keys; inline tables are always right.
                node[part] = tomlkit.inline_table() if depth else tomlkit.table()
            node = node[part]
            if not isinstance(node, AbstractTable | dict):
                raise ConfigError(f"'{'.'.join(path)}' cannot be set: '{part}' is not a table in the file")
        node[path[-1]] = _inline(value)
        _put(wanted, path, value)
    changed = tomlkit.dumps(document)
    assert tomllib.loads(changed) == wanted, f"setting {list(values)} changed other keys too"
    return changed


def _inline(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    table = tomlkit.inline_table()
    table.update(value)
    return table


def _put(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value
