"""What each stage holds at its peak: models, gradients and AdamW, activations, logits, cache. Torch-free arithmetic.

A stage is what it keeps from its first step to its last, and phases, of which the one that holds most counts. Sizes
are those at the limits of the config (every prompt and answer as long as it may be), so shorter texts take less.

Assumptions about the code that computes, each in one place:
  `_ppo_models`        who has weights of his own; with LoRA all stand on the policy's base (models/shared_base.py)
  `_ppo`               policy and value model learn one after the other: their activations are never alive together
  `Parts.pair_tokens`  two answers to one prompt share its tokens (models/pairs.py)
  `Parts.generation`   answers of a prompt share its cache; rows are prefilled again when half of them have ended
  `shapes.logprob_held`, `shapes.rows_held`, `shapes.sampling_held`   logits, cache, choosing a token
  `Parts.trained`      float32 gradients and moments; copies of bfloat16 weights that AdamW works on
  `sharing`            what each of several ranks holds of it; numbers are then those of one rank
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlp_engine.config.schema import MULTI_VIEW, RunConfig
from rlp_engine.doctor import shapes
from rlp_engine.doctor.libraries import Libraries
from rlp_engine.doctor.parts import WIDTHS, Part, Parts
from rlp_engine.doctor.shapes import FLOAT32, TRAINING_NUMBERS, Models, ModelShape, Tensors
from rlp_engine.doctor.sharing import Sharing
from rlp_engine.stages.spec import StageSpec

FORWARD_FACTOR = 4  # rlp_engine/training/rollout.py:FORWARD_FACTOR, which imports torch; a test holds them equal
DRAWS_AT_ONCE = 128  # instructions whose answers are drawn in one go by collect and evaluate (SHARD_PROMPTS there)


@dataclass(frozen=True)
class StageMemory:
    """What a stage holds when it holds most."""

    stage: str
    kind: str
    phase: str
    parts: tuple[Part, ...]
    base: int  # libraries, on the host

    @property
    def tensors(self) -> int:
        return sum(part.bytes for part in self.parts if part.kind != "host")

    @property
    def roles(self) -> dict[str, int]:
        """Model -> its weights, gradients and AdamW's numbers: all that stays from step to step."""
        found: dict[str, int] = {}
        for part in self.parts:
            role, colon, _ = part.name.partition(": ")
            if colon and part.kind in ("weights", "training"):
                found[role] = found.get(role, 0) + part.bytes
        return found

    def of_kind(self, kind: str) -> int:
        return sum(part.bytes for part in self.parts if part.kind == kind)


def stages_memory(
    config: RunConfig,
    pipeline: Sequence[StageSpec],
    models: Models,
    libraries: Libraries,
    *,
    on_device: bool,
    ranks: int = 1,
) -> list[StageMemory]:
    """One account a stage of the pipeline, in its order; of one rank where there are several."""
    sharing = Sharing.of(ranks, config.deepspeed)
    account = _Account(config, models, Parts(config, models, None if on_device else libraries.heap_factor, sharing))
    found = []
    for spec in pipeline:
        kept, phases = account.of(spec)
        phase, parts = max(phases.items(), key=lambda item: sum(part.bytes for part in item[1] if part.kind != "host"))
        base = _base(spec, libraries, has_model=bool(kept))
        found.append(StageMemory(spec.name, spec.kind, phase, (*kept, *parts), base))
    return found


def _base(spec: StageSpec, libraries: Libraries, *, has_model: bool) -> int:
    if not has_model:  # exact matches still come through the modules that know models; plain data does not
        return libraries.imported if spec.kind == "synthesize" else libraries.light
    return libraries.training + (libraries.drift if spec.kind == "embed" else 0)


Phases = Mapping[str, Sequence[Part]]


class _Account:
    """What the stages of one config keep, and their phases."""

    def __init__(self, config: RunConfig, models: Models, parts: Parts) -> None:
        self.config, self.models, self.parts = config, models, parts
        self.sharing, self.width, self.length = parts.sharing, parts.width, parts.length

    def of(self, spec: StageSpec) -> tuple[list[Part], Phases]:
        """(parts from the first step to the last, phase -> parts it adds)."""
        kind = spec.kind.replace("-", "_")
        if kind == "synthesize":
            return self._synthesize(spec.params["selection"])
        kept, phases = self._refine_rm(spec.params["method"]) if kind == "refine_rm" else getattr(self, f"_{kind}")()
        models = self._engine_models(kind)
        if self.sharing.ranks == 1 or not models:
            return kept, phases
        weights, learning = self.parts.numbers(models)
        shared = {name: [*parts, *self.parts.engine(name, weights, learning)] for name, parts in phases.items()}
        if self.width != FLOAT32:
            step = Part(
                "float32 gradients of its part", self.sharing.share("optimizer", learning * FLOAT32), "training"
            )
            shared["optimizer step"] = [step]
        return kept, shared

    def _engine_models(self, kind: str) -> list[tuple[ModelShape, int]]:
        """Shape and parameters of the models in the engine of a stage that trains; none for the other stages."""
        policy, reward, value = self.models.policy, self.models.reward, self._value_shape
        of_reward = [(reward, reward.classifier)]
        of_kind = {
            "sft": [(policy, policy.parameters)],
            "train_rm": of_reward,
            "refine_rm": of_reward,
            "ppo": [(policy, policy.parameters), (value, value.value)],
        }
        return of_kind.get(kind, [])

    # --- stages

    def _prepare(self) -> tuple[list[Part], Phases]:
        return [], {"read": []}

    def _sft(self) -> tuple[list[Part], Phases]:
        policy, sft = self.models.policy, self.config.sft
        answer = min(sft.max_length, self.config.generation.max_new_tokens)
        learn = self.parts.training("policy", policy, sft.microbatch * sft.max_length, sft.microbatch * answer)
        return self.parts.trained("policy", policy, policy.parameters), {"learn": learn} | self.parts.backward(
            "policy", policy.parameters
        )

    def _collect(self) -> tuple[list[Part], Phases]:
        collect = self.config.collect
        if collect.source == "file":
            return [], {"read": []}
        kept = [self.parts.weights("policy", self.models.policy.parameters)]
        generation = self.parts.generation(DRAWS_AT_ONCE, 2 * collect.pairs_per_instruction)
        return kept, {**generation, **self.parts.judging("annotator", self.models.annotator)}

    def _train_rm(self) -> tuple[list[Part], Phases]:
        return self._reward_training(self.config.train_rm.microbatch)

    def _refine_rm(self, method: str) -> tuple[list[Part], Phases]:
        refine = self.config.refine_rm
        kept, phases = self._reward_training(refine.microbatch)
        if method not in MULTI_VIEW:
            return kept, phases
        views = refine.multi_view
        numbers = heads_and_critic(self.models.reward.hidden, views.hidden_size, views.latent_size)
        kept = [*kept, Part("heads and critic, trained", numbers * FLOAT32 * (1 + TRAINING_NUMBERS), "training")]
        tokens = views.microbatch * self.parts.pair_tokens()
        pairs = views.microbatch**2 * views.hidden_size * FLOAT32
        learn = [
            *self.parts.activations("views", self.models.reward, tokens),
            self.parts.tensors("critic", [Tensors.of(4, pairs)]),
        ]
        return kept, {**phases, "views": learn}

    def _ppo(self) -> tuple[list[Part], Phases]:
        config, models = self.config, self.models
        ppo, response = config.ppo, config.generation.max_new_tokens
        policy, value = models.policy, self._value_shape
        tokens = ppo.microbatch * self.length
        many = FORWARD_FACTOR * ppo.microbatch
        read = self.parts.forward("activations", policy, many * self.length, self.width)
        logits = shapes.logprob_held(policy, many * response, self.width, gradients=False)
        score = config.train_rm.score_microbatch * min(self.length, config.train_rm.max_length)
        scoring = self.parts.forward("activations", models.reward, score, self.width)
        return self._ppo_models(), {
            **self.parts.generation(self.sharing.part(ppo.rollout_batch), 1),
            "read": [read],
            "read, logits": [self.parts.tensors("logits", logits)],  # the layers' tensors are gone by then
            "score": [scoring],
            "learn, policy": self.parts.training("policy", policy, tokens, ppo.microbatch * response),
            "learn, value": self.parts.activations("value model", value, tokens),
            **self.parts.backward("policy", policy.parameters),
        }

    def _ppo_models(self) -> list[Part]:
        """Policy, reference, reward and value model, each with weights of its own; with LoRA on the policy's base,
        unless the reward model has another one. The reference then is the policy without its adapters."""
        policy, reward, value = self.models.policy, self.models.reward, self._value_shape
        lora = self.config.model.lora
        kept = self.parts.trained("policy", policy, policy.parameters) + self.parts.trained(
            "value model", value, value.value
        )
        if lora.rank and reward is policy:
            adapters = policy.lora(lora.rank, lora.target_modules)
            kept = [part for part in kept if part.name != "value model: weights"]
            return [*kept, Part("reward model: adapters", adapters * FLOAT32, "weights")]
        kept.append(self.parts.weights("reward model", reward.classifier))
        if not lora.rank:
            kept.append(self.parts.weights("reference", policy.parameters))
        return kept

    @property
    def _value_shape(self) -> ModelShape:
        """It starts from the reward model, or from the policy where their tokenizers differ (METHOD 7.42)."""
        same = self.models.reward.vocabulary == self.models.policy.vocabulary
        return self.models.reward if same else self.models.policy

    def _sample(self) -> tuple[list[Part], Phases]:
        sample = self.config.sample
        weights = self.parts.weights("policy", self.models.policy.parameters)  # one policy after the other
        return [weights], self.parts.generation(sample.shard_prompts, sample.num_per_prompt)

    def _embed(self) -> tuple[list[Part], Phases]:
        reward, rows = self.models.reward, self.config.embed.microbatch
        tokens = rows * min(self.length, self.config.train_rm.max_length)
        score = [self.parts.forward("activations", reward, tokens, self.width)]
        if self.parts.heap_factor is None:  # drift is measured on the host
            return [self.parts.weights("reward model", reward.classifier)], {"score": score}
        # the classifier and the covariances of drift.json, in float64, over the vectors of two sides
        vectors = 2 * self.config.embed.drift_samples * reward.hidden * 8
        drift = [Part("vectors of two sides", 2 * vectors), Part("covariances", 4 * 8 * reward.hidden**2)]
        return [self.parts.weights("reward model", reward.classifier)], {"score": score, "drift": drift}

    def _synthesize(self, selection: str) -> tuple[list[Part], Phases]:
        synthesize, policy = self.config.synthesize, self.models.policy
        if selection == "rlaif":
            tokens = synthesize.rlaif.microbatch * synthesize.rlaif.max_length
            ask = [self.parts.forward("activations", policy, tokens, self.width)]
            logits = shapes.logprob_held(policy, synthesize.rlaif.microbatch, self.width, gradients=False)
            return [self.parts.weights("policy", policy.parameters)], {
                "ask": [*ask, self.parts.tensors("logits", logits)]
            }
        model = self.models.equivalence
        if model is None or selection == "reward-pair":
            return [], {"choose": []}
        equivalence = synthesize.equivalence
        width, tokens = WIDTHS[equivalence.dtype], equivalence.microbatch * equivalence.max_length
        scores = tokens * equivalence.max_length * model.heads * width  # an encoder's attention may be eager
        parts = [
            self.parts.forward("activations", model, tokens, width),
            self.parts.tensors("attention scores", [Tensors.of(3, scores)]),
        ]
        return [Part(f"{equivalence.kind} model: weights", model.backbone * width, "weights")], {"compare": parts}

    def _evaluate(self) -> tuple[list[Part], Phases]:
        config, policy = self.config, self.models.policy
        kept = [self.parts.weights("policy", policy.parameters)]
        if self.models.judge:
            kept.append(self.parts.weights("judge", self.models.judge.classifier))
        rows = config.generation.rows
        read = self.parts.forward("activations", policy, rows * self.length, self.width)
        tokens = rows * config.generation.max_new_tokens
        logits = self.parts.tensors("logits", shapes.logprob_held(policy, tokens, self.width, gradients=False))
        phases = {
            **self.parts.generation(DRAWS_AT_ONCE, 1),
            "KL": [self.parts.weights("SFT policy", policy.parameters), read],
            "KL, logits": [self.parts.weights("SFT policy", policy.parameters), logits],
            **{name: parts[1:] for name, parts in self.parts.judging("judge", self.models.judge).items()},
        }
        if config.evaluate.best_of_n:
            weights = self.parts.weights("reward model", self.models.reward.classifier)
            phases["best of n"] = [weights, *phases["generate"]]
        return kept, phases

    def _reward_training(self, microbatch: int) -> tuple[list[Part], dict[str, Sequence[Part]]]:
        reward, settings = self.models.reward, self.config.train_rm
        of_pair = 2 * settings.max_length if self.config.collect.source == "file" else self.parts.pair_tokens()
        tokens = microbatch * of_pair  # chosen and rejected go together
        score = settings.score_microbatch * min(self.length, settings.max_length)
        held_out = self.parts.forward("activations", reward, score, self.width)
        return self.parts.trained("reward model", reward, reward.classifier), {
            "learn": self.parts.activations("reward model", reward, tokens),
            "score the held-out pairs": [held_out] if settings.held_out else [],
            **self.parts.backward("reward model", reward.classifier),
        }


def heads_and_critic(width: int, hidden: int, latent: int) -> int:
    """Numbers of UML's mu, Sigma and critic: three linear layers each (METHOD 2.4)."""
    head = (width + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * latent
    critic = (2 * latent + 1) * hidden + (hidden + 1) * hidden + (hidden + 1)
    return 2 * head + critic
