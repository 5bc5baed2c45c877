"""What stands behind the addresses of a config: which kind of server, and under which name it serves a model.

GET /models is asked of each (vLLM and SGLang name themselves there), and /openapi.json where that tells no kind.
Some servers have neither: `transformers serve` answers 500 to /models without a hub.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import httpx2

from rlp_engine.config.sections.generation import ServerConfig
from rlp_engine.errors import ServerError
from rlp_engine.run.signals import StopSignal
from rlp_engine.serving.connect import CONNECT_SECONDS, api_key, headers_of, no_proxy_for
from rlp_engine.serving.failures import readable
from rlp_engine.serving.kinds import KINDS, Kind
from rlp_engine.serving.pool import Backoff

TRANSFORMERS_PATHS = {"/load_model", "/v1/completions", "/v1/responses"}
LARGEST_BODY = 16 * 1024 * 1024  # bytes of a list of models, or of an openapi.json
POLL_SECONDS = 0.1  # between looks at the stop signal
OWNERS = {"vllm": "vllm", "sglang": "sglang"}


@dataclass(frozen=True)
class Found:
    """One server that answers."""

    url: str
    kind: str  # "" = it does not say
    models: tuple[Mapping[str, Any], ...] | None  # rows of /models; None = it has no such list

    def name_of(self, wanted: str) -> str | None:
        """What it calls this model; None when it has a list without it."""
        if self.models is None:
            return wanted
        for row in self.models:  # vLLM tells the folder of a model that has another name as `root`
            if any(_is_same(row.get(key), wanted) for key in ("id", "root")):
                return str(row.get("id"))
        return None

    @property
    def names(self) -> list[str]:
        return [str(row.get("id")) for row in self.models or ()]


@dataclass(frozen=True)
class Serving:
    """The servers of one model: all of a kind. `names`: what each address calls it."""

    kind: Kind
    names: Mapping[str, str]


def find_servers(config: ServerConfig, model: str, *, stop: StopSignal) -> Serving:
    """The addresses that serve `model` (a folder or a hub id), or what `config.model` names.

    Addresses where nobody answers are kept if others do: they may come back. Where none answers, they are asked
    again as `config` says.

    Raises:
        ServerError: nobody answers, none has the model, or the servers are of several kinds.
        Interrupted: a stop was asked for.
    """
    found = _reach(config, stop)
    wanted = config.model or model
    names = {server.url: name for server in found if (name := server.name_of(wanted)) is not None}
    if not names:
        served = ", ".join(sorted({name for server in found for name in server.names}))
        raise ServerError(
            f"no server has the model {wanted}",
            where=", ".join(server.url for server in found),
            found=f"they serve: {readable(served)}",
            mend=f"start one, such as: vllm serve {model}   (what is answered already is kept), "
            "or say what it is called there: generation.server.model",
        )
    kinds = {server.kind or "openai" for server in found if server.url in names}
    if config.kind != "auto":
        kinds = {config.kind}
    if len(kinds) > 1:
        raise ServerError(
            f"the servers are of several kinds: {', '.join(sorted(kinds))}",
            where=", ".join(names),
            mend="name servers of one kind in base_urls, or set generation.server.kind",
        )
    asleep = set(config.base_urls) - {server.url for server in found}
    return Serving(KINDS[kinds.pop()], names | dict.fromkeys(asleep, next(iter(names.values()))))


def _reach(config: ServerConfig, stop: StopSignal) -> list[Found]:
    backoff = Backoff(config.backoff_seconds, config.max_backoff_seconds)
    with httpx2.Client(
        headers=headers_of(api_key(config)),
        timeout=min(CONNECT_SECONDS, config.timeout_seconds),
        mounts=no_proxy_for(config.base_urls),
    ) as http:
        for attempt in range(config.max_retries + 1):
            stop.check("before a server was asked")
            found = [server for url in config.base_urls if (server := _look(http, url))]
            if found:
                return found
            if attempt < config.max_retries:
                _sleep(backoff.seconds(attempt + 1), stop)
    raise ServerError(
        "no server answers",
        where=", ".join(config.base_urls),
        mend="start it (it may still be loading its model), or correct generation.server.base_urls",
    )


def _sleep(seconds: float, stop: StopSignal) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        stop.check("before a server was asked")
        time.sleep(min(left, POLL_SECONDS))


def _look(http: httpx2.Client, url: str) -> Found | None:
    try:
        rows = _rows(_json(http, f"{url}/models"))
        kind = _kind_by_owner(rows or ()) or _kind_by_paths(http, url)
    except httpx2.RequestError:
        return None
    return Found(url, kind, rows)


def _rows(body: Any) -> tuple[Mapping[str, Any], ...] | None:
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return None
    return tuple(rows)


def _kind_by_owner(rows: Sequence[Mapping[str, Any]]) -> str:
    return next((OWNERS[str(row["owned_by"])] for row in rows if str(row.get("owned_by")) in OWNERS), "")


def _kind_by_paths(http: httpx2.Client, url: str) -> str:
    body = _json(http, f"{url.removesuffix('/v1')}/openapi.json")
    paths = body.get("paths") if isinstance(body, dict) else None
    return "transformers" if isinstance(paths, dict) and paths.keys() >= TRANSFORMERS_PATHS else ""


def _json(http: httpx2.Client, url: str) -> Any:
    """The body of a response with status 200; None for anything else, and for one that does not end."""
    data = bytearray()
    with http.stream("GET", url) as response:
        if response.status_code != 200:
            return None
        for part in response.iter_bytes():
            data += part
            if len(data) > LARGEST_BODY:
                return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _is_same(name: Any, wanted: str) -> bool:
    """The same name, or a path from the server's own folder to the same place."""
    if not isinstance(name, str) or not name:
        return False
    parts = PurePath(name).parts
    return name == wanted or (len(parts) > 1 and PurePath(wanted).parts[-len(parts) :] == parts)
