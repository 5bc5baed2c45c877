"""What models hold in the stages that have them: weights, gradients and AdamW, activations, logits, cache.

Torch-free arithmetic; `memory.py` says which stage holds what, and what the reckoning assumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlp_engine.config.schema import RunConfig
from rlp_engine.doctor import shapes
from rlp_engine.doctor.libraries import HEAP_LIMIT
from rlp_engine.doctor.shapes import FLOAT32, TRAINING_NUMBERS, Models, ModelShape, Tensors
from rlp_engine.doctor.sharing import Shared, Sharing

REFILL_SHARE = 0.5  # rlp_engine/generation/native.py:REFILL_SHARE, which imports torch; a test holds them equal
LEARNING = ("learn", "views", "end of a backward pass")  # phases with a backward pass begin so
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Part:
    """One line of a stage's account."""

    name: str
    bytes: int
    kind: str = "working"  # weights, training (gradients and AdamW), working (activations, logits, cache), host


class Parts:
    """The parts of one config's models, as one rank holds them."""

    def __init__(self, config: RunConfig, models: Models, heap_factor: float | None, sharing: Sharing) -> None:
        """`heap_factor`: None where tensors live on an accelerator, whose peak counts what is allocated."""
        self.config, self.models, self.heap_factor, self.sharing = config, models, heap_factor, sharing
        self.width = WIDTHS[config.model.dtype]
        self.length = config.generation.max_prompt_tokens + config.generation.max_new_tokens

    def pair_tokens(self) -> int:
        """Of two sampled answers to a prompt. Pairs of a file may be anything, so they are not reckoned this way."""
        generation, longest = self.config.generation, self.config.train_rm.max_length
        prompt = min(generation.max_prompt_tokens, longest)
        return shapes.pair_tokens(prompt, min(generation.max_new_tokens, longest - prompt))

    def judging(self, who: str, judge: ModelShape | None) -> dict[str, list[Part]]:
        """Its weights first. A gold judge holds nothing."""
        if judge is None:
            return {}
        settings = self.config.collect.annotator if who == "annotator" else self.config.evaluate.judge
        tokens = settings.microbatch * min(self.length, settings.max_length)
        held = self.forward("activations", judge, tokens, self.width)
        return {"judge": [self.weights(who, judge.classifier), held]}

    def generation(self, prompts: int, draws: int) -> dict[str, list[Part]]:
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
            "generate": [*decode, self.tensors("choosing tokens", shapes.sampling_held(policy, rows, self.width))],
        }
        if prompts * draws > rows:
            phases["prefill of freed rows"] = [*decode, *self._prefill(math.ceil(at_work * REFILL_SHARE))]
        return phases

    def _prefill(self, prompts: int) -> list[Part]:
        tokens = prompts * self.config.generation.max_prompt_tokens
        return [
            Part("prefill: cache", self._prompts(prompts)),
            self.forward("prefill: activations", self.models.policy, tokens, self.width),
        ]

    def _prompts(self, count: int) -> int:
        length = self.config.generation.max_prompt_tokens
        return shapes.total(shapes.prompts_held(self.models.policy, count, length, self.width))

    def training(self, who: str, shape: ModelShape, tokens: int, answered: int) -> list[Part]:
        """A pass with gradients of a language model, whose loss is on `answered` of the tokens."""
        logits = shapes.logprob_held(shape, answered, self.width, gradients=True)
        return [*self.activations(who, shape, tokens), self.tensors(f"{who}: logits", logits)]

    def activations(self, who: str, shape: ModelShape, tokens: int) -> list[Part]:
        """What the layers save for the backward pass."""
        checkpointing = self.config.model.gradient_checkpointing
        saved = shapes.training_saved(shape, tokens, self.width, checkpointing=checkpointing)
        return [self.tensors(f"{who}: activations", saved)]

    def weights(self, who: str, parameters: int) -> Part:
        """In the dtype of the model."""
        return Part(f"{who}: weights", parameters * self.width, "weights")

    def trained(self, who: str, shape: ModelShape, parameters: int) -> list[Part]:
        """Weights, gradients, moments. Below float32 AdamW works on a float32 copy; adapters are float32 anyway."""
        lora = self.config.model.lora
        weights = self.weights(who, parameters)
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

    def backward(self, who: str, parameters: int) -> dict[str, Sequence[Part]]:
        """At the end of a backward pass below float32: its own gradients, before they are added to the float32 ones."""
        if self.width == FLOAT32 or self.config.model.lora.rank or self.sharing.ranks > 1:
            return {}
        name = f"{who}: gradients of one pass, {self.config.model.dtype}"
        return {"end of a backward pass": [Part(name, parameters * self.width, "training")]}

    def forward(self, name: str, shape: ModelShape, tokens: int, width: int) -> Part:
        """A pass without gradients: attention or MLP, whichever holds more. Where the MLP's blocks are too large for
        the heap and attention's are not, the heap keeps the latter while the former exist: both count."""
        attention, mlp = shapes.forward_held(shape, tokens, width)
        parts = [self.tensors(name, held).bytes for held in (attention, mlp)]
        is_split = max(held.block for held in attention) < HEAP_LIMIT <= mlp[0].block
        if self.heap_factor and is_split:
            return Part(name, parts[0] + mlp[0].bytes)
        return Part(name, max(parts))

    def tensors(self, name: str, tensors: Sequence[Tensors]) -> Part:
        """With what the C library keeps beside blocks below its limit."""
        factor = self.heap_factor or 1.0
        return Part(name, sum(round(t.bytes * (factor if t.block < HEAP_LIMIT else 1.0)) for t in tensors))

    def numbers(self, models: Sequence[tuple[ModelShape, int]]) -> tuple[int, int]:
        """(weights, numbers that learn)."""
        lora, weights = self.config.model.lora, sum(count for _, count in models)
        if not lora.rank:
            return weights, weights
        return weights, sum(shape.lora(lora.rank, lora.target_modules) for shape, _ in models)

    def engine(self, phase: str, weights: int, learning: int) -> list[Part]:
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
