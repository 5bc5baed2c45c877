"""One seed: train every arm, score every judged pair outside D, and write numbers (JSON) and margins (npz)."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from benchmarks.real_preferences import arms
from benchmarks.real_preferences.baselines import BagOfWords, fixed_rules
from benchmarks.real_preferences.data import JudgedPair, World
from benchmarks.real_preferences.encoder import RewardModel, TextStates, clustering_vectors, load_minilm, text_states
from benchmarks.real_preferences.measures import accuracies, correct, on_output_sets
from benchmarks.real_preferences.training import Added, Settings, Trained, train

UML_LOG = ("jsd", "skl", "nwj", "mean_sigma", "collapsed", "mu_within_share")


@dataclass(frozen=True)
class Study:
    """A world with all that is computed once for it."""

    world: World
    states: TextStates
    vectors: arms.Vectors
    layer: nn.Module
    width: int

    @classmethod
    def load(cls, world: World, states: TextStates, cache: Path) -> Study:
        in_sets = {text for rows in world.sets.values() for row in rows for text in row.texts}
        vectors = clustering_vectors([world.texts.items[text] for text in sorted(in_sets)], cache)
        encoder, _ = load_minilm()
        return cls(world, states, vectors, encoder.encoder.layer[-1], encoder.config.hidden_size)

    def train(
        self, rotation: int, stage: str, pairs: Sequence[JudgedPair], added: Added, settings: Settings
    ) -> Trained:
        """Arms of one `stage` ("first" or "refine") share starting weights and the order of D."""
        key = ("real-preferences", rotation, stage)
        model = RewardModel(self.layer, self.width, key)
        plain = [(pair.chosen, pair.rejected) for pair in pairs]
        return train(self.states, model, plain, added, settings, key)


def load_states(world: World, cache: Path) -> TextStates:
    return text_states(world.texts.items, cache)


def run_seed(
    study: Study,
    rotation: int,
    settings: Settings,
    refined: Sequence[str],
    before: tuple[list[dict], dict[str, np.ndarray]] | None = None,
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Every arm of one seed.

    Args:
        refined: arms besides first and reseed; "uml@lambda=0.1" and "spg@weight=4" are arms with another setting.
        before: what an earlier call returned for this seed: only arms that it lacks are trained.

    Returns:
        (records, margins). A record is a JSON object of numbers with "kind", "seed", "arm", "set" and "part";
        `margins["ARM/SET/PART"]` has the reward margins in the order of `tested`.
    """
    world = study.world
    records: list[dict] = []
    margins = {} if before is None else dict(before[1])
    pairs = arms.pairs_of_d(world, rotation, settings)
    settings = replace(settings, num_pairs=min(settings.num_pairs, len(pairs)))
    done = set() if before is None else {record["arm"] for record in before[0]}
    missing = [label for label in refined if label not in done]
    first = None
    if before is None:
        first = _timed(study, rotation, "first", pairs, Added(), settings, records, {"arm": "first", "set": ""})
        reseed = _timed(study, rotation, "refine", pairs, Added(), settings, records, {"arm": "reseed", "set": ""})
        for arm, trained in (("first", first), ("reseed", reseed)):
            for name in world.sets:
                _measure(study, rotation, arm, name, trained, records, margins)
            _llmbar(study, rotation, arm, "", trained, records)
        _baselines(study, rotation, pairs, records, margins)
    elif any(label.partition("@")[0] not in arms.WITHOUT_FIRST for label in missing):
        first = study.train(rotation, "first", pairs, Added(), settings)
    for name in world.sets:
        cosine, acceptance = arms.choose_cosine(world, name, study.vectors, settings.gamma)
        clusters = arms.clusters_of(world, name, study.vectors, cosine)
        texts = sorted({text for row in arms.sets_of_p(world, name, rotation) for text in row.texts})
        first_rewards = {} if first is None else arms.rewards_and_v(study.states, first.model, texts)[0]
        for label in missing:
            arm, own = arms.variant(label, settings)
            added, facts = arms.added(arm, world, name, rotation, own, first_rewards, clusters)
            about = {"arm": label, "set": name, "min_cosine": cosine, "acceptance_everywhere": acceptance, **facts}
            trained = _timed(study, rotation, "refine", pairs, added, own, records, about)
            _measure(study, rotation, label, name, trained, records, margins)
            _llmbar(study, rotation, label, name, trained, records)
    earlier = [] if before is None else before[0]
    return [*earlier, *({"seed": rotation, **record} for record in records)], margins


def tested(world: World, name: str, rotation: int, part: str) -> list[JudgedPair]:
    """Judged pairs of a set's generators on the instructions of P, or on new ones."""
    part_of = world.part_of(rotation)
    return [pair for pair in world.tests[name] if part_of[pair.instruction] == part]


def write_seed(out: Path, rotation: int, records: list[dict], margins: dict[str, np.ndarray], settings: Settings):
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / f"seed-{rotation}.npz", **margins)
    text = json.dumps({"settings": asdict(settings), "records": records}, indent=1)
    (out / f"seed-{rotation}.json").write_text(text + "\n", encoding="utf-8")


def read_seed(out: Path, rotation: int) -> tuple[list[dict], dict[str, np.ndarray]] | None:
    """What `write_seed` wrote; None if it has not."""
    path = out / f"seed-{rotation}.json"
    if not path.is_file():
        return None
    with np.load(path.with_suffix(".npz")) as margins:
        return json.loads(path.read_text(encoding="utf-8"))["records"], dict(margins)


def _timed(
    study: Study,
    rotation: int,
    stage: str,
    pairs: Sequence[JudgedPair],
    added: Added,
    settings: Settings,
    records: list[dict],
    about: dict,
) -> Trained:
    wall, cpu = time.perf_counter(), time.process_time()
    trained = study.train(rotation, stage, pairs, added, settings)
    record = {
        "kind": "training",
        **about,
        "steps": settings.steps,
        "pairs_of_d": len(pairs),
        "bradley_terry": trained.mean_of_last("bradley_terry"),
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    if added.views:
        record |= {name: trained.mean_of_last(name) for name in UML_LOG}
    records.append(record)
    return trained


def _measure(
    study: Study,
    rotation: int,
    arm: str,
    name: str,
    trained: Trained,
    records: list[dict],
    margins: dict[str, np.ndarray],
) -> None:
    rows = arms.sets_of_p(study.world, name, rotation)
    in_sets = {text for row in rows for text in row.texts}
    by_part = {part: tested(study.world, name, rotation, part) for part in ("P", "new")}
    in_pairs = {text for pairs in by_part.values() for pair in pairs for text in (pair.chosen, pair.rejected)}
    texts = sorted(in_sets | in_pairs)
    rewards, v_ND = arms.rewards_and_v(study.states, trained.model, texts)
    about = {"arm": arm, "set": name}
    for part, pairs in by_part.items():
        margin_N = np.array([rewards[pair.chosen] - rewards[pair.rejected] for pair in pairs])
        margins[f"{arm}/{name}/{part}"] = margin_N.astype(np.float32)
        records.append({"kind": "accuracy", **about, "part": part, "pairs": len(pairs), **accuracies(margin_N, pairs)})
    v_of = dict(zip(texts, v_ND, strict=True))
    records.append({"kind": "outputs", **about, **on_output_sets(rows, study.world.texts, rewards, v_of)})


def _llmbar(study: Study, rotation: int, arm: str, name: str, trained: Trained, records: list[dict]) -> None:
    for part, pairs in study.world.llmbar.items():
        texts = sorted({text for pair in pairs for text in (pair.chosen, pair.rejected)})
        rewards, _ = arms.rewards_and_v(study.states, trained.model, texts)
        margin_N = np.array([rewards[pair.chosen] - rewards[pair.rejected] for pair in pairs])
        accuracy = float(correct(margin_N).mean())
        records.append({"kind": "llmbar", "arm": arm, "set": name, "part": part, "accuracy": accuracy})


def _baselines(
    study: Study,
    rotation: int,
    pairs: Sequence[JudgedPair],
    records: list[dict],
    margins: dict[str, np.ndarray],
) -> None:
    world = study.world
    words = BagOfWords(world.texts, pairs)
    for name in world.sets:
        for part in ("P", "new"):
            tests = tested(world, name, rotation, part)
            for arm, margin_N in (fixed_rules(tests) | {"bag-of-words": words.margins(tests)}).items():
                margins[f"{arm}/{name}/{part}"] = margin_N.astype(np.float32)
                about = {"arm": arm, "set": name, "part": part, "pairs": len(tests)}
                records.append({"kind": "accuracy", **about, **accuracies(margin_N, tests)})
    for part, tests in world.llmbar.items():
        for arm, margin_N in {"length": fixed_rules(tests)["length"], "bag-of-words": words.margins(tests)}.items():
            accuracy = float(correct(margin_N).mean())
            records.append({"kind": "llmbar", "arm": arm, "set": "", "part": part, "accuracy": accuracy})
