"""What each arm adds to D, for one seed.

first      nothing: the first reward model, which also picks y_w for SPG
reseed     nothing, another seed: the control that every refined arm is compared with
uml        views: two outputs of one instruction of P                               (METHOD 2)
spg        synthetic pairs from clusters of the outputs of an instruction of P      (METHOD 3)
uml+spg    both
select-all SPG at gamma = 0                                                         (METHOD 3.5)
self-label two outputs of P at random, the higher first reward wins                 (METHOD 3.5, "Reward")
judged     the real judgements of P's generators on P's instructions: what there is to gain. Read it on "new".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.real_preferences.data import JudgedPair, Texts, UnlabelledSet, World
from benchmarks.real_preferences.encoder import RewardModel, TextStates
from benchmarks.real_preferences.training import Added, Settings
from rlp_engine.methods.entailment_clusters import cluster
from rlp_engine.methods.synthetic_preferences import Decision, choose_pair, choose_reward_pair, summarise
from rlp_engine.randomness import permutation, uniforms

CONTROLS = ("first", "reseed")
REFINED = ("uml", "spg", "uml+spg", "select-all", "self-label", "judged")
WITHOUT_FIRST = ("uml", "judged")  # they read no reward of the first model
VARIED = {"lambda": "multi_view_weight", "weight": "synthetic_weight"}
COSINES = tuple(round(0.50 + 0.02 * step, 2) for step in range(24))
Vectors = Mapping[str, np.ndarray]


def variant(label: str, settings: Settings) -> tuple[str, Settings]:
    """(arm, its settings): "uml@lambda=0.1" is uml with lambda 0.1."""
    arm, _, change = label.partition("@")
    if not change:
        return arm, settings
    name, _, value = change.partition("=")
    return arm, replace(settings, **{VARIED[name]: float(value)})


def pairs_of_d(world: World, rotation: int, settings: Settings) -> list[JudgedPair]:
    """This seed's D: a draw from the pool's pairs on the instructions of its D folds."""
    part = world.part_of(rotation)
    pool = [pair for pair in world.judged if part[pair.instruction] == "D"]
    order = permutation(len(pool), "real-preferences", "D", rotation)[: settings.num_pairs]
    return [pool[place] for place in order]


def sets_of_p(world: World, name: str, rotation: int) -> list[UnlabelledSet]:
    part = world.part_of(rotation)
    return [row for row in world.sets[name] if part[row.instruction] == "P"]


def added(
    arm: str,
    world: World,
    name: str,
    rotation: int,
    settings: Settings,
    first_rewards: Mapping[int, float],
    clusters: Mapping[int, list[int]],
) -> tuple[Added, dict[str, object]]:
    """(what `arm` adds for output set `name`, facts about it).

    Args:
        first_rewards: reward of each text of the set by the first reward model.
        clusters: cluster ids of each instruction's outputs.
    """
    rows = sets_of_p(world, name, rotation)
    part = world.part_of(rotation)
    views = rows if arm.startswith("uml") else []
    if arm == "uml":
        return Added(views=views), {}
    if arm == "judged":
        judged = [(p.chosen, p.rejected) for p in world.tests[name] if part[p.instruction] == "P"]
        return Added(pairs=judged), {"pairs": len(judged)}
    draws = uniforms(len(rows), "real-preferences", arm, name, rotation)
    decisions = [
        _decide(arm, row, first_rewards, clusters, settings.gamma, float(draw))
        for row, draw in zip(rows, draws, strict=True)
    ]
    pairs = [
        (row.texts[decision.chosen], row.texts[decision.rejected])
        for row, decision in zip(rows, decisions, strict=True)
        if decision.chosen is not None and decision.rejected is not None
    ]
    facts = summarise(decisions) | {"pairs": len(pairs)} | _characters(world.texts, pairs)
    return Added(pairs=pairs, weight=settings.synthetic_weight, views=views), facts


def _decide(
    arm: str,
    row: UnlabelledSet,
    first_rewards: Mapping[int, float],
    clusters: Mapping[int, list[int]],
    gamma: float,
    draw: float,
) -> Decision:
    rewards = [first_rewards[text] for text in row.texts]
    if arm == "self-label":
        return choose_reward_pair(rewards, draw)
    return choose_pair(clusters[row.instruction], rewards, 0.0 if arm == "select-all" else gamma, draw)


def _characters(texts: Texts, pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Mean characters of y_w and y_l (the paper: 510 and 449)."""
    if not pairs:
        return {}
    lengths = np.array([[len(texts.items[text][1]) for text in pair] for pair in pairs])
    chosen, rejected = lengths.mean(0)
    return {"characters_chosen": float(chosen), "characters_rejected": float(rejected)}


def clusters_of(world: World, name: str, vectors: Vectors, min_cosine: float) -> dict[int, list[int]]:
    """Cluster ids of every instruction's outputs: equivalent to the first member = cosine >= min_cosine."""
    found = {}
    for row in world.sets[name]:
        unit_ND = np.stack([vectors[world.texts.items[text][1]] for text in row.texts])
        cosine_NN = unit_ND @ unit_ND.T
        found[row.instruction] = cluster(len(row.texts), lambda i, j, c=cosine_NN: bool(c[i, j] >= min_cosine))
    return found


def choose_cosine(world: World, name: str, vectors: Vectors, gamma: float) -> tuple[float, float]:
    """(min_cosine, acceptance rate): the threshold that accepts nearest to half of the instructions; reads no label."""
    rates = {}
    for min_cosine in COSINES:
        clusters = clusters_of(world, name, vectors, min_cosine).values()
        decisions = [choose_pair(ids, [0.0] * len(ids), gamma, 0.0) for ids in clusters]
        rates[min_cosine] = sum(decision.accepted for decision in decisions) / len(decisions)
    best = min(COSINES, key=lambda min_cosine: (abs(rates[min_cosine] - 0.5), -min_cosine))
    return best, rates[best]


@torch.no_grad()
def rewards_and_v(states: TextStates, model: RewardModel, texts: Sequence[int]) -> tuple[dict[int, float], np.ndarray]:
    """(reward by text, v_ND in the order of `texts`)."""
    reward_N, v_ND = states.read(model, texts)
    return dict(zip(texts, reward_N.tolist(), strict=True)), v_ND.numpy()
