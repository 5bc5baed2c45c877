"""Samples -> clusters -> confidence -> synthetic preference pairs (SPG; METHOD 3), and its ablations.

Outputs: pairs.jsonl (one pair an accepted prompt), decisions.jsonl (every prompt, with the reason and, where answers
were clustered, their entropies), statistics.json (rates, confidence histogram, lengths, mean entropies, equivalence
calls against the naive count); for RLAIF also judgements/shard_NNNNN.jsonl, what the judge said of two answers.

Every shard of samples gives a folder shards/shard_NNNNN, made by one rank; at the end the leader puts them together.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.numpy import load_file

from rlp_engine.data.records import PreferencePair, Prompt, Sample
from rlp_engine.data.rows import concatenate, read_samples, write_jsonl
from rlp_engine.distributed.world import world
from rlp_engine.errors import DataError
from rlp_engine.generation.rlaif import RlaifJudge
from rlp_engine.methods.entailment_clusters import first_occurrences
from rlp_engine.methods.synthetic_preferences import (
    Decision,
    choose_pair,
    choose_reward_pair,
    choose_rlaif_pair,
    draw_two,
)
from rlp_engine.randomness import KeyPart, uniforms
from rlp_engine.run.atomic import committed_dir, write_json, write_text
from rlp_engine.run.fingerprint import DigestCache, sha256_of_file
from rlp_engine.run.layout import RunLayout
from rlp_engine.sandbox.data import World
from rlp_engine.semantics.answers import AnswerFolder
from rlp_engine.semantics.build import build_equivalence
from rlp_engine.semantics.cluster import cluster_prompts
from rlp_engine.semantics.equivalence import Equivalence
from rlp_engine.stages.common import prepare_device, shard_files
from rlp_engine.stages.judging import added_costs, tell_costs
from rlp_engine.stages.rlaif import Judgement, ServerRlaif, judge_shard, load_judge
from rlp_engine.stages.sharding import PromptsInOrder, all_ranks, is_own
from rlp_engine.stages.spec import StageContext, is_remote
from rlp_engine.stages.synthesis_statistics import added, entropies, statistics_of, sums_of, tell

SHARDS, PAIRS, DECISIONS, STATISTICS = "shards", "pairs.jsonl", "decisions.jsonl", "statistics.json"


class PromptAnswers(NamedTuple):
    """A prompt and its answers, in sampling order."""

    prompt: Prompt
    answers: list[str]
    finish_reasons: list[str]
    mean_logprobs: list[float]  # mean log-likelihood a token, nats, at the sampling temperature


class Row(NamedTuple):
    """A prompt and what became of it."""

    group: PromptAnswers
    cluster_ids: list[int] | None
    judgement: Judgement | None
    decision: Decision


def run(context: StageContext) -> dict[str, Any]:
    selection = context.spec.params["selection"]
    equivalence = load_equivalence(context) if selection in ("spg", "select-all") else None
    judge = load_judge(context) if selection == "rlaif" else None
    prompts = PromptsInOrder(context.inputs["unlabeled"])
    samples, vectors = shard_files(context.inputs["samples"]), shard_files(context.inputs["rewards"])
    with all_ranks(context, "whole shards are kept"):
        for number, (file, vector_file) in enumerate(zip(samples, vectors, strict=True)):
            folder = context.out / SHARDS / file.stem
            if is_own(number) and not folder.exists():
                context.stop.check(f"{context.spec.name}; whole shards are kept")
                groups = group_by_prompt(read_samples(file), prompts)
                rewards = load_file(vector_file)["rewards"].tolist()
                if equivalence:
                    equivalence.begin(sha256_of_file(file))
                write_shard(folder, *decide_shard(context, groups, rewards, equivalence, judge, file.stem))
            context.reporter.progress(context.spec.name, number + 1, len(samples), "shards")
    recalled = sum(world().gather(equivalence.recalled() if equivalence else 0))
    costs = added_costs(world().gather(judge.judge.costs() if isinstance(judge, ServerRlaif) else {}))
    if not world().is_leader:
        return {}
    if recalled:
        context.reporter.line(f"{context.spec.name}: {recalled} NLI questions had been answered before")
        context.events.append("nli answers recalled", count=recalled)
    return put_together(context) | tell_costs(context, costs)


def decide_shard(
    context: StageContext,
    groups: Sequence[PromptAnswers],
    rewards: Sequence[float],
    equivalence: Equivalence | None,
    judge: RlaifJudge | None,
    name: str,
) -> tuple[list[Row], dict[str, int]]:
    """What becomes of the prompts of one shard, and what their comparisons took."""
    config = context.config
    selection = context.spec.params["selection"]
    key = (config.seed, context.spec.params["round"])
    gamma = config.synthesize.min_confidence if selection == "spg" else 0.0
    calls = {"comparisons": 0, "naive_comparisons": 0}
    clusters: Sequence[list[int] | None] = [None] * len(groups)
    judgements: Sequence[Judgement | None] = [None] * len(groups)
    if equivalence:
        clusters, calls = cluster_shard(groups, equivalence)
    if judge:
        drawn = [drawn_two(group.prompt, len(group.answers), key) for group in groups]
        judgements = judge_shard(context, judge, groups, drawn, name)
    rows, start = [], 0
    for group, cluster_ids, judgement in zip(groups, clusters, judgements, strict=True):
        own = shared_rewards(group.answers, rewards[start : start + len(group.answers)])
        start += len(group.answers)
        decision = decide_prompt(
            group.prompt, cluster_ids, own, selection=selection, gamma=gamma, key=key, judgement=judgement
        )
        rows.append(Row(group, cluster_ids, judgement, decision))
    return rows, calls


def write_shard(folder: Path, rows: Sequence[Row], calls: dict[str, int]) -> None:
    """What a shard adds to the outputs: a folder that appears in one rename."""
    pairs = [pair_of(row) for row in rows if row.decision.accepted]
    with committed_dir(folder) as partial:
        write_jsonl(partial / PAIRS, pairs)
        lines = (json.dumps(decision_row(row), ensure_ascii=False) + "\n" for row in rows)
        write_text(partial / DECISIONS, "".join(lines))
        write_json(partial / STATISTICS, sums_of(rows, pairs) | {"calls": calls})


def put_together(context: StageContext) -> dict[str, Any]:
    """The outputs, of all shards in their order, none of which is held in memory; then the shards go."""
    folders = shard_files(context.out / SHARDS)
    sums = added(json.loads((folder / STATISTICS).read_text("utf-8")) for folder in folders)
    calls = sums["calls"]
    # one by one, every comparison asks both ways (METHOD 3.3)
    naive = {"naive_nli_calls": 2 * calls["naive_comparisons"]} if "nli_calls" in calls else {}
    statistics = {**statistics_of(sums), **calls, **naive}
    tell(context, statistics)
    if not statistics["accepted"]:
        raise no_pair(context, statistics)
    for name in (PAIRS, DECISIONS):
        concatenate([folder / name for folder in folders], context.out / name)
    write_json(context.out / STATISTICS, statistics)
    shutil.rmtree(context.out / SHARDS)
    return statistics


def no_pair(context: StageContext, statistics: dict[str, Any]) -> DataError:
    """Training on D alone under the method's name would be a lie (METHOD 7.45)."""
    if context.spec.params["selection"] in ("reward-pair", "rlaif"):
        return DataError(
            f"no synthetic pair: in all {statistics['prompts']} prompts the two answers drawn are equal, or judged so",
            where=str(context.inputs["samples"]),
            mend="sample with a higher sample.temperature",
        )
    mend = "lower synthesize.min_confidence, or choose another synthesize.equivalence (a laxer rule, min_cosine)"
    if statistics["one_cluster_rate"] == 1:
        mend = "sample with a higher sample.temperature, or choose a stricter synthesize.equivalence"
    return DataError(
        f"no synthetic pair: of {statistics['prompts']} prompts {statistics['low_confidence_rate']:.1%} had low "
        f"confidence, {statistics['one_cluster_rate']:.1%} a single cluster",
        where=str(context.inputs["samples"]),
        mend=mend,
    )


def load_equivalence(context: StageContext) -> Equivalence:
    config = context.config
    equivalence = config.synthesize.equivalence
    if "equivalence_model" in context.inputs:
        equivalence = equivalence.model_copy(update={"model": str(context.inputs["equivalence_model"])})
    return build_equivalence(
        equivalence,
        device=prepare_device(context),
        same_meaning=World(config.sandbox).same_meaning if equivalence.kind == "sandbox" else None,
        answers=nli_answers(context, equivalence.model) if equivalence.kind == "nli" else None,
        after_forward=lambda: context.stop.check(f"{context.spec.name}; what the NLI model answered is kept"),
    )


def nli_answers(context: StageContext, model: str) -> AnswerFolder:
    """The run's folder of NLI answers, for this model. The digest was made when the stage was planned."""
    layout = RunLayout(context.run_dir)
    known_as = f"hub:{model}" if is_remote(model) else DigestCache(layout.digests).of(Path(model))
    return AnswerFolder(layout.nli_answers, known_as, context.reporter.warn)


def group_by_prompt(samples: Sequence[Sample], prompts: PromptsInOrder) -> list[PromptAnswers]:
    """Answers of each prompt, in sampling order: a shard holds a prompt's samples next to each other."""
    own: dict[str, list[Sample]] = {}
    for sample in samples:
        own.setdefault(sample.prompt_id, []).append(sample)
    found = prompts.find(own)
    return [
        PromptAnswers(
            found[prompt_id],
            [sample.text for sample in of_prompt],
            [sample.finish_reason for sample in of_prompt],
            [sample.logprob / len(sample.token_ids) for sample in of_prompt],  # an answer has a token, if only its EOS
        )
        for prompt_id, of_prompt in own.items()
    ]


def cluster_shard(groups: Sequence[PromptAnswers], equivalence: Equivalence) -> tuple[list[list[int]], dict[str, int]]:
    """Clusters, and what they took: comparisons, those of the sequential walk without duplicates shared, and what the
    equivalence counted."""
    result = cluster_prompts([(group.prompt, group.answers) for group in groups], equivalence)
    return result.cluster_ids, {"comparisons": result.asked, "naive_comparisons": result.walked, **result.counts}


def shared_rewards(answers: Sequence[str], rewards: Sequence[float]) -> list[float]:
    """Equal texts get one reward, the first one's: padding moves its last bits, which would make a pair of equals."""
    return [rewards[first] for first in first_occurrences(answers)]


def drawn_two(prompt: Prompt, count: int, key: tuple[KeyPart, ...]) -> tuple[int, int]:
    """The two answers that Reward pair and RLAIF compare: the same for both (METHOD 3.5)."""
    return draw_two(count, own_draw(prompt, key))


def own_draw(prompt: Prompt, key: tuple[KeyPart, ...]) -> float:
    """A prompt's number in [0, 1), keyed by (seed, round, prompt id) (METHOD 3.4)."""
    return float(uniforms(1, *key, "synthesize", prompt.prompt_id)[0])


def decide_prompt(
    prompt: Prompt,
    cluster_ids: Sequence[int] | None,
    rewards: Sequence[float],
    *,
    selection: str,
    gamma: float,
    key: tuple[KeyPart, ...],
    judgement: Judgement | None = None,
) -> Decision:
    """The pair of one prompt.

    Args:
        gamma: least confidence; 0 for Select-All. Pairs of two answers have none.
        judgement: what the judge said of the two answers; None where their texts are equal.
    """
    if selection == "reward-pair":
        return choose_reward_pair(rewards, own_draw(prompt, key))
    if selection == "rlaif":
        if judgement is None:
            return Decision("equal")
        if judgement.preference is None:
            return Decision("unparsed")
        return choose_rlaif_pair(judgement.first, judgement.second, judgement.preference, rewards)
    return choose_pair(cluster_ids, rewards, gamma, own_draw(prompt, key))


def pair_of(row: Row) -> PreferencePair:
    """The synthetic pair, with what `evaluate` and readers want to know of it."""
    group, decision = row.group, row.decision
    meta = {
        "confidence": decision.confidence,
        "reward_chosen": decision.chosen_reward,
        "reward_rejected": decision.rejected_reward,
        "finish_chosen": group.finish_reasons[decision.chosen],
        "finish_rejected": group.finish_reasons[decision.rejected],
    }
    return PreferencePair(group.prompt, group.answers[decision.chosen], group.answers[decision.rejected], meta=meta)


def decision_row(row: Row) -> dict[str, Any]:
    group = row.group
    return {
        "prompt_id": group.prompt.prompt_id,
        "instruction": group.prompt.instruction,
        "input": group.prompt.input,
        **asdict(row.decision),
        "cluster_ids": row.cluster_ids,
        "entropies": entropies(row.cluster_ids, group.mean_logprobs) if row.cluster_ids else None,
        "preference": row.judgement.preference if row.judgement else None,
        "texts": group.answers,
    }
