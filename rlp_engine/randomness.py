"""Random numbers that belong to an item, not to the order in which items are worked on.

Every draw is a pure function of a key such as (seed, round, stage, visit, prompt id, draw). Batch
size, shard, restart and number of processes therefore do not change what is drawn. The generator is
Philox (counter-based; Salmon et al. 2011), keyed by BLAKE2b of the canonical JSON of the key.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

KeyPart = str | int


def digest(*key: KeyPart) -> bytes:
    """16 bytes that stand for the key. 1 and "1" are different keys, and so are ("ab",) and ("a", "b")."""
    return hashlib.blake2b(json.dumps(list(key)).encode(), digest_size=16).digest()


def generator(*key: KeyPart) -> np.random.Generator:
    """A generator that always starts the same for the same key."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest(*key), "little")))


def uniforms(count: int, *key: KeyPart) -> np.ndarray:
    """(count,) float64 in [0, 1)."""
    return generator(*key).random(count)


def normals(count: int, *key: KeyPart) -> np.ndarray:
    """(count,) float64, standard normal."""
    return generator(*key).standard_normal(count)


def permutation(count: int, *key: KeyPart) -> np.ndarray:
    """A shuffle of range(count)."""
    return generator(*key).permutation(count)


def torch_seed(*key: KeyPart) -> int:
    """A seed for `torch.manual_seed` (63 bits)."""
    return int.from_bytes(digest(*key)[:8], "little") >> 1
