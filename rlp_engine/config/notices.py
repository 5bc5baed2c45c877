"""What a config lets strangers do: run their code here, and get texts and a key. Told before it happens.

A run.toml or a preset may come from somebody else (docs/SECURITY.md).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from rlp_engine.config.rules import server_judges, value_of
from rlp_engine.config.schema import RunConfig, ServerConfig

_MODELS = ("model.path", "sft.ready_model", "train_rm.base_model", "collect.annotator.path", "evaluate.judge.path")
_ANSWERS = frozenset({"collect", "sample", "evaluate"})  # kinds of stages that generation.server answers in


@dataclass(frozen=True)
class Notice:
    """`is_warning`: to be thought about; otherwise it is only said."""

    keys: tuple[str, ...]  # what says so in the config
    text: str
    is_warning: bool


def notices(config: RunConfig, kinds: Collection[str] | None = None) -> list[Notice]:
    """What to tell before stages of these kinds run; None = of all."""
    found = []
    if config.model.trust_remote_code and (kinds is None or set(kinds) - {"prepare"}):
        found.append(_code(config))
    for key, asking in _servers(config):
        if kinds is None or asking & set(kinds):
            found += _server(key, value_of(config, key))
    return found


def _code(config: RunConfig) -> Notice:
    named = [f"{value_of(config, key)} ({key})" for key in _MODELS if value_of(config, key)]
    models = ", ".join(named) or "the models of this run"
    text = f"model.trust_remote_code is on: Python code that comes with {models} runs on this machine with your rights"
    return Notice(("model.trust_remote_code",), text, True)


def _servers(config: RunConfig) -> Iterator[tuple[str, set[str]]]:
    """Key of each server that is asked, and the kinds of the stages that ask it."""
    if config.generation.engine == "server":
        yield "generation.server", set(_ANSWERS)
    sections = {key.partition(".")[0] for key in server_judges(config)}
    if sections:  # PPO's candidates are judged as `evaluate` judges
        yield "judge.server", sections | ({"ppo"} if "evaluate" in sections and config.ppo.select == "judge" else set())


def _server(key: str, server: ServerConfig) -> Iterator[Notice]:
    keys = (f"{key}.base_urls", f"{key}.api_key_env")
    sent = f"gets the texts, and the key that is in {server.api_key_env}" if server.api_key_env else "gets the texts"
    for url in server.base_urls:
        yield Notice(keys, f"{key}: {url} {sent}", False)
        if server.api_key_env and _is_open(url):
            what = f"the key in {server.api_key_env} goes to {url} without encryption"
            yield Notice(keys, f"{what}: anybody on the way can read it (https does not have that)", True)


def _is_open(url: str) -> bool:
    """Does what is sent there cross networks of others in the clear? Names without a dot are of one's own network."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        return parts.scheme == "http" and not ipaddress.ip_address(host).is_private
    except ValueError:
        return parts.scheme == "http" and "." in host
