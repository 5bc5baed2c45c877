"""Pairwise annotators as TOML files: how a model behind a server is asked which of two answers is better.

The built-in ones lie in presets/annotators. docs/ANNOTATORS.md has every key with an example.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from rlp_engine.config.outside import read_config_text
from rlp_engine.config.presets import presets_dir
from rlp_engine.config.sections.base import NonNegativeFloat, Positive, PositiveFloat, Section
from rlp_engine.config.toml_text import KeyPath, key_lines, parse_toml
from rlp_engine.errors import ConfigError

PLACES = ("instruction", "output_1", "output_2")
PLACE = re.compile(r"\{(instruction|output_1|output_2)\}")
_LOOKS_LIKE_A_PLACE = re.compile(r"\{((?:instruction|input|output|response)\w*)\}")


class Message(Section):
    """A turn of a chat."""

    role: Literal["system", "user", "assistant"] = Field(description="who speaks")
    content: str = Field(description="what is said, with places for the texts")


class Annotator(Section):
    """One annotator. {instruction}, {output_1} and {output_2} stand for the texts, output 1 being shown first."""

    name: str = Field("", description="what it is called in annotations; empty = the file's name")
    endpoint: Literal["chat", "completion"] = Field("chat", description="/v1/chat/completions or /v1/completions")
    model: str = Field("", description="the model's name at the server; empty = judge.server.model")
    prompt: str = Field("", description="one user message, or the text to complete")
    messages: list[Message] = Field([], description="a whole chat instead of `prompt`, with examples if you like")
    temperature: NonNegativeFloat = Field(0.0, description="above 0 every request carries a seed of its own")
    top_p: PositiveFloat = Field(1.0, le=1.0, description="nucleus")
    max_tokens: Positive = Field(100, description="tokens of the answer, at most")
    parser: Literal["label", "ranking", "json", "logprobs"] = Field("label", description="how the answer is read")
    labels: list[str] = Field(
        ["1", "2"], min_length=2, max_length=2, description="what names the output shown first, and the second"
    )
    field: str = Field("", description="parser = `json`: the field that holds the label")
    extra: dict[str, str | int | float | bool] = Field(
        {}, description="fields of the request beyond these, as the server knows them"
    )

    @model_validator(mode="after")
    def _can_be_asked(self) -> Annotator:
        if bool(self.prompt) == bool(self.messages):
            raise ValueError("give either prompt or messages")
        if self.messages and self.endpoint == "completion":
            raise ValueError("endpoint = 'completion' takes a prompt, not messages")
        texts = self.texts
        missing = [f"{{{place}}}" for place in PLACES if not any(f"{{{place}}}" in text for text in texts)]
        if missing:
            raise ValueError(f"the prompt has no place for {', '.join(missing)}")
        for text in texts:
            for name in _LOOKS_LIKE_A_PLACE.findall(text):
                if name not in PLACES:
                    raise ValueError(f"there is no place {{{name}}}; places are {{{'}, {'.join(PLACES)}}}")
        return self

    @model_validator(mode="after")
    def _can_be_read(self) -> Annotator:
        one, two = (label.strip().casefold() for label in self.labels)
        if not one or not two or one == two:
            raise ValueError(f"labels must be two different texts, got {self.labels}")
        if (self.parser == "json") != bool(self.field):
            raise ValueError("field is for parser = 'json', which needs it")
        return self

    @property
    def texts(self) -> list[str]:
        """What is said, with its places, turn by turn."""
        return [self.prompt] if self.prompt else [message.content for message in self.messages]


def annotators_dir() -> Path:
    """The folder of built-in annotators."""
    return presets_dir() / "annotators"


def list_annotators() -> list[str]:
    """Names of the built-in ones, sorted."""
    return sorted(path.stem for path in annotators_dir().glob("*.toml"))


def annotator_path(name: str) -> Path:
    """The file of an annotator: a built-in one by its name, or a path that ends in .toml."""
    return Path(name).expanduser() if name.endswith(".toml") else annotators_dir() / f"{name}.toml"


def load_annotator(path: Path) -> Annotator:
    """Read and check an annotator's file.

    Raises:
        ConfigError: there is no such file, or it is not sound; `where` names the file and the line.
    """
    try:
        text = read_config_text(path)
    except FileNotFoundError:
        names = list_annotators()
        near = difflib.get_close_matches(path.stem, names, n=1)
        raise ConfigError(
            f"there is no annotator '{path.stem}'",
            where=str(path),
            mend=(f"did you mean '{near[0]}'?  " if near else "") + f"Built in: {', '.join(names)}; or a path.toml",
        ) from None
    except OSError as error:
        raise ConfigError(f"an annotator cannot be read: {error}", where=str(path)) from None
    values = parse_toml(text, str(path))
    try:
        found = Annotator.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise _in_words(error, path, text) from None
    return found if found.name else found.model_copy(update={"name": path.stem})


def _in_words(error: ValidationError, path: Path, text: str) -> ConfigError:
    """The first thing that is wrong, with its line."""
    detail = error.errors(include_url=False)[0]
    keys = [part for part in detail["loc"] if isinstance(part, str)]
    key = ".".join(keys)
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(keys[-1], list(Annotator.model_fields), n=1)
        what = f"an annotator has no key '{key}'" + (f"; did you mean '{near[0]}'?" if near else "")
    elif detail["type"] == "value_error":
        what = f"an annotator is not sound: {detail['ctx']['error']}"
    else:
        what = f"an annotator is not sound: {key}: {detail['msg']}"
    lines = key_lines(text)
    path_of_key: KeyPath = tuple(keys)
    while path_of_key and path_of_key not in lines:
        path_of_key = path_of_key[:-1]
    line = lines.get(path_of_key) or lines.get(("prompt",)) or lines.get(("messages",)) or 1
    return ConfigError(what, where=f"{path}:{line}", mend="docs/ANNOTATORS.md lists the keys of an annotator")
