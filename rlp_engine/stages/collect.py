"""Preferences D: pairs of SFT samples that an annotator labels, or a file of pairs (Algorithm 1, line 1).

Outputs: pairs.jsonl; with an annotator also answers/shard_NNNNN.jsonl, the answers that were compared.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rlp_engine.config.sections.judging import LabelNoiseConfig
from rlp_engine.data.records import PreferencePair, Prompt, Sample
from rlp_engine.data.rows import read_pairs, read_prompts, write_jsonl
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.errors import DataError
from rlp_engine.evaluation.judges import Judge, ScoringJudge, draw_label
from rlp_engine.models.policy import load_policy
from rlp_engine.randomness import uniforms
from rlp_engine.stages.answer_engines import stage_answerer
from rlp_engine.stages.answering import answer_in_shards, iterate_folder, require_room, short_enough
from rlp_engine.stages.common import prepare_device
from rlp_engine.stages.judging import build_judge, told_costs
from rlp_engine.stages.spec import StageContext

SHARD_PROMPTS = 128  # instructions per committed shard: few enough that eight ranks share 805 of them


def run(context: StageContext) -> dict[str, Any]:
    if context.config.collect.source == "file":
        if not world().is_leader:
            return {}
        pairs = list(read_pairs(context.inputs["preferences"]))
        shutil.copyfile(context.inputs["preferences"], context.out / "pairs.jsonl")
        return {"pairs": len(pairs), "source": "file"}
    return collect_from_annotator(context)


def collect_from_annotator(context: StageContext) -> dict[str, Any]:
    config = context.config
    device = prepare_device(context)
    policy = load_policy(context.inputs["sft_policy"], config.model, device=device)
    template = PromptTemplate(config.model.template, policy.tokenizer)
    prompts = list(read_prompts(context.inputs["preference_instructions"]))
    prompts = short_enough(context, prompts, template, config.generation.max_prompt_tokens)
    require_room({"the SFT policy": policy.model}, template, prompts, config.generation)
    source = stage_answerer(
        context,
        policy,
        template,
        context.inputs["sft_policy"],
        temperature=config.collect.temperature,
        top_p=config.collect.top_p,
        key=(config.seed, 0, "collect", 0),
    )
    draws = 2 * config.collect.pairs_per_instruction
    answer_in_shards(context, source, prompts, draws, "answers", SHARD_PROMPTS, total=len(prompts))
    if not world().is_leader:  # labels are the leader's work
        return {}

    annotator = build_judge(config.collect.annotator, context, "annotator", device)
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    noise = config.collect.label_noise
    pairs: list[PreferencePair] = []
    outcomes: Counter[str] = Counter()
    for samples in iterate_folder(context.out / "answers"):
        for first, two_scores in zip(range(0, len(samples), 2), opinions(annotator, by_id, samples), strict=True):
            a, b = samples[first : first + 2]
            outcome, pair = label(by_id[a.prompt_id], (a.text, b.text), two_scores, noise, config.seed, a.draw)
            outcomes[outcome] += 1
            if pair:
                pairs.append(pair)
    if not pairs:
        raise DataError(
            f"no pair could be labelled: {dict(outcomes)}",
            where=str(context.inputs["preference_instructions"]),
            mend="raise collect.temperature, or give more data.preference_instructions",
        )
    write_jsonl(context.out / "pairs.jsonl", pairs)
    return {
        "source": annotator.name,
        "pairs": len(pairs),
        "outcomes": dict(outcomes),
        **told_costs(context, annotator),
    }


def opinions(
    annotator: Judge, prompts: Mapping[str, Prompt], samples: Sequence[Sample]
) -> list[tuple[float, float] | None]:
    """Scores of samples 0 and 1, 2 and 3, ...; None where an annotation cannot be read.

    An annotator that only compares gives the better one 1 and the other 0, or their shares where it is not sure; it
    is not asked of equal texts.
    """
    of = [prompts[sample.prompt_id] for sample in samples]
    if isinstance(annotator, ScoringJudge):
        scores = annotator.scores(of, [s.text for s in samples], [s.finish_reason for s in samples])
        return list(zip(scores[::2], scores[1::2], strict=True))
    both = list(zip(of[::2], samples[::2], samples[1::2], strict=True))
    differ = [index for index, (_, a, b) in enumerate(both) if not _is_equal(a.text, b.text)]
    found: list[tuple[float, float] | None] = [(0.5, 0.5)] * len(both)
    preferences = annotator.compare(
        [both[i][0] for i in differ], [both[i][1].text for i in differ], [both[i][2].text for i in differ]
    )
    for index, preference in zip(differ, preferences, strict=True):
        found[index] = None if preference is None else (2 - preference, preference - 1)
    return found


def _is_equal(one: str, other: str) -> bool:
    return one.strip() == other.strip()


def label(
    prompt: Prompt,
    texts: tuple[str, str],
    scores: Sequence[float] | None,
    noise: LabelNoiseConfig,
    seed: int,
    draw: int,
) -> tuple[str, PreferencePair | None]:
    """What the annotator says of two answers: (outcome, pair or None).

    Equal texts and, without a temperature, equal scores give no pair; nor does an annotation that cannot be read,
    whose scores are None. The label's noise is drawn from (seed, prompt id, draw), so that it belongs to the pair.
    """
    if _is_equal(*texts):
        return "equal texts", None
    if scores is None:
        return "not readable", None
    chance = float(uniforms(1, seed, 0, "collect-label", prompt.prompt_id, draw)[0])
    preferred = draw_label(scores[0], scores[1], noise, chance)
    if preferred is None:
        return "equal scores", None
    winner, loser = (0, 1) if preferred == "a" else (1, 0)
    meta = {"score_chosen": scores[winner], "score_rejected": scores[loser]}
    outcome = "agrees with the score" if scores[winner] >= scores[loser] else "against the score"
    return outcome, PreferencePair(prompt, texts[winner], texts[loser], meta=meta)
