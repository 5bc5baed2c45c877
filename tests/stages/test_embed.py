"""The two sides of the drift measure are comparable."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from safetensors.numpy import save_file

from rlp_engine.config.sections.model import ScratchConfig
from rlp_engine.data.records import Prompt, Sample
from rlp_engine.data.rows import write_jsonl
from rlp_engine.models.scratch import build_tokenizer
from rlp_engine.stages.embed import PROMPTS, pick, policy_side

NUM_PROMPTS, DRAWS, SHARD = 24, 10, 9


def test_the_policys_side_is_one_answer_each_to_the_prompts_of_the_sft_side(tmp_path: Path) -> None:
    ids = [f"p{i}" for i in range(NUM_PROMPTS)]
    write_jsonl(tmp_path / "unlabeled.jsonl", [Prompt(name, f"question {name}") for name in ids])
    (tmp_path / "answers").mkdir()
    (tmp_path / "vectors").mkdir()
    for number, first in enumerate(range(0, NUM_PROMPTS, SHARD)):
        samples = [
            Sample(name, draw, f"word {name} {draw}", [1], "stop", 0.0)
            for name in ids[first : first + SHARD]
            for draw in range(DRAWS)
        ]
        write_jsonl(tmp_path / "answers" / f"shard_{number:05d}.jsonl", samples)
        marks = np.array([100 * ids.index(s.prompt_id) + s.draw for s in samples], np.float32)
        tensors = {"rewards": marks, "vectors": np.stack([marks, marks], axis=1)}
        save_file(tensors, tmp_path / "vectors" / f"shard_{number:05d}.safetensors")
    tokenizer = build_tokenizer(ScratchConfig(tokenizer="word"), ["word"])
    scorer = SimpleNamespace(reward_model=SimpleNamespace(tokenizer=tokenizer))
    inputs = {"samples": tmp_path / "answers", "unlabeled": tmp_path / "unlabeled.jsonl"}
    context = SimpleNamespace(out=tmp_path, inputs=inputs)

    for limit in (7, NUM_PROMPTS, 1000):
        side = policy_side(context, scorer, limit, seed=5)
        of_sft = pick(lambda: iter(ids), limit, 5, PROMPTS)  # as `measure_drift` picks from one SFT answer a prompt
        assert side.prompts == of_sft
        assert len(side.prompts) == min(limit, NUM_PROMPTS)
        assert side.rewards == [100.0 * ids.index(name) for name in of_sft]
        assert side.vectors_ND[:, 1].tolist() == side.rewards
