"""PPO updates by rlp_engine.training.ppo, built as stages/ppo.py does: `python -m benchmarks.speed.ours.ppo JOB`.

Four full models: policy, reference, value model and reward model.
"""

from __future__ import annotations

import statistics
import sys

from benchmarks.speed.clock import Job, one_thread, read_job, report
from benchmarks.speed.workload import text_of
from rlp_engine.config.sections.generation import GenerationConfig
from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.config.sections.ppo import PpoConfig
from rlp_engine.config.sections.training import OptimizerConfig
from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.models.policy import load_policy
from rlp_engine.models.reward import ResponseScorer, load_reward
from rlp_engine.models.value import load_value
from rlp_engine.training import rollout
from rlp_engine.training.ppo import PpoTask


def build_task(job: Job) -> PpoTask:
    work = job.settings
    model = ModelConfig(template="plain", dtype=job.dtype)
    policy = load_policy(job.folder / "policy", model, device=job.device)
    reference = load_policy(job.folder / "policy", model, device=job.device).model
    reward = load_reward(job.folder / "reward", model, device=job.device)
    longest = work["lengths"]["longest"] + work["max_new_tokens"]
    scorer = ResponseScorer(
        reward, PromptTemplate("plain", reward.tokenizer), microbatch=4 * job.batch, max_length=longest
    )
    return PpoTask(
        policy,
        reference=reference,
        value_model=load_value(job.folder / "reward", model, device=job.device),
        scorer=scorer,
        template=PromptTemplate("plain", policy.tokenizer),
        prompts=[Prompt(str(number), text_of(ids)) for number, ids in enumerate(job.work["prompts"])],
        config=PpoConfig(
            steps=work["warmup"] + work["updates"],
            rollout_batch=work["batch"],
            minibatch=work["batch"],
            microbatch=job.batch,
            epochs=work["epochs"],
            kl_coefficient=0.05,
            optimizer=OptimizerConfig(learning_rate=3e-6, schedule="linear", warmup=0, adam_epsilon=1e-5),
        ),
        generation=GenerationConfig(
            max_prompt_tokens=longest, max_new_tokens=work["max_new_tokens"], rows=work["batch"]
        ),
        seed_parts=(0, 0, "ppo"),
    )


def measure(job: Job) -> None:
    """Phases: generate, score (the rest of the rollout), optimise."""
    task, clock = build_task(job), job.clock
    warmup, updates = job.settings["warmup"], job.settings["updates"]
    lengths = []
    with clock.watching(rollout, "generate", "generate"), clock.watching(task.collector, "collect", "rollout"):
        for step in range(1, warmup + updates + 1):
            if step == warmup + 1:
                clock.reset()
            with clock.phase("all"):
                metrics = task.step(step)
            lengths.append(metrics["length"])
    for seconds in (clock.cpu, clock.wall):
        seconds["optimise"] = seconds["all"] - seconds["rollout"]
        seconds["score"] = seconds.pop("rollout") - seconds["generate"]
    answers = updates * job.settings["batch"]
    length = statistics.fmean(lengths[warmup:])
    tokens = answers * job.settings["epochs"] * (statistics.fmean(map(len, job.work["prompts"])) + length)
    report(job, clock, units=answers, updates=updates, mean_answer=length, trained_tokens=tokens)


if __name__ == "__main__":
    one_thread()
    measure(read_job(sys.argv[1]))
