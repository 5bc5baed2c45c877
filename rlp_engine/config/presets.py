"""The TOML files that `rlp run --preset NAME` starts from."""

from __future__ import annotations

import difflib
from pathlib import Path

import rlp_engine
from rlp_engine.errors import ConfigError


def presets_dir() -> Path:
    """The folder of presets: inside the installed package, or at the root of a checkout."""
    package = Path(rlp_engine.__file__).parent
    installed = package / "presets"
    return installed if installed.is_dir() else package.parent / "presets"


def list_presets() -> list[str]:
    """Names, sorted."""
    return sorted(path.stem for path in presets_dir().glob("*.toml"))


def preset_path(name: str) -> Path:
    """The file of a preset.

    Raises:
        ConfigError: when there is none of this name; the message says which there are.
    """
    names = list_presets()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?  " if near else ""
        raise ConfigError(
            f"there is no preset '{name}'",
            where=str(presets_dir()),
            mend=f"{hint}Presets: {', '.join(names) or 'none'}",
        )
    return presets_dir() / f"{name}.toml"


def preset_summary(name: str) -> str:
    """What the preset is for: the first paragraph of the comment at the top of its file."""
    lines = []
    for line in preset_path(name).read_text(encoding="utf-8").splitlines():
        words = line.lstrip("#").strip()
        if not line.startswith("#") or not words:
            break
        lines.append(words)
    return " ".join(lines)
