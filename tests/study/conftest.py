"""Results of runs as `read.py` gives them, with numbers that can be worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rlp_engine.study.read import RunResults


@pytest.fixture
def results():
    """results(seed, sft=(kl, score, preferences), ...) -> RunResults; a KL of None is left out."""

    def make(seed, variant="", instructions=None, **policies):
        rows, preferences = {}, {}
        for name, (kl, score, values) in policies.items():
            array = np.array(values, dtype=np.float64)
            preferences[name] = array
            rows[name] = {"mean_score": score, "win_rate": 100 * float(np.nanmean(array - 1))}
            rows[name] |= {} if kl is None else {"kl": kl}
        count = len(next(iter(preferences.values())))
        asked = instructions or tuple((f"question {seed} {i}", "") for i in range(count))
        return RunResults(seed, variant, {"policies": rows}, preferences, asked)

    return make
