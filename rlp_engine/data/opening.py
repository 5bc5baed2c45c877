"""A path or an address of the hub -> open bytes, or the reason why there are none or why they are no data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rlp_engine.config.local_paths import expanded, kind_at
from rlp_engine.errors import ConfigError, DataError, ModelError, RlpError

NOT_DATA = {
    b"version https://git-lfs": ("a git-lfs pointer, not the data it stands for", "fetch the data: git lfs pull"),
    b"\x1f\x8b": ("compressed twice", "decompress it once: gzip -d FILE"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "unpack it first: zstd -d FILE"),
    b"\xfd7zXZ\x00": ("an xz archive", "unpack it first: xz -d FILE"),
    b"BZh": ("a bzip2 archive", "unpack it first: bzip2 -d FILE"),
    b"\xff\xfe": ("UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    b"\xfe\xff": ("UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
}


@contextmanager
def opened(path: str, base: Path | None) -> Iterator[IO[bytes]]:
    """The file's bytes; local, or below hf://."""
    if path.startswith("hf://"):
        from huggingface_hub import HfFileSystem

        with hub_errors(path), HfFileSystem().open(path, "rb") as handle:
            yield handle
        return
    if "://" in path:
        raise DataError(
            f"{path} is not a file on this machine", want="a local file, hf://... or hub:...", mend="download it first"
        )
    local = _local_path(path, base)
    kind = kind_at(local)
    if kind == "folder":
        raise DataError(f"{path} is a folder", want="a JSONL, JSON or parquet file", mend="name one of its files")
    if kind == "special":
        mend = "write what comes out of it to a file first"
        raise DataError(f"{path} is a pipe or a device, not a file", where=str(local), mend=mend)
    if kind == "unreachable":
        mend = "check the permissions of its folders and the length of its name"
        raise DataError(f"{path} cannot be reached", where=str(local), mend=mend)
    if kind == "nothing":
        raise ConfigError(
            f"no such file: {path}", where=str(local), mend="check the path (paths are not expanded but for ~)"
        )
    with _readable(local, path) as handle:
        yield handle


def _local_path(path: str, base: Path | None) -> Path:
    """`~` is expanded; variables are not. Relative paths start from `base`, or the working directory."""
    return expanded(path) if base is None else base / expanded(path)


@contextmanager
def _readable(local: Path, path: str) -> Iterator[IO[bytes]]:
    try:
        handle = local.open("rb")
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened: {error.strerror}", where=str(local), mend="check its permissions"
        ) from error
    with handle:
        yield handle


def refuse_what_is_no_data(path: str, head: bytes) -> None:
    """By its first bytes.

    Raises:
        DataError: an empty file, an archive, a web page, binary data that is no parquet, ...
    """
    if not head:
        raise DataError("the file is empty (0 bytes)", where=path, mend="check where it was made or fetched from")
    for start, (what, mend) in NOT_DATA.items():
        if head.startswith(start):
            raise DataError(f"the file is {what}", where=path, mend=mend)
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        mend = "download the file itself (the raw link), not the page about it"
        raise DataError(
            "the file is an HTML page, not data",
            where=path,
            found=head.split(b"\n")[0][:60].decode("utf-8", "replace").strip(),
            mend=mend,
        )
    if b"\x00" in head and not head.startswith(b"PAR1"):
        what = "UTF-16 or UTF-32 text, or a binary file"
        raise DataError(
            f"{path} is {what}",
            where=path,
            found="NUL bytes",
            want="UTF-8 text or parquet",
            mend="convert it with iconv",
        )


@contextmanager
def hub_errors(path: str) -> Iterator[None]:
    """What the hub's libraries raise, in our words. Their errors derive from OSError or ValueError."""
    try:
        yield
    except RlpError:
        raise
    except FileNotFoundError as error:
        raise ModelError(
            f"the hub has no {path}, or it is private", found=first_line(error), mend="check the name; hf auth login"
        ) from error
    except (OSError, ValueError) as error:
        mend = "check hub_config, hub_split and the network, or download the file and give its path"
        raise ModelError(f"{path} could not be read from the hub", found=first_line(error), mend=mend) from error


def first_line(error: BaseException) -> str:
    """What it says, or is called when it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
