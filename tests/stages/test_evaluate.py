"""Files that `evaluate` writes for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from rlp_engine.config.schema import DataFile
from rlp_engine.data.readers import load_prompts
from rlp_engine.data.records import Sample
from rlp_engine.stages.evaluate import write_outputs


def test_outputs_keep_the_dataset_of_the_test_file(tmp_path: Path) -> None:
    row = {"instruction": "Why?", "output": "Because.", "generator": "text_davinci_003", "dataset": "koala"}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    prompts = load_prompts(DataFile(path=str(tmp_path / "test.json")), 0)
    answer = Sample(prompts[0].prompt_id, 0, "So.", [1], "stop", 0.0)
    write_outputs(SimpleNamespace(out=tmp_path), "ppo", prompts, [answer])
    assert json.loads((tmp_path / "outputs" / "ppo.json").read_text()) == [
        {"instruction": "Why?", "input": "", "output": "So.", "generator": "ppo", "dataset": "koala", "datasplit": "eval"}
    ]
