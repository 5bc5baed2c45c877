"""Files and run directories that may come from strangers: what is refused before anything of them is read or written.

docs/SECURITY.md has the whole picture.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from rlp_engine.errors import ConfigError

# Names of run/layout.py, which this package may not import.
_FILES = {"stage.json", "attempt.json", "metrics.jsonl"}
_TOP_FILES = {"lock", "events.jsonl", "report.html"}
_TOP_FOLDERS = {"logs", "superseded", ".cache"}
MOST_CONFIG_BYTES = 1 << 18  # of a TOML or JSON file that people write; the largest preset has 8 KB


def read_config_text(path: Path) -> str:
    """The text of a config file.

    Raises:
        ConfigError: it is not UTF-8, larger than MOST_CONFIG_BYTES, or no file at all: a device is read forever.
        OSError: it is not there or cannot be opened.
    """
    # Not blocking: to open a pipe would wait for somebody to write into it.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ConfigError("a config is no plain file", where=str(path), mend="name a text file")
        data = file.read(MOST_CONFIG_BYTES + 1)
    if len(data) > MOST_CONFIG_BYTES:
        most = f"{MOST_CONFIG_BYTES:,} bytes"
        raise ConfigError("a config is too large", where=str(path), want=f"at most {most}", mend="is it another file?")
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", where=f"byte {error.start}", mend="save it as UTF-8") from None


def refuse_links_outside(run_dir: Path, *, editable: str = "") -> None:
    """Nothing that rlp reads, writes or deletes below a run directory may lie elsewhere, or be what it cannot be.

    The directory itself may be a link, and links within it (`logs/latest`) are fine.

    Args:
        editable: a file at the top that people may link to from elsewhere: it is theirs.

    Raises:
        ConfigError: naming a link that leads out, and where to; a pipe or a device, which would be read forever; or a
            folder in place of a file of ours, or a file in place of a folder.
    """
    root = os.path.realpath(run_dir)
    folders = [root]
    while folders:
        with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                shown = str(Path(run_dir, os.path.relpath(entry.path, root)))
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    is_inside = os.path.commonpath([root, target]) == root
                    if not is_inside and entry.path != os.path.join(root, editable):
                        raise ConfigError(
                            "a link in the run directory leads out of it",
                            where=shown,
                            found=f"a link to {target}",
                            mend="put what it leads to in its place; the run directory itself may be a link",
                        )
                    continue
                is_top = os.path.dirname(entry.path) == root
                _refuse_other_kind(entry, is_top=is_top, shown=shown)
                if entry.is_dir():
                    folders.append(entry.path)
                elif not entry.is_file():
                    raise ConfigError("a pipe or a device lies in the run directory", where=shown, mend="delete it")


def _refuse_other_kind(entry: os.DirEntry[str], *, is_top: bool, shown: str) -> None:
    """A file of ours that is a folder, or the other way round."""
    is_file_of_ours = entry.name in _FILES or (is_top and entry.name in _TOP_FILES)
    is_folder_of_ours = entry.name.endswith(".partial") or (is_top and entry.name in _TOP_FOLDERS)
    if entry.is_dir() and is_file_of_ours:
        raise ConfigError("a folder is where the run keeps a file", where=shown, mend="move it elsewhere")
    if entry.is_file() and is_folder_of_ours:
        raise ConfigError("a file is where the run keeps a folder", where=shown, mend="move it elsewhere")
