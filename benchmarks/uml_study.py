"""Does the multi-view loss (UML) teach the reward model anything? Reward models only, in the sandbox.

Each policy seed is a finished run whose answers P are shared by all arms; an arm is one way to refine its reward
model, changed in one variable, at several reward seeds (head, order of pairs, views; the same for all arms). Two
controls see D alone: as many optimizer steps, and as low a Bradley-Terry loss on the training pairs (interpolated
on a ladder of D-only runs of other lengths). What counts is the accuracy on the policies' own answers to held-out
instructions, gold being the truth; a standard error is over policy seeds, reward seeds averaged within.

    rlp run s211 --preset quickstart --yes --until round-1/spg/synthesize --set 'methods=["spg"]' \\
        --set seed=211 --set sandbox.seed=211          # one for each policy seed
    python benchmarks/uml_study.py refine --out results.jsonl --split test --arms uml placebo -- s211 s212
    python benchmarks/uml_study.py table results.jsonl

`refine` appends one JSON line a reward model and skips those that the file has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from uml_arms import ARMS, Arm
from uml_tables import rows_of, tables

from rlp_engine.config.load import load_run
from rlp_engine.config.sections.reward import MultiViewConfig
from rlp_engine.data.records import Prompt, Sample
from rlp_engine.data.rows import read_pairs, read_prompts
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.evaluation.reward_accuracy import reward_accuracy
from rlp_engine.methods.bradley_terry import bradley_terry_loss, pair_accuracy
from rlp_engine.methods.multi_view import within_share
from rlp_engine.models.policy import load_policy
from rlp_engine.models.reward import RewardModel, load_reward
from rlp_engine.randomness import torch_seed, uniforms
from rlp_engine.sandbox.data import World
from rlp_engine.stages.answering import answerer
from rlp_engine.stages.reward_training import split_held_out
from rlp_engine.training.checkpoint import TaskState
from rlp_engine.training.multi_view_task import MultiViewTask
from rlp_engine.training.pairs import PairsTask
from rlp_engine.training.steps import Task
from rlp_engine.training.views import PolicyAnswers, ViewPair, ViewPairs, normalised, view_pairs

ANSWERS = 6  # of each policy to a held-out instruction
LAST_STEPS = 10  # of joint training, over which the loss's diagnostics are averaged
DIAGNOSTICS = ("jsd", "skl", "nwj", "mean_sigma", "beta")


class Base:
    """A finished run: its models, pairs and samples, and fresh answers to held-out instructions."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self.config = load_run(folder).config
        self.world = World(self.config.sandbox)
        pairs = list(read_pairs(folder / "collect/pairs.jsonl"))
        self.training, self.held_out = split_held_out(pairs, self.config.train_rm.held_out, self.config.seed)
        self.prompts = read_prompts(folder / f"prepare/{split}.jsonl")
        self.warm: dict[tuple, TaskState] = {}  # state after the warm-up of the heads
        self._encoded: dict[tuple[str, str], list[int]] = {}

    def new_reward_model(self, start: str, seed: int) -> RewardModel:
        if start == "train-rm":
            return load_reward(self.folder / "train-rm/model", self.config.model)
        key = torch_seed(self.config.seed, "uml-study", seed, "head")
        return load_reward(self.folder / "sft/model", self.config.model, from_policy=True, seed=key)

    @cached_property
    def template(self) -> PromptTemplate:
        return PromptTemplate(self.config.model.template, self.new_reward_model("sft", 0).tokenizer)

    def encode(self, prompt: Prompt, text: str) -> list[int]:
        key = (prompt.instruction, text)
        if key not in self._encoded:
            self._encoded[key] = self.template.encode_scored(prompt, text, self.config.train_rm.max_length)
        return self._encoded[key]

    @cached_property
    def clustered_answers(self) -> list[tuple[PolicyAnswers, list[int]]]:
        """The policy's answers to each instruction of U, and the cluster of each."""
        prompts = {prompt.prompt_id: prompt for prompt in read_prompts(self.folder / "prepare/unlabeled.jsonl")}
        rows = rows_of(self.folder / "round-1/spg/synthesize/decisions.jsonl")
        return [(PolicyAnswers(prompts[row["prompt_id"]], row["texts"]), row["cluster_ids"]) for row in rows]

    @cached_property
    def policy_answers(self) -> list[PolicyAnswers]:
        return [answers for answers, _ in self.clustered_answers]

    @cached_property
    def held_out_answers(self) -> dict[str, list[Sample]]:
        """ "sft" and "ppo" -> ANSWERS draws an instruction, prompt by prompt."""
        found = {}
        for name in ("sft", "ppo"):
            policy = load_policy(self.folder / name / "model", self.config.model)
            template = PromptTemplate(self.config.model.template, policy.tokenizer)
            key = (self.config.seed, "uml-study", name, self.split)
            source = answerer(policy, template, self.config.generation, temperature=1.0, top_p=1.0, key=key)
            found[name] = source.answer(self.prompts, ANSWERS)
        return found

    @cached_property
    def truth(self) -> dict[str, tuple[list[list[float]], list[list[bool]]]]:
        """Policy -> gold score and correctness of each answer, a list an instruction."""
        found = {}
        for name, answers in self.held_out_answers.items():
            prompts = [prompt for prompt in self.prompts for _ in range(ANSWERS)]
            parts = [self.world.gold_parts(p, a.text, a.finish_reason) for p, a in zip(prompts, answers, strict=True)]
            found[name] = (grouped([p["gold"] for p in parts]), grouped([p["correct"] > 0 for p in parts]))
        return found


class SameMeaningViews(ViewPairs):
    """Two answers of one cluster of an instruction. Not in the engine: see docs/RESULTS.md.

    With hard negatives an instruction gives a second pair, of another cluster, and the two are negatives: "also"
    beside other instructions' pairs, or "only". Where that cluster has one text its views are equal.
    """

    def __init__(self, base: Base, size: int, seed_parts: tuple, hard_negatives: str) -> None:
        self._encode, self._hard_negatives = base.encode, hard_negatives
        items: dict[str, list] = defaultdict(list)
        for answers, clusters in base.clustered_answers:
            texts, places = answers.texts, range(len(clusters))
            pairs = [(i, j) for i in places for j in places if clusters[i] == clusters[j] and texts[i] != texts[j]]
            if pairs and (hard_negatives == "none" or len(set(clusters)) > 1):
                items[normalised(answers.prompt)].append((answers, clusters, pairs))
        per_item = 1 if hard_negatives == "none" else 2
        shortage = "instructions have a cluster of two texts"
        super().__init__(list(items.values()), size, seed_parts, per_item=per_item, shortage=shortage)

    def _pairs(self, item: int, epoch: int) -> list[ViewPair]:
        members = self._items[item]
        which, draw, rival, partner = uniforms(4, *self._key, epoch, members[0][0].prompt.prompt_id)
        answers, clusters, pairs = members[int(which * len(members))]
        rows = [pairs[int(draw * len(pairs))]]
        if self._hard_negatives != "none":
            others = [i for i, cluster in enumerate(clusters) if cluster != clusters[rows[0][0]]]
            a = others[int(rival * len(others))]
            partners = [i for i in others if clusters[i] == clusters[a] and answers.texts[i] != answers.texts[a]] or [a]
            rows.append((a, partners[int(partner * len(partners))]))
        found = []
        for row, chosen in enumerate(rows):
            views = tuple(self._encode(answers.prompt, answers.texts[i]) for i in chosen)
            group = item if self._hard_negatives == "none" else (item, clusters[chosen[0]])
            stratum = item if self._hard_negatives == "only" else None
            key = (*self._key, "noise", epoch, answers.prompt.prompt_id, row)
            found.append(ViewPair(views, (group, group), key, stratum))
        return found


def grouped(values: Sequence) -> list[list]:
    return [list(values[start : start + ANSWERS]) for start in range(0, len(values), ANSWERS)]


def refine(base: Base, arm: Arm, seed: int) -> dict[str, float]:
    """Train one reward model and measure it."""
    started = time.perf_counter()
    reward_model = base.new_reward_model(arm.start, seed)
    task = task_of(base, arm, seed, reward_model)
    done = warm_up(base, arm, seed, task) if isinstance(task, MultiViewTask) else 0
    logs = [task.step(step) for step in range(done + 1, task.total_steps + 1)]
    reward_model.eval()
    measured = {"train_seconds": time.perf_counter() - started, "joint_steps": joint_steps(task)}
    if isinstance(task, MultiViewTask):
        for name in (n for n in DIAGNOSTICS if n in logs[-1]):
            measured[name] = statistics.fmean(log[name] for log in logs[-LAST_STEPS:])
        measured["v_within_trained"] = statistics.fmean(log["v_within_share"] for log in logs[-LAST_STEPS:])
    return measured | measure(base, reward_model, task)


def warm_up(base: Base, arm: Arm, seed: int, task: MultiViewTask) -> int:
    """Steps of the heads' warm-up, done or taken over from an arm that differs in the joint training only."""
    joint_only = {"weight", "beta_end"}
    heads = {name: value for name, value in arm.multi_view.items() if name not in joint_only}
    key = (seed, arm.views, arm.hard_negatives, arm.start, json.dumps(heads, sort_keys=True))
    if key not in base.warm:
        for step in range(1, task.config.warmup_steps + 1):
            task.step(step)
        state = task.state()
        base.warm[key] = TaskState({name: tensor.clone() for name, tensor in state.tensors.items()}, dict(state.values))
    task.restore(base.warm[key])
    return task.config.warmup_steps


def task_of(base: Base, arm: Arm, seed: int, reward_model: RewardModel) -> Task:
    config = base.config.refine_rm.model_copy(update={"epochs": arm.epochs})
    settings = {"seed_parts": (base.config.seed, seed, "uml-study"), "max_length": base.config.train_rm.max_length}
    if arm.multi_view is None:
        return PairsTask(reward_model, base.template, base.training, config, **settings)
    multi_view = MultiViewConfig.model_validate(config.multi_view.model_dump() | arm.multi_view)
    config = config.model_copy(update={"multi_view": multi_view})
    if arm.views == "same-meaning":
        pairs = SameMeaningViews(base, multi_view.pairs_per_step, settings["seed_parts"], arm.hard_negatives)
    else:
        chosen = {"views": arm.views, "topic": "fact", "hard_negatives": arm.hard_negatives}
        pairs = view_pairs(
            multi_view.model_copy(update=chosen), base.policy_answers, base.encode, settings["seed_parts"]
        )
    return MultiViewTask(reward_model, base.template, base.training, pairs, config, kind="uml", **settings)


def joint_steps(task: Task) -> int:
    return task.joint_steps if isinstance(task, MultiViewTask) else task.total_steps


def measure(base: Base, reward_model: RewardModel, task: Task) -> dict[str, float]:
    """Accuracies, Bradley-Terry losses, and what of v, z and the reward depends on the answer."""
    microbatch = base.config.train_rm.score_microbatch
    found: dict[str, float] = {}
    for name, pairs in (("train", base.training), ("held_out", base.held_out)):
        texts = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
        rewards = torch.tensor(reward_model.score([base.encode(*t) for t in texts], microbatch=microbatch))
        chosen, rejected = rewards.split(len(pairs))
        found[f"{name}_loss"] = float(bradley_terry_loss(chosen, rejected))
        found[f"{name}_accuracy"] = float(pair_accuracy(chosen, rejected))
    for name, answers in base.held_out_answers.items():
        prompts = [prompt for prompt in base.prompts for _ in range(ANSWERS)]
        sequences = [base.encode(p, a.text) for p, a in zip(prompts, answers, strict=True)]
        rewards_N, v_ND = reward_model.embed(sequences, microbatch=microbatch)
        gold, correct = base.truth[name]
        rewards = grouped(rewards_N.tolist())
        found[f"{name}_accuracy"] = reward_accuracy(rewards, gold).accuracy
        found[f"{name}_correct"] = reward_accuracy(rewards, gold, must_differ=correct).accuracy
        if name == "ppo":
            found["v_within"] = share(v_ND)
            found["reward_within"] = share(rewards_N[:, None])
            if isinstance(task, MultiViewTask):
                with torch.no_grad():
                    found["z_within"] = share(task.heads(v_ND)[0])
    return found


def share(values_ND: torch.Tensor) -> float:
    """`within_share` of the first two answers to each instruction."""
    return float(within_share(values_ND[::ANSWERS], values_ND[1::ANSWERS]))


def run_refinements(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    done = {(row["base"], row["split"], row["arm"], row["seed"]) for row in rows_of(arguments.out)}
    for folder in arguments.bases:
        base = Base(folder, arguments.split)
        for seed in arguments.seeds:
            for arm in arguments.arms:
                key = {"base": folder.name, "split": arguments.split, "arm": arm, "seed": seed}
                if tuple(key.values()) in done:
                    continue
                measured = refine(base, ARMS[arm], seed)
                with arguments.out.open("a", encoding="utf-8") as file:
                    rounded = {name: round(value, 5) for name, value in measured.items()}
                    file.write(json.dumps(key | rounded) + "\n")


def print_tables(arguments: argparse.Namespace) -> None:
    sys.stdout.write(tables([row for row in rows_of(arguments.results) if row["split"] == arguments.split]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("refine", help="train and measure reward models")
    command.add_argument("bases", nargs="+", type=Path, help="folders that `rlp run` made")
    command.add_argument("--out", type=Path, required=True, help="JSON lines, appended")
    command.add_argument("--split", choices=("validation", "test"), required=True)
    command.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    command.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="reward seeds")
    command.set_defaults(run=run_refinements)
    command = commands.add_parser("table", help="means, standard errors over policy seeds, paired differences")
    command.add_argument("results", type=Path)
    command.add_argument("--split", choices=("validation", "test"), default="test")
    command.set_defaults(run=print_tables)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
