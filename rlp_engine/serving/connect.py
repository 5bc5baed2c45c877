"""How a server is reached: the key, and no proxy in front of this machine's own."""

from __future__ import annotations

import os
from collections.abc import Iterable

import httpx2

from rlp_engine.config.sections.generation import ServerConfig
from rlp_engine.errors import ConfigError
from rlp_engine.safe_text import keep_secret

CONNECT_SECONDS = 15.0


def api_key(config: ServerConfig) -> str:
    """The key in the environment, "" where the config names no variable. It is shown and recorded nowhere from now on.

    Raises:
        ConfigError: the variable is not set, or holds what no header can.
    """
    if not config.api_key_env:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {config.api_key_env} is not set",
            where="api_key_env",
            mend=f"export {config.api_key_env}=..., or take api_key_env out for a server without keys",
        )
    if not (key.isascii() and key.isprintable()) or " " in key:  # and not shown
        raise ConfigError(
            f"the environment variable {config.api_key_env} does not hold a key",
            where="api_key_env",
            want="one line of ASCII without spaces",
        )
    keep_secret(key)
    return key


def headers_of(key: str) -> dict[str, str]:
    """What says who we are."""
    return {"authorization": f"Bearer {key}"} if key else {}


def no_proxy_for(urls: Iterable[str]) -> dict[str, None]:
    """No proxy for this machine's own servers, whatever the environment says of others."""
    hosts = {httpx2.URL(url).host for url in urls}
    own = {host for host in hosts if host in ("localhost", "::1") or host.startswith("127.")}
    return {f"all://[{host}]" if ":" in host else f"all://{host}": None for host in own}
