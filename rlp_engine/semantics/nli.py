"""Equivalence by natural-language inference: two answers mean the same when each entails the other.

METHOD 3.1, 3.2; Kuhn et al. 2023 (arXiv:2302.09664), algorithm 1. Both texts carry the question, the
decision is the arg max of the labels, and the labels are read from the model's config: their order differs
between published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from rlp_engine.config.schema import ModelConfig
from rlp_engine.data.records import Prompt
from rlp_engine.errors import ModelError
from rlp_engine.methods.entailment_clusters import EquivalenceRule, Label, equivalent, forward_decides
from rlp_engine.models.loading import load_config, load_module, load_tokenizer
from rlp_engine.semantics.equivalence import Comparison

LABELS: tuple[Label, ...] = ("contradiction", "neutral", "entailment")


class EntailmentEquivalence:
    """An NLI model and a rule over the labels of the two directions."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        rule: EquivalenceRule = "strict",
        microbatch: int = 32,
        question_tokens: int = 128,
        max_length: int = 512,
    ) -> None:
        """
        Args:
            rule: "strict" (both entail), "lax" (no contradiction and not both neutral), "non-contradiction".
            microbatch: pairs per forward pass.
            question_tokens: the question is cut to its first so many tokens; it is in both texts.
            max_length: tokens of an encoded pair; the longer text loses its end first.

        Raises:
            ModelError: if the model's labels are not the three of NLI, or it cannot read `max_length` tokens.
        """
        self._label_of_class = label_order(model.config.id2label, where=str(model.config.name_or_path))
        _check_length(model, tokenizer, max_length)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._rule: EquivalenceRule = rule
        self._microbatch = microbatch
        self._question_tokens = question_tokens
        self._max_length = max_length
        self._calls = 0
        self._truncated = 0
        self._questions_cut = 0
        self._questions: dict[tuple[str, str], str] = {}

    def equivalent(self, comparisons: Sequence[Comparison]) -> list[bool]:
        """Ask leader -> answer for all, then answer -> leader where the first direction leaves it open."""
        texts = [self._texts(c) for c in comparisons]
        forward = self.labels(texts)
        open_ = [i for i, label in enumerate(forward) if not forward_decides(label, self._rule)]
        backward = self.labels([(texts[i][1], texts[i][0]) for i in open_])
        verdicts = [False] * len(comparisons)
        for i, label in zip(open_, backward, strict=True):
            verdicts[i] = equivalent(forward[i], label, self._rule)
        return verdicts

    def counts(self) -> dict[str, int]:
        return {"nli_calls": self._calls, "nli_truncated": self._truncated, "nli_questions_cut": self._questions_cut}

    @torch.inference_mode()
    def labels(self, pairs: Sequence[tuple[str, str]]) -> list[Label]:
        """The label of each (premise, hypothesis). The longest run first: if memory is short, it shows at once."""
        encoded = [self._encode(*pair) for pair in pairs]
        order = sorted(range(len(pairs)), key=lambda i: (-len(encoded[i]["input_ids"]), i))
        result: list[Label] = ["neutral"] * len(pairs)
        for start in range(0, len(order), self._microbatch):
            rows = order[start : start + self._microbatch]
            batch = self._tokenizer.pad([encoded[i] for i in rows], return_tensors="pt").to(self._model.device)
            classes = self._model(**batch).logits.float().argmax(dim=-1).tolist()
            for i, cls in zip(rows, classes, strict=True):
                result[i] = self._label_of_class[cls]
        self._calls += len(pairs)
        return result

    def _texts(self, comparison: Comparison) -> tuple[str, str]:
        question = self.question(comparison.prompt)
        return f"{question} {comparison.leader.strip()}", f"{question} {comparison.answer.strip()}"

    def question(self, prompt: Prompt) -> str:
        """Instruction and input, cut to the first `question_tokens` tokens."""
        key = (prompt.instruction, prompt.input)
        if key not in self._questions:
            text = f"{prompt.instruction} {prompt.input}" if prompt.input else prompt.instruction
            ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if len(ids) > self._question_tokens:
                text = self._first_tokens(text, ids)
                self._questions_cut += 1
            if len(self._questions) >= 10_000:  # only repeats within a block of prompts matter
                self._questions.clear()
            self._questions[key] = text
        return self._questions[key]

    def _first_tokens(self, text: str, ids: list[int]) -> str:
        if not self._tokenizer.is_fast:
            return self._tokenizer.decode(ids[: self._question_tokens], skip_special_tokens=True)
        offsets = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return text[: offsets["offset_mapping"][self._question_tokens - 1][1]]

    def _encode(self, premise: str, hypothesis: str) -> dict[str, list[int]]:
        encoded = self._tokenizer(premise, hypothesis, verbose=False)
        if len(encoded["input_ids"]) > self._max_length:
            self._truncated += 1
            encoded = self._tokenizer(
                premise, hypothesis, truncation="longest_first", max_length=self._max_length, verbose=False
            )
        return dict(encoded)


def label_order(id2label: dict[int, str], *, where: str) -> list[Label]:
    """Our label of each of the model's classes, from the names in its config, in any case.

    Raises:
        ModelError: if one of the three labels is missing or named twice, or there is a fourth class. A guess
            would be wrong for half of the published checkpoints and still give clusters.
    """
    names = [str(id2label[i]).strip().casefold() for i in sorted(id2label, key=int)]
    if sorted(names) != sorted(LABELS):
        raise ModelError(
            "the NLI model does not name the labels contradiction, neutral and entailment",
            where=f"{where}: id2label of its config",
            found=", ".join(map(str, id2label.values())) or "no label",
            want="contradiction, neutral, entailment, each once, in any order",
            mend="set synthesize.equivalence.model to a model for NLI, or name the labels in its config.json",
        )
    return [LABELS[LABELS.index(name)] for name in names]


def load_entailment(
    source: Path | str,
    *,
    device: torch.device,
    rule: EquivalenceRule = "strict",
    microbatch: int = 32,
    question_tokens: int = 128,
    max_length: int = 512,
) -> EntailmentEquivalence:
    """Load an NLI model from a folder or the hub.

    Raises:
        ModelError: if it cannot be loaded whole (a head that is not in the file would be random), or its
            labels are not NLI's.
    """
    settings = ModelConfig(path=str(source))
    config = load_config(source, settings)
    label_order(config.id2label, where=str(source))  # before gigabytes of weights are read
    tokenizer = load_tokenizer(source, settings)
    model = load_module(AutoModelForSequenceClassification, source, settings, device=device, config=config)
    return EntailmentEquivalence(
        model,
        tokenizer,
        rule=rule,
        microbatch=microbatch,
        question_tokens=question_tokens,
        max_length=max_length,
    )


def _check_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    # Tokenizers without a limit say 1e30; position tables of RoBERTa's kind hold two more rows than tokens.
    limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or max_length)
    if max_length > limit:
        raise ModelError(
            f"the NLI model reads at most {limit} tokens, and pairs may have {max_length}",
            where=str(model.config.name_or_path),
            mend=f"--set synthesize.equivalence.max_length={limit}",
        )
