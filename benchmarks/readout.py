"""Reading the reward at the last token, or as a mean over the response: at how many pairs does the first work?

transformers' sequence classifiers, and so this project's reward models, read the last token. Here the same sandbox
reward model is trained both ways on nested sets of pairs, for as many optimizer steps each, and judged by gold on
held-out pairs and on the policies' answers to test instructions. The mean lives in this file only.

    rlp run s211 --preset quickstart --yes --until ppo --set 'methods=["spg"]' --set seed=211 --set sandbox.seed=211
    python benchmarks/readout.py train --out readout.jsonl -- s211
    python benchmarks/readout.py table readout.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from uml_study import Base, grouped
from uml_tables import markdown, rows_of, shown

from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.data.rows import read_prompts
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.evaluation.reward_accuracy import reward_accuracy
from rlp_engine.methods.bradley_terry import pair_accuracy
from rlp_engine.models.inputs import model_inputs
from rlp_engine.models.policy import load_policy
from rlp_engine.models.reward import RewardModel, RewardOutput
from rlp_engine.stages.answering import answerer
from rlp_engine.stages.collect import label
from rlp_engine.training.pairs import PairsTask

PAIRS_PER_INSTRUCTION = (1, 4, 16)
STEPS = (54, 216)  # optimizer steps of 32 pairs: the preset's, and four times as many
HELD_OUT = 38  # of 188 preference instructions, 4 pairs each
READOUTS = ("last token", "mean")


class MeanRewardModel(RewardModel):
    """The reward is the head on the mean state of the response's tokens; of the last token where there are none."""

    starts: dict[tuple[int, ...], int]  # token ids of prompt and response -> place of the response's first token

    def forward(self, ids_BL: Tensor, attention_BL: Tensor) -> RewardOutput:
        hidden_BLD = self.backbone(**model_inputs(self.backbone, ids_BL, attention_BL), use_cache=False)[0].float()
        position_BL = attention_BL.cumsum(1) - 1
        live = [tuple(ids[is_live].tolist()) for ids, is_live in zip(ids_BL, attention_BL.bool(), strict=True)]
        starts_B = torch.tensor([min(self.starts[ids], len(ids) - 1) for ids in live])
        counts_BL = (attention_BL.bool() & (position_BL >= starts_B[:, None])).float()
        mean_BD = (hidden_BLD * counts_BL[:, :, None]).sum(1) / counts_BL.sum(1, keepdim=True)
        return RewardOutput(F.linear(mean_BD, self.head.weight.float()).squeeze(-1), mean_BD)


def labelled_pairs(base: Base) -> list[tuple[int, PreferencePair]]:
    """(number among its instruction's, pair) of fresh SFT answers, labelled as `collect` labels."""
    config = base.config
    prompts = read_prompts(base.folder / "prepare/preference_instructions.jsonl")
    policy = load_policy(base.folder / "sft/model", config.model)
    template = PromptTemplate(config.model.template, policy.tokenizer)
    key = (config.seed, "readout", "collect")
    source = answerer(policy, template, config.generation, temperature=1.0, top_p=1.0, key=key)
    draws = 2 * max(PAIRS_PER_INSTRUCTION)
    answers = source.answer(prompts, draws)
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    found = []
    for first in range(0, len(answers), 2):
        two = answers[first : first + 2]
        prompt = by_id[two[0].prompt_id]
        scores = [base.world.gold(prompt, a.text, a.finish_reason) for a in two]
        texts = (two[0].text, two[1].text)
        _, pair = label(prompt, texts, scores, config.collect.label_noise, config.seed, two[0].draw)
        if pair:
            found.append((two[0].draw // 2, pair))
    return found


def train(base: Base, readout: str, pairs: list[PreferencePair], steps: int, encode) -> RewardModel:
    reward_model = base.new_reward_model("sft", 1)
    if readout == "mean":
        reward_model = MeanRewardModel(reward_model.model, reward_model.tokenizer)
        reward_model.starts = encode.starts
        for pair in pairs:
            encode(pair.prompt, pair.chosen), encode(pair.prompt, pair.rejected)
    settings = {"seed_parts": (base.config.seed, "readout"), "max_length": base.config.train_rm.max_length}
    task = PairsTask(reward_model, base.template, pairs, base.config.train_rm, total_steps=steps, **settings)
    for step in range(1, steps + 1):
        task.step(step)
    return reward_model.eval()


class Encoder:
    """Encodes as the reward model reads, and remembers where the response begins."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.starts: dict[tuple[int, ...], int] = {}

    def __call__(self, prompt: Prompt, text: str) -> list[int]:
        ids = self.base.encode(prompt, text)
        self.starts[tuple(ids)] = len(self.base.template.encode_prompt(prompt))
        return ids


def measure(base: Base, reward_model: RewardModel, held_out: list[PreferencePair], encode) -> dict[str, float]:
    microbatch = base.config.train_rm.score_microbatch
    # The label is noisy: which of the two answers is better is gold's to say.
    pairs = [p for p in held_out if p.meta["score_chosen"] != p.meta["score_rejected"]]
    texts = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
    rewards = torch.tensor(reward_model.score([encode(*t) for t in texts], microbatch=microbatch))
    chosen, rejected = rewards.split(len(pairs))
    is_right = torch.tensor([p.meta["score_chosen"] > p.meta["score_rejected"] for p in pairs])
    better, worse = torch.where(is_right, chosen, rejected), torch.where(is_right, rejected, chosen)
    found = {"held_out_pairs": float(pair_accuracy(better, worse))}
    for name, answers in base.held_out_answers.items():
        prompts = [prompt for prompt in base.prompts for _ in range(len(answers) // len(base.prompts))]
        sequences = [encode(p, a.text) for p, a in zip(prompts, answers, strict=True)]
        rewards = grouped(reward_model.score(sequences, microbatch=microbatch))
        gold, correct = base.truth[name]
        found[f"{name}_accuracy"] = reward_accuracy(rewards, gold).accuracy
        found[f"{name}_correct"] = reward_accuracy(rewards, gold, must_differ=correct).accuracy
    return found


def run_training(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    done = {(r["base"], r["pairs_per_instruction"], r["steps"], r["readout"]) for r in rows_of(arguments.out)}
    for folder in arguments.bases:
        base = Base(folder, "test")
        encode = Encoder(base)
        pairs = labelled_pairs(base)
        instructions = list(dict.fromkeys(pair.prompt.prompt_id for _, pair in pairs))
        kept_out = set(instructions[:: len(instructions) // HELD_OUT][:HELD_OUT])  # spread over the facts
        held_out = [pair for number, pair in pairs if pair.prompt.prompt_id in kept_out and number < 4]
        for most in PAIRS_PER_INSTRUCTION:
            learned = [pair for number, pair in pairs if pair.prompt.prompt_id not in kept_out and number < most]
            for steps in STEPS:
                for readout in READOUTS:
                    if (folder.name, most, steps, readout) in done:
                        continue
                    measured = measure(base, train(base, readout, learned, steps, encode), held_out, encode)
                    key = {"base": folder.name, "pairs_per_instruction": most, "steps": steps, "readout": readout}
                    row = key | {"pairs": len(learned)} | {n: round(v, 5) for n, v in measured.items()}
                    with arguments.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")


def table(rows: list[dict]) -> str:
    """Accuracies, and the paired gain of the mean, as markdown."""
    cells: dict[tuple, dict[str, dict]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: row["base"]):
        cells[row["pairs_per_instruction"], row["steps"], row["readout"]][row["base"]] = row
    measures = ("held_out_pairs", "sft_accuracy", "sft_correct", "ppo_accuracy", "ppo_correct")
    lines = []
    for most in PAIRS_PER_INSTRUCTION:
        for steps in STEPS:
            found_by_base = [cells[most, steps, readout] for readout in READOUTS]
            bases = [base for base in found_by_base[0] if base in found_by_base[1]]  # paired: those that have both
            last, mean = ([found[base] for base in bases] for found in found_by_base)
            count = round(sum(row["pairs"] for row in last) / len(last))
            for name, found in zip(READOUTS, (last, mean), strict=True):
                lines.append([str(count), str(steps), name, *(shown([row[m] for row in found]) for m in measures)])
            gains = [[b[m] - a[m] for a, b in zip(last, mean, strict=True)] for m in measures]
            lines.append(["", "", "mean minus last", *(shown(gain, signed=True) for gain in gains)])
    return "\n".join(markdown(["pairs", "steps", "read-out", *measures], lines))


def print_table(arguments: argparse.Namespace) -> None:
    sys.stdout.write(table(rows_of(arguments.results)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="train and measure reward models")
    command.add_argument("bases", nargs="+", type=Path, help="folders that `rlp run` made")
    command.add_argument("--out", type=Path, required=True, help="JSON lines, appended")
    command.set_defaults(run=run_training)
    command = commands.add_parser("table", help="means and standard errors over policy seeds")
    command.add_argument("results", type=Path)
    command.set_defaults(run=print_table)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
