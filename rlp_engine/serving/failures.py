"""Which failures of a server pass, which do not, and how they are told."""

from __future__ import annotations

import email.utils
import re
import time
from dataclasses import dataclass

import httpx2

from rlp_engine.errors import ServerError
from rlp_engine.safe_text import SHORTEST_SECRET
from rlp_engine.serving.messages import Malformed

PASSING = {408, 425, 429}  # and every 5xx but 501: the same request may well be answered later
BODY_SHOWN = 300  # characters of a server's message


@dataclass(eq=False)  # as exceptions must be hashable
class PassingFailure(Exception):
    """What a request may be sent again after."""

    kind: str  # as counted: "429", "500", "timeout", "connection", "not whole"
    what: str
    wait_seconds: float = 0.0  # what the server asks for (Retry-After)

    @property
    def is_of_the_server(self) -> bool:
        """Nobody is there, or it asks everyone to wait: other requests would fare no better."""
        return self.kind in ("connection", "429") or self.wait_seconds > 0


def of_exception(error: Exception) -> PassingFailure:
    """The failure behind an exception of the transport, of the clock, or of the parser."""
    if isinstance(error, Malformed):
        return PassingFailure("not whole", f"gave a bad answer: {error}")
    if isinstance(error, (TimeoutError, httpx2.ReadTimeout, httpx2.WriteTimeout, httpx2.PoolTimeout)):
        return PassingFailure("timeout", "did not answer in time")
    why = readable(str(error)) or type(error).__name__
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return PassingFailure("connection", f"cannot be reached ({why})")
    return PassingFailure("dropped", f"broke the connection off ({why})")


def of_status(response: httpx2.Response, data: bytes, *, server: str, model: str, secret: str) -> Exception:
    """PassingFailure, or the ServerError that ends the stage, for a status other than 200.

    Args:
        secret: the API key, which some servers repeat in their message; it is never shown.
    """
    status = response.status_code
    said = readable(data, secret)
    if status in PASSING or (status >= 500 and status != 501):
        wait = retry_after(response.headers.get("retry-after", ""), response.headers.get("date", ""))
        return PassingFailure(str(status), f"answered {status}" + (f": {said}" if said else ""), wait)
    mends = {
        401: "name the variable that holds the key in api_key_env",
        403: "see what the key in api_key_env may do",
        404: f"base_urls usually end in /v1; the server must know a model called '{model}' (see .../v1/models)",
    }
    if 300 <= status < 400:
        said = f"it sends us on to {readable(response.headers.get('location', ''), secret)}"
        mends[status] = "give the address it names in base_urls"
    return ServerError(
        f"the server refused a request ({status})",
        where=server,
        found=said,
        mend=mends.get(status, "see its log; a prompt longer than its context is one such request"),
    )


def retry_after(value: str, date: str = "") -> float:
    """Seconds of a Retry-After header: a number, or an HTTP date (RFC 9110, 10.2.3); 0 for anything else.

    Args:
        date: the answer's Date header, from which an HTTP date is counted: our clock may be another.
    """
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()):
        return float(value)
    until = _timestamp(value)
    if until is None:
        return 0.0
    said_at = _timestamp(date)
    return max(0.0, until - (time.time() if said_at is None else said_at))


def _timestamp(http_date: str) -> float | None:
    """Seconds since 1970; None for what is no date."""
    try:
        return email.utils.parsedate_to_datetime(http_date).timestamp()
    except ValueError:
        return None


def without_key(data: bytes, key: str) -> bytes:
    """A body, which some servers put our key into: answers are kept in files that people share."""
    return data.replace(key.encode(), b"[key]") if len(key) >= SHORTEST_SECRET else data


def readable(said: bytes | str, secret: str = "") -> str:
    """What a server says, on one line, cut short, without control characters and without our key."""
    text = said[: 64 * 1024]
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace")
    if secret:
        text = text.replace(secret, "[key]")
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= BODY_SHOWN else f"{text[:BODY_SHOWN]}..."
