"""Samples -> clusters -> confidence -> synthetic preference pairs (SPG; METHOD 3), and its ablations.

Outputs: pairs.jsonl (one pair an accepted prompt), decisions.jsonl (every prompt, with the reason),
statistics.json (rates, confidence histogram, lengths, equivalence calls against the naive count).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.numpy import load_file

from rlp_engine.data.records import PreferencePair, Prompt, Sample
from rlp_engine.data.rows import read_prompts, write_jsonl
from rlp_engine.errors import DataError
from rlp_engine.methods.entailment_clusters import first_occurrences
from rlp_engine.methods.synthetic_preferences import Decision, choose_pair, choose_reward_pair, summarise
from rlp_engine.randomness import uniforms
from rlp_engine.run.atomic import write_json, write_text
from rlp_engine.run.fingerprint import DigestCache
from rlp_engine.run.layout import RunLayout
from rlp_engine.sandbox.data import World
from rlp_engine.semantics.answers import AnswerFolder
from rlp_engine.semantics.build import build_equivalence
from rlp_engine.semantics.cluster import cluster_prompts
from rlp_engine.semantics.equivalence import Equivalence
from rlp_engine.stages.answering import iterate_folder
from rlp_engine.stages.common import prepare_device, shard_files
from rlp_engine.stages.spec import StageContext, is_remote

HISTOGRAM_WIDTH = 30  # characters of the longest bar


class PromptAnswers(NamedTuple):
    """A prompt and its answers, in sampling order."""

    prompt: Prompt
    answers: list[str]


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    selection = context.spec.params["selection"]
    prompts = {prompt.prompt_id: prompt for prompt in read_prompts(context.inputs["unlabeled"])}
    equivalence = None if selection == "reward-pair" else load_equivalence(context)
    decide = partial(
        decide_prompt,
        selection=selection,
        gamma=config.synthesize.min_confidence,
        key=(config.seed, context.spec.params["round"]),
    )
    rows: list[tuple[PromptAnswers, list[int] | None, Decision]] = []
    vector_files = shard_files(context.inputs["rewards"])
    shards = iterate_folder(context.inputs["samples"])
    calls = {"comparisons": 0, "naive_comparisons": 0}
    for number, (samples, vectors) in enumerate(zip(shards, vector_files, strict=True), 1):
        context.stop.check(context.spec.name)
        groups = group_by_prompt(samples, prompts)
        clusters = cluster_shard(groups, equivalence, calls) if equivalence else [None] * len(groups)
        rewards = load_file(vectors)["rewards"].tolist()
        start = 0
        for group, cluster_ids in zip(groups, clusters, strict=True):
            own = shared_rewards(group.answers, rewards[start : start + len(group.answers)])
            start += len(group.answers)
            rows.append((group, cluster_ids, decide(group.prompt, cluster_ids, own)))
        context.reporter.progress(context.spec.name, number, len(vector_files), "shards")
    pairs = [pair_of(group, decision) for group, _, decision in rows if decision.accepted]
    statistics = {
        **summarise([decision for *_, decision in rows]),
        **lengths(pairs),
        **calls,
        **(equivalence_counts(equivalence, calls["naive_comparisons"]) if equivalence else {}),
    }
    if equivalence and (recalled := equivalence.recalled()):
        context.reporter.line(f"{context.spec.name}: {recalled} NLI questions had been answered before")
        context.events.append("nli answers recalled", count=recalled)
    tell(context, statistics)
    if not pairs:
        raise DataError(
            f"no synthetic pair: of {statistics['prompts']} prompts {statistics['low_confidence_rate']:.1%} had low "
            f"confidence, {statistics['one_cluster_rate']:.1%} a single cluster",
            where=str(context.inputs["samples"]),
            mend="lower synthesize.min_confidence, or choose another synthesize.equivalence (a laxer rule, min_cosine)",
        )
    write_jsonl(context.out / "pairs.jsonl", pairs)
    write_text(
        context.out / "decisions.jsonl",
        "".join(json.dumps(decision_row(*row), ensure_ascii=False) + "\n" for row in rows),
    )
    write_json(context.out / "statistics.json", statistics)
    return statistics


def load_equivalence(context: StageContext) -> Equivalence:
    config = context.config
    equivalence = config.synthesize.equivalence
    if "equivalence_model" in context.inputs:
        equivalence = equivalence.model_copy(update={"model": str(context.inputs["equivalence_model"])})
    return build_equivalence(
        equivalence,
        device=prepare_device(config.compute),
        same_meaning=World(config.sandbox).same_meaning if equivalence.kind == "sandbox" else None,
        answers=nli_answers(context, equivalence.model) if equivalence.kind == "nli" else None,
        after_forward=lambda: context.stop.check(f"{context.spec.name}; what the NLI model answered is kept"),
    )


def nli_answers(context: StageContext, model: str) -> AnswerFolder:
    """The run's folder of NLI answers, for this model. The digest was made when the stage was planned."""
    layout = RunLayout(context.run_dir)
    known_as = f"hub:{model}" if is_remote(model) else DigestCache(layout.digests).of(Path(model))
    return AnswerFolder(layout.nli_answers, known_as, context.reporter.warn)


def group_by_prompt(samples: Sequence[Sample], prompts: dict[str, Prompt]) -> list[PromptAnswers]:
    """Answers of each prompt, in sampling order: a shard holds a prompt's samples next to each other."""
    texts: dict[str, list[str]] = {}
    for sample in samples:
        texts.setdefault(sample.prompt_id, []).append(sample.text)
    return [PromptAnswers(prompts[prompt_id], answers) for prompt_id, answers in texts.items()]


def cluster_shard(groups: Sequence[PromptAnswers], equivalence: Equivalence, calls: dict[str, int]) -> list[list[int]]:
    result = cluster_prompts(groups, equivalence)
    calls["comparisons"] += result.asked
    calls["naive_comparisons"] += result.walked
    return result.cluster_ids


def equivalence_counts(equivalence: Equivalence, naive_comparisons: int) -> dict[str, int]:
    """What the equivalence counted; for NLI also the calls of the sequential walk, two a comparison, without
    duplicates shared or a direction left out (METHOD 3.3)."""
    counts = equivalence.counts()
    return counts | ({"naive_nli_calls": 2 * naive_comparisons} if "nli_calls" in counts else {})


def shared_rewards(answers: Sequence[str], rewards: Sequence[float]) -> list[float]:
    """Equal texts get one reward, the first one's: padding moves its last bits, which would make a pair of equals."""
    return [rewards[first] for first in first_occurrences(answers)]


def decide_prompt(
    prompt: Prompt,
    cluster_ids: Sequence[int] | None,
    rewards: Sequence[float],
    *,
    selection: str,
    gamma: float,
    key: tuple[int, ...],
) -> Decision:
    """The pair of one prompt; the draw of y_l is keyed by (seed, round, prompt id) (METHOD 3.4)."""
    draw = float(uniforms(1, *key, "synthesize", prompt.prompt_id)[0])
    if selection == "reward-pair":
        return choose_reward_pair(rewards, draw)
    return choose_pair(cluster_ids, rewards, 0.0 if selection == "select-all" else gamma, draw)


def pair_of(group: PromptAnswers, decision: Decision) -> PreferencePair:
    meta = {
        "confidence": decision.confidence,
        "reward_chosen": decision.chosen_reward,
        "reward_rejected": decision.rejected_reward,
    }
    return PreferencePair(group.prompt, group.answers[decision.chosen], group.answers[decision.rejected], meta=meta)


def decision_row(group: PromptAnswers, cluster_ids: list[int] | None, decision: Decision) -> dict[str, Any]:
    return {
        "prompt_id": group.prompt.prompt_id,
        "instruction": group.prompt.instruction,
        "input": group.prompt.input,
        **asdict(decision),
        "cluster_ids": cluster_ids,
        "texts": group.answers,
    }


def lengths(pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """Mean characters of y_w and y_l (the paper: 510 and 449)."""
    if not pairs:
        return {}
    return {
        "chosen_characters": sum(len(pair.chosen) for pair in pairs) / len(pairs),
        "rejected_characters": sum(len(pair.rejected) for pair in pairs) / len(pairs),
    }


def tell(context: StageContext, statistics: dict[str, Any]) -> None:
    """The rates and the confidence histogram, for people."""
    report = context.reporter.line
    report(f"{context.spec.name}: {statistics['accepted']} of {statistics['prompts']} prompts give a pair")
    histogram = statistics["confidence_histogram"]
    most = max(histogram.values(), default=0)
    for confidence, count in histogram.items():
        report(f"  confidence {confidence}  {count:6d}  {'#' * round(HISTOGRAM_WIDTH * count / most)}")
    for label, name in (
        ("one cluster only", "one_cluster_rate"),
        ("low confidence", "low_confidence_rate"),
        ("pairs whose y_l has the higher reward", "reversed_reward_rate"),
    ):
        if statistics[name] is not None:
            report(f"  {label}: {statistics[name]:.1%}")
    if statistics["naive_comparisons"]:
        report(f"  comparisons: {statistics['comparisons']} (naive: {statistics['naive_comparisons']})")
    if "chosen_characters" in statistics:
        report(
            f"  mean characters: y_w {statistics['chosen_characters']:.0f}, y_l {statistics['rejected_characters']:.0f}"
        )
