"""n answers an instruction from the policy, and one from the SFT policy (Algorithm 1, line 4; METHOD 1, stage 4a).

Outputs: answers/shard_NNNNN.jsonl (n rows a prompt, sorted by prompt and draw), sft_answers/shard_NNNNN.jsonl
(one row a prompt: the zero of the drift measures).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from rlp_engine.data.rows import read_prompts
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.models.policy import load_policy
from rlp_engine.stages.answering import answer_in_shards, iterate_folder, short_enough, stage_answerer
from rlp_engine.stages.common import prepare_device
from rlp_engine.stages.spec import StageContext


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    device = prepare_device(config.compute)
    prompts = list(read_prompts(context.inputs["unlabeled"]))
    summary: dict[str, Any] = {}
    for source, folder, draws in (
        ("policy", "answers", config.sample.num_per_prompt),
        ("sft_policy", "sft_answers", 1),
    ):
        policy = load_policy(context.inputs[source], config.model, device=device)
        template = PromptTemplate(config.model.template, policy.tokenizer)
        usable = short_enough(context, prompts, template, config.generation.max_prompt_tokens)
        key = (config.seed, context.spec.params["round"], f"sample-{source}", 0)
        answers = stage_answerer(
            context,
            policy,
            template,
            context.inputs[source],
            temperature=config.sample.temperature,
            top_p=config.sample.top_p,
            key=key,
        )
        answer_in_shards(context, answers, usable, draws, folder, config.sample.shard_prompts)
        summary[folder] = {"prompts": len(usable), **sample_statistics(context.out / folder)}
    return summary


def sample_statistics(folder: Path) -> dict[str, float]:
    """Count, mean tokens and share that ended in EOS."""
    count = tokens = stopped = 0
    for sample in itertools.chain.from_iterable(iterate_folder(folder)):
        count += 1
        tokens += len(sample.token_ids)
        stopped += sample.finish_reason == "stop"
    return {"samples": count, "tokens_mean": tokens / count, "eos_share": stopped / count}
