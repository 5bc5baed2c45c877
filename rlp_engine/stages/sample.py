"""n answers an instruction from the policy, and one from the SFT policy (Algorithm 1, line 4; METHOD 1, stage 4a).

Outputs: answers/shard_NNNNN.jsonl (n rows a prompt, sorted by prompt and draw), sft_answers/shard_NNNNN.jsonl
(one row a prompt: the zero of the drift measures). Prompts and answers pass through memory shard by shard.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from rlp_engine.data.rows import count_rows, iterate_prompts
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.models.policy import load_policy
from rlp_engine.stages.answer_engines import stage_answerer
from rlp_engine.stages.answering import LengthFilter, answer_in_shards, iterate_folder
from rlp_engine.stages.common import prepare_device
from rlp_engine.stages.sharding import warn_if_idle
from rlp_engine.stages.spec import StageContext


def run(context: StageContext) -> dict[str, Any]:
    sample = context.config.sample
    total = count_rows(context.inputs["unlabeled"])
    warn_if_idle(context, -(-total // sample.shard_prompts), key="sample.shard_prompts")
    return {
        "answers": draw(context, "policy", "answers", sample.num_per_prompt, total),
        "sft_answers": draw(context, "sft_policy", "sft_answers", 1, total),
    }


def draw(context: StageContext, source: str, folder: str, draws: int, total: int) -> dict[str, float]:
    """Answers of one policy, which is gone when this returns; at the leader what is said of them.

    Args:
        total: prompts there are.
    """
    config = context.config
    policy = load_policy(context.inputs[source], config.model, device=prepare_device(context))
    template = PromptTemplate(config.model.template, policy.tokenizer)
    usable = LengthFilter(template, config.generation.max_prompt_tokens)
    answers = stage_answerer(
        context,
        policy,
        template,
        context.inputs[source],
        temperature=config.sample.temperature,
        top_p=config.sample.top_p,
        key=(config.seed, context.spec.params["round"], f"sample-{source}", 0),
    )
    prompts = usable.of(iterate_prompts(context.inputs["unlabeled"]))
    answer_in_shards(context, answers, prompts, draws, folder, config.sample.shard_prompts, total=total)
    usable.tell(context)
    if not world().is_leader:
        return {}
    return {"prompts": usable.kept, **sample_statistics(context.out / folder)}


def sample_statistics(folder: Path) -> dict[str, float]:
    """Count, mean tokens and share that ended in EOS."""
    count = tokens = stopped = 0
    for sample in itertools.chain.from_iterable(iterate_folder(folder)):
        count += 1
        tokens += len(sample.token_ids)
        stopped += sample.finish_reason == "stop"
    return {"samples": count, "tokens_mean": tokens / count, "eos_share": stopped / count}
