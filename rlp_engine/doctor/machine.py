"""What is free: the machine's memory, its GPUs or those that --gpus names, the disk. Versions. No torch."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_GPUS = re.compile(r"(?:(\d+)x)?([A-Za-z][\w ]*?)-(\d+)(?:GB?|GiB)")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpus:
    """Accelerators of one kind."""

    count: int
    name: str
    bytes: int  # of one, free where it was asked, else all of it
    is_named: bool  # by --gpus: not looked at


def parse_gpus(text: str) -> Gpus | None:
    """`8xA100-80G`, `H200-141G`; G is GiB, of one. None: it is written otherwise."""
    found = _GPUS.fullmatch(text.strip())
    if not found or found[1] == "0" or int(found[3]) == 0:
        return None
    return Gpus(int(found[1] or 1), found[2], int(found[3]) * 2**30, is_named=True)


def gpus_here() -> Gpus | None:
    """What nvidia-smi sees; the smallest free memory counts. None without one."""
    command = ["nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader,nounits"]
    with suppress(OSError, ValueError):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
        if done.returncode == 0 and rows:
            free = min(int(size) for _, size in rows)
            return Gpus(len(rows), rows[0][0].strip(), free * 2**20, is_named=False)
    return None


def free_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int | None:
    """Bytes that a new process may take: what the system has available, or less where a container's limit is nearer.

    None where the system does not say (all but Linux).
    """
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    with suppress(OSError, ValueError):  # no limit: no such file, or the word "max"
        left = int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text())
        return left if available is None else min(available, max(0, left))
    return available


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is or would be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
