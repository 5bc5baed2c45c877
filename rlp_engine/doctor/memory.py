"""What each stage holds at its peak: models, gradients and AdamW, activations, logits, cache. Torch-free arithmetic.

A stage is what it keeps from its first step to its last, and phases, of which the one that holds most counts. Sizes
are those at the limits of the config (every prompt and answer as long as it may be), so shorter texts take less.

Assumptions about the code that computes, each in one place:
  `_ppo_models`        who has weights of his own; with LoRA all stand on the policy's base (models/shared_base.py)
  `_ppo`               policy and value model learn one after the other: their activations are never alive together
  `_pair_tokens`       two answers to one prompt share its tokens (models/pairs.py)
  `_generation`        answers of a prompt share its cache; rows are prefilled again when half of them have ended
  `shapes.logprob_held`, `shapes.rows_held`, `shapes.sampling_held`   logits, cache, choosing a token
  `_trained`           float32 gradients and moments; copies of bfloat16 weights that AdamW works on
  `sharing`            what each of several ranks holds of it; numbers are then those of one rank
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlp_engine.config.schema import MULTI_VIEW, RunConfig
from rlp_engine.doctor import shapes
from rlp_engine.doctor.libraries import HEAP_LIMIT, Libraries
from rlp_engine.doctor.shapes import FLOAT32, TRAINING_NUMBERS, Models, ModelShape, Tensors
from rlp_engine.doctor.sharing import Shared, Sharing
from rlp_engine.stages.spec import StageSpec

FORWARD_FACTOR = 4  # rlp_engine/training/rollout.py:FORWARD_FACTOR, which imports torch; a test holds them equal
REFILL_SHARE = 0.5  # rlp_engine/generation/native.py:REFILL_SHARE; as above
DRAWS_AT_ONCE = 128  # instructions whose answers are drawn in one go by collect and evaluate (SHARD_PROMPTS there)
LEARNING = ("learn", "views", "end of a backward pass")  # phases with a backward pass begin so
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Part:
    """One line of a stage's account."""

    name: str
    bytes: int
    kind: str = "working"  # weights, training (gradients and AdamW), working (activations, logits, cache), host


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
    account = _Account(config, models, None if on_device else libraries.heap_factor, sharing)
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

    def __init__(self, config: RunConfig, models: Models, heap_factor: float | None, sharing: Sharing) -> None:
        """`heap_factor`: None where tensors live on an accelerator, whose peak counts what is allocated."""
        self.config, self.models, self._heap_factor = config, models, heap_factor
        self.sharing = sharing
        self.width = WIDTHS[config.model.dtype]
        self.length = config.generation.max_prompt_tokens + config.generation.max_new_tokens

    def of(self, spec: StageSpec) -> tuple[list[Part], Phases]:
        """(parts from the first step to the last, phase -> parts it adds)."""
        kind = spec.kind.replace("-", "_")
        if kind == "synthesize":
            return self._synthesize(spec.params["selection"])
        kept, phases = self._refine_rm(spec.params["method"]) if kind == "refine_rm" else getattr(self, f"_{kind}")()
        models = self._engine_models(kind)
        if self.sharing.ranks == 1 or not models:
            return kept, phases
        weights, learning = self._numbers(models)
        shared = {name: [*parts, *self._engine(name, weights, learning)] for name, parts in phases.items()}
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

    def _numbers(self, models: Sequence[tuple[ModelShape, int]]) -> tuple[int, int]:
        """(weights, numbers that learn)."""
        lora, weights = self.config.model.lora, sum(count for _, count in models)
        if not lora.rank:
            return weights, weights
        return weights, sum(shape.lora(lora.rank, lora.target_modules) for shape, _ in models)

    def _engine(self, phase: str, weights: int, learning: int) -> list[Part]:
        """What DeepSpeed's engine adds to a phase: buckets and gathered weights where it learns; with ZeRO-3 all of
        the weights where it only reads or decodes."""
        sharing = self.sharing
        if phase.startswith(LEARNING):
            parts = [Part("ZeRO's buckets", sharing.buckets(learning, self.width), "training")]
            parts.append(Part("weights gathered at a time by ZeRO-3", sharing.live(weights, self.width), "weights"))
        else:
            gathered = weights * self.width if sharing.zero_stage == 3 else 0
            parts = [Part("weights gathered whole by ZeRO-3", gathered, "weights")]
        return [part for part in parts if part.bytes]

    # --- stages

    def _prepare(self) -> tuple[list[Part], Phases]:
        return [], {"read": []}

    def _sft(self) -> tuple[list[Part], Phases]:
        policy, sft = self.models.policy, self.config.sft
        answer = min(sft.max_length, self.config.generation.max_new_tokens)
        learn = self._training("policy", policy, sft.microbatch * sft.max_length, sft.microbatch * answer)
        return self._trained("policy", policy, policy.parameters), {"learn": learn} | self._backward(
            "policy", policy.parameters
        )

    def _collect(self) -> tuple[list[Part], Phases]:
        collect = self.config.collect
        if collect.source == "file":
            return [], {"read": []}
        kept = [self._weights("policy", self.models.policy.parameters)]
        generation = self._generation(DRAWS_AT_ONCE, 2 * collect.pairs_per_instruction)
        return kept, {**generation, **self._judging("annotator", self.models.annotator)}

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
        tokens = views.microbatch * self._pair_tokens()
        pairs = views.microbatch**2 * views.hidden_size * FLOAT32
        learn = [*self._activations("views", self.models.reward, tokens), self._part("critic", [Tensors.of(4, pairs)])]
        return kept, {**phases, "views": learn}

    def _ppo(self) -> tuple[list[Part], Phases]:
        config, models = self.config, self.models
        ppo, response = config.ppo, config.generation.max_new_tokens
        policy, value = models.policy, self._value_shape
        tokens = ppo.microbatch * self.length
        many = FORWARD_FACTOR * ppo.microbatch
        read = self._forward("activations", policy, many * self.length, self.width)
        logits = shapes.logprob_held(policy, many * response, self.width, gradients=False)
        score = config.train_rm.score_microbatch * min(self.length, config.train_rm.max_length)
        scoring = self._forward("activations", models.reward, score, self.width)
        return self._ppo_models(), {
            **self._generation(self.sharing.part(ppo.rollout_batch), 1),
            "read": [read],
            "read, logits": [self._part("logits", logits)],  # the layers' tensors are gone by then
            "score": [scoring],
            "learn, policy": self._training("policy", policy, tokens, ppo.microbatch * response),
            "learn, value": self._activations("value model", value, tokens),
            **self._backward("policy", policy.parameters),
        }

    def _ppo_models(self) -> list[Part]:
        """Policy, reference, reward and value model, each with weights of its own; with LoRA on the policy's base,
        unless the reward model has another one. The reference then is the policy without its adapters."""
        policy, reward, value = self.models.policy, self.models.reward, self._value_shape
        lora = self.config.model.lora
        kept = self._trained("policy", policy, policy.parameters) + self._trained("value model", value, value.value)
        if lora.rank and reward is policy:
            adapters = policy.lora(lora.rank, lora.target_modules)
            kept = [part for part in kept if part.name != "value model: weights"]
            return [*kept, Part("reward model: adapters", adapters * FLOAT32, "weights")]
        kept.append(self._weights("reward model", reward.classifier))
        if not lora.rank:
            kept.append(self._weights("reference", policy.parameters))
        return kept

    @property
    def _value_shape(self) -> ModelShape:
        """It starts from the reward model, or from the policy where their tokenizers differ (METHOD 7.42)."""
        same = self.models.reward.vocabulary == self.models.policy.vocabulary
        return self.models.reward if same else self.models.policy

    def _sample(self) -> tuple[list[Part], Phases]:
        sample = self.config.sample
        weights = self._weights("policy", self.models.policy.parameters)  # one policy after the other
        return [weights], self._generation(sample.shard_prompts, sample.num_per_prompt)

    def _embed(self) -> tuple[list[Part], Phases]:
        reward, rows = self.models.reward, self.config.embed.microbatch
        tokens = rows * min(self.length, self.config.train_rm.max_length)
        score = [self._forward("activations", reward, tokens, self.width)]
        if self._heap_factor is None:  # drift is measured on the host
            return [self._weights("reward model", reward.classifier)], {"score": score}
        # the classifier and the covariances of drift.json, in float64, over the vectors of two sides
        vectors = 2 * self.config.embed.drift_samples * reward.hidden * 8
        drift = [Part("vectors of two sides", 2 * vectors), Part("covariances", 4 * 8 * reward.hidden**2)]
        return [self._weights("reward model", reward.classifier)], {"score": score, "drift": drift}

    def _synthesize(self, selection: str) -> tuple[list[Part], Phases]:
        synthesize, policy = self.config.synthesize, self.models.policy
        if selection == "rlaif":
            tokens = synthesize.rlaif.microbatch * synthesize.rlaif.max_length
            ask = [self._forward("activations", policy, tokens, self.width)]
            logits = shapes.logprob_held(policy, synthesize.rlaif.microbatch, self.width, gradients=False)
            return [self._weights("policy", policy.parameters)], {"ask": [*ask, self._part("logits", logits)]}
        model = self.models.equivalence
        if model is None or selection == "reward-pair":
            return [], {"choose": []}
        equivalence = synthesize.equivalence
        width, tokens = WIDTHS[equivalence.dtype], equivalence.microbatch * equivalence.max_length
        scores = tokens * equivalence.max_length * model.heads * width  # an encoder's attention may be eager
        parts = [
            self._forward("activations", model, tokens, width),
            self._part("attention scores", [Tensors.of(3, scores)]),
        ]
        return [Part(f"{equivalence.kind} model: weights", model.backbone * width, "weights")], {"compare": parts}

    def _evaluate(self) -> tuple[list[Part], Phases]:
        config, policy = self.config, self.models.policy
        kept = [self._weights("policy", policy.parameters)]
        if self.models.judge:
            kept.append(self._weights("judge", self.models.judge.classifier))
        rows = config.generation.rows
        read = self._forward("activations", policy, rows * self.length, self.width)
        tokens = rows * config.generation.max_new_tokens
        logits = self._part("logits", shapes.logprob_held(policy, tokens, self.width, gradients=False))
        phases = {
            **self._generation(DRAWS_AT_ONCE, 1),
            "KL": [self._weights("SFT policy", policy.parameters), read],
            "KL, logits": [self._weights("SFT policy", policy.parameters), logits],
            **{name: parts[1:] for name, parts in self._judging("judge", self.models.judge).items()},
        }
        if config.evaluate.best_of_n:
            weights = self._weights("reward model", self.models.reward.classifier)
            phases["best of n"] = [weights, *phases["generate"]]
        return kept, phases

    # --- what stages share

    def _reward_training(self, microbatch: int) -> tuple[list[Part], dict[str, Sequence[Part]]]:
        reward, settings = self.models.reward, self.config.train_rm
        of_pair = 2 * settings.max_length if self.config.collect.source == "file" else self._pair_tokens()
        tokens = microbatch * of_pair  # chosen and rejected go together
        score = settings.score_microbatch * min(self.length, settings.max_length)
        held_out = self._forward("activations", reward, score, self.width)
        return self._trained("reward model", reward, reward.classifier), {
            "learn": self._activations("reward model", reward, tokens),
            "score the held-out pairs": [held_out] if settings.held_out else [],
            **self._backward("reward model", reward.classifier),
        }

    def _pair_tokens(self) -> int:
        """Of two sampled answers to a prompt. Pairs of a file may be anything, so they are not reckoned this way."""
        generation, longest = self.config.generation, self.config.train_rm.max_length
        prompt = min(generation.max_prompt_tokens, longest)
        return shapes.pair_tokens(prompt, min(generation.max_new_tokens, longest - prompt))

    def _judging(self, who: str, judge: ModelShape | None) -> dict[str, list[Part]]:
        """Its weights first. A gold judge holds nothing."""
        if judge is None:
            return {}
        settings = self.config.collect.annotator if who == "annotator" else self.config.evaluate.judge
        tokens = settings.microbatch * min(self.length, settings.max_length)
        held = self._forward("activations", judge, tokens, self.width)
        return {"judge": [self._weights(who, judge.classifier), held]}

    def _generation(self, prompts: int, draws: int) -> dict[str, list[Part]]:
        """`draws` answers to each of so many prompts, generation.rows of them side by side."""
        policy, config = self.models.policy, self.config.generation
        rows = min(prompts * draws, config.rows)
        is_shared = draws > 1
        at_work = math.ceil(rows / draws)  # prompts
        own_prompt = 0 if is_shared else config.max_prompt_tokens
        buffers = shapes.rows_held(policy, rows, own_prompt, config.max_new_tokens, self.width)
        decode = [Part("key-value cache", shapes.total(buffers))]  # made once and kept: nothing lies freed between
        if is_shared:
            decode.append(Part("cache of prompts", self._prompts(at_work)))
        phases = {
            "prefill": self._prefill(at_work),
            "generate": [*decode, self._part("choosing tokens", shapes.sampling_held(policy, rows, self.width))],
        }
        if prompts * draws > rows:
            phases["prefill of freed rows"] = [*decode, *self._prefill(math.ceil(at_work * REFILL_SHARE))]
        return phases

    def _prefill(self, prompts: int) -> list[Part]:
        tokens = prompts * self.config.generation.max_prompt_tokens
        return [
            Part("prefill: cache", self._prompts(prompts)),
            self._forward("prefill: activations", self.models.policy, tokens, self.width),
        ]

    def _prompts(self, count: int) -> int:
        length = self.config.generation.max_prompt_tokens
        return shapes.total(shapes.prompts_held(self.models.policy, count, length, self.width))

    def _training(self, who: str, shape: ModelShape, tokens: int, answered: int) -> list[Part]:
        logits = shapes.logprob_held(shape, answered, self.width, gradients=True)
        return [*self._activations(who, shape, tokens), self._part(f"{who}: logits", logits)]

    def _activations(self, who: str, shape: ModelShape, tokens: int) -> list[Part]:
        checkpointing = self.config.model.gradient_checkpointing
        saved = shapes.training_saved(shape, tokens, self.width, checkpointing=checkpointing)
        return [self._part(f"{who}: activations", saved)]

    def _weights(self, who: str, parameters: int) -> Part:
        return Part(f"{who}: weights", parameters * self.width, "weights")

    def _trained(self, who: str, shape: ModelShape, parameters: int) -> list[Part]:
        """Weights, gradients, moments. Below float32 AdamW works on a float32 copy; adapters are float32 anyway."""
        lora = self.config.model.lora
        weights = self._weights(who, parameters)
        parts = [self._shared("weights", weights)]
        if lora.rank:
            trained = shape.lora(lora.rank, lora.target_modules)
            parts.append(self._shared("weights", Part(f"{who}: adapters", trained * FLOAT32, "weights")))
        else:
            trained = parameters
            if self.width != FLOAT32 or self.sharing.zero_stage:  # ZeRO works on a copy, whatever the dtype
                copy = Part(f"{who}: float32 copy", trained * FLOAT32, "weights")
                parts.append(self._shared("optimizer", copy))
        moments = trained * FLOAT32 * (TRAINING_NUMBERS - 1)
        gradient = FLOAT32 if self.sharing.ranks == 1 else self.width  # DeepSpeed keeps them in the model's dtype
        return [
            *parts,
            self._shared("gradients", Part(f"{who}: gradients", trained * gradient, "training")),
            self._shared("optimizer", Part(f"{who}: AdamW's moments", moments, "training")),
        ]

    def _shared(self, what: Shared, part: Part) -> Part:
        """A rank's part of it, on the device or on the host."""
        kind = "host" if self.sharing.is_on_host(what) else part.kind
        return Part(part.name, self.sharing.share(what, part.bytes), kind)

    def _backward(self, who: str, parameters: int) -> dict[str, Sequence[Part]]:
        """At the end of a backward pass below float32: its own gradients, before they are added to the float32 ones."""
        if self.width == FLOAT32 or self.config.model.lora.rank or self.sharing.ranks > 1:
            return {}
        name = f"{who}: gradients of one pass, {self.config.model.dtype}"
        return {"end of a backward pass": [Part(name, parameters * self.width, "training")]}

    def _forward(self, name: str, shape: ModelShape, tokens: int, width: int) -> Part:
        """A pass without gradients: attention or MLP, whichever holds more. Where the MLP's blocks are too large for
        the heap and attention's are not, the heap keeps the latter while the former exist: both count."""
        attention, mlp = shapes.forward_held(shape, tokens, width)
        parts = [self._part(name, held).bytes for held in (attention, mlp)]
        is_split = max(held.block for held in attention) < HEAP_LIMIT <= mlp[0].block
        if self._heap_factor and is_split:
            return Part(name, parts[0] + mlp[0].bytes)
        return Part(name, max(parts))

    def _part(self, name: str, tensors: Sequence[Tensors]) -> Part:
        """With what the C library keeps beside blocks below its limit."""
        factor = self._heap_factor or 1.0
        return Part(name, sum(round(t.bytes * (factor if t.block < HEAP_LIMIT else 1.0)) for t in tensors))


def heads_and_critic(width: int, hidden: int, latent: int) -> int:
    """Numbers of UML's mu, Sigma and critic: three linear layers each (METHOD 2.4)."""
    head = (width + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * latent
    critic = (2 * latent + 1) * hidden + (hidden + 1) * hidden + (hidden + 1)
    return 2 * head + critic
