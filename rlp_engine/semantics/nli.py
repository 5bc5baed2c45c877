"""Equivalence by natural-language inference: two answers mean the same when each entails the other.

METHOD 3.1, 3.2; Kuhn et al. 2023 (arXiv:2302.09664), algorithm 1. Both texts carry the question, the
decision is the arg max of the labels, and the labels are read from the model's config: their order differs
between published checkpoints. No (premise, hypothesis) of a block of prompts is asked twice (answers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.errors import ModelError
from rlp_engine.methods.entailment_clusters import EquivalenceRule, Label, equivalent, forward_decides
from rlp_engine.models.finite import require_finite
from rlp_engine.models.loading import load_config, load_module, load_tokenizer
from rlp_engine.semantics.answers import Answer, AnswerFolder, Answers, Key, key_of
from rlp_engine.semantics.equivalence import Comparison
from rlp_engine.semantics.nli_input import (
    ENCODING_VERSION,
    Encoded,
    PairEncoder,
    repair_pair_template,
    require_separator,
)

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
        open_answers: Callable[[str], Answers] = lambda block: Answers(),
        after_forward: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            rule: "strict" (both entail), "lax" (no contradiction and not both neutral), "non-contradiction".
            microbatch: pairs per forward pass.
            question_tokens: the question is cut to its first so many tokens; it is in both texts.
            max_length: tokens of an encoded pair; the longer text loses its end first.
            open_answers: block -> what this model answered of it, with this `max_length`; by default nothing is kept.
            after_forward: called when a forward pass's answers are remembered: a point to stop at.

        Raises:
            ModelError: if the model's labels are not the three of NLI, it cannot read `max_length` tokens, or the
                tokenizer does not part the two texts.
        """
        where = str(model.config.name_or_path)
        self._label_of_class = label_order(model.config.id2label, where=where)
        _check_length(model, tokenizer, max_length)
        repair_pair_template(model, tokenizer)
        require_separator(tokenizer, where=where)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._encoder = PairEncoder(tokenizer, question_tokens=question_tokens, max_length=max_length)
        self._rule: EquivalenceRule = rule
        self._microbatch = microbatch
        self._max_length = max_length
        self._open_answers = open_answers
        self._answers = open_answers("")
        self._after_forward = after_forward
        self._truncated = self._calls_before = self._recalled_before = 0

    def begin(self, block: str) -> None:
        self._calls_before += len(self._answers.used)
        self._recalled_before += self._answers.num_recalled
        self._answers = self._open_answers(block)
        self._encoder.forget()

    def equivalent(self, comparisons: Sequence[Comparison]) -> list[bool]:
        """Ask leader -> answer for all, then answer -> leader where the first direction leaves it open."""
        texts = [self._encoder.texts(c) for c in comparisons]
        forward = self.labels(texts)
        open_ = [i for i, label in enumerate(forward) if not forward_decides(label, self._rule)]
        backward = self.labels([(texts[i][1], texts[i][0]) for i in open_])
        verdicts = [False] * len(comparisons)
        for i, label in zip(open_, backward, strict=True):
            verdicts[i] = equivalent(forward[i], label, self._rule)
        return verdicts

    def counts(self) -> dict[str, int]:
        """Of the different (premise, hypothesis) in each block that the verdicts rest on, whoever answered them: these
        numbers are those of a run that was never interrupted."""
        return {
            "nli_calls": self._calls_before + len(self._answers.used),
            "nli_truncated": self._truncated,
            "nli_questions_cut": self._encoder.questions_cut,
        }

    def recalled(self) -> int:
        return self._recalled_before + self._answers.num_recalled

    def labels(self, pairs: Sequence[tuple[str, str]]) -> list[Label]:
        """The label of each (premise, hypothesis)."""
        keys = [key_of(*pair) for pair in pairs]
        self._learn({key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._answers.used})
        return [self._answers.used[key].label for key in keys]

    def _learn(self, new: Mapping[Key, tuple[str, str]]) -> None:
        """Answers for all of `new`, from the file where it has them.

        Pairs are put into batches by length, the longest first: if memory is short, it shows at once. Batches are
        formed before the file is looked at and whole ones are on file, so after an interruption the rest is asked in
        the very batches of an uninterrupted run: its labels are the same to the last bit.
        """
        stored = {key: answer for key in new if (answer := self._answers.stored(key))}
        asked = [key for key in new if key not in stored]
        encoded: dict[Key, Encoded] = {}
        tokens = {key: answer.tokens for key, answer in stored.items()}
        for key, (row, length) in zip(asked, self._encoder.pairs([new[key] for key in asked]), strict=True):
            encoded[key], tokens[key] = row, length
        order = sorted(new, key=lambda key: -min(tokens[key], self._max_length))  # stable: ties in order of asking
        for start in range(0, len(order), self._microbatch):
            batch = order[start : start + self._microbatch]
            for key in (key for key in batch if key in stored):
                self._answers.use(key)
            if missing := [key for key in batch if key not in stored]:
                labels = self._forward([encoded[key] for key in missing])
                self._answers.add({key: Answer(label, tokens[key]) for key, label in zip(missing, labels, strict=True)})
                self._after_forward()
        self._truncated += sum(length > self._max_length for length in tokens.values())

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Encoded]) -> list[Label]:
        batch = self._tokenizer.pad(list(rows), return_tensors="pt").to(self._model.device)
        logits_BC = self._model(**batch).logits.float()
        require_finite(
            logits_BC.sum(dim=-1).tolist(),
            "the sum of a pair's logits",
            model=f"NLI model {self._model.config.name_or_path}",
            place=lambda index: f"a pair that begins {self._tokenizer.decode(rows[index]['input_ids'])[:60]!r}",
        )
        return [self._label_of_class[cls] for cls in logits_BC.argmax(dim=-1).tolist()]


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
    dtype: str = "float32",
    revision: str = "main",
    answers: AnswerFolder | None = None,
    after_forward: Callable[[], None] = lambda: None,
) -> EntailmentEquivalence:
    """Load an NLI model from a folder or the hub.

    Args:
        dtype: of weights and forward pass, a name in torch; labels near a tie may change with it.
        revision: of a hub model.
        answers: where answers are kept between attempts and stages; None = in memory.

    Raises:
        ModelError: if it cannot be loaded whole (a head that is not in the file would be random), its labels are
            not NLI's, or its tokenizer is not one for pairs.
    """
    settings = ModelConfig(path=str(source), revision=revision)
    config = load_config(source, settings)
    label_order(config.id2label, where=str(source))  # before gigabytes of weights are read
    tokenizer = load_tokenizer(source, settings)
    model = load_module(AutoModelForSequenceClassification, source, settings, device=device, config=config, dtype=dtype)
    commit = getattr(config, "_commit_hash", None) or revision  # of a hub model; a branch's name may move on
    decisive = {"commit": commit, "dtype": dtype, "max_length": max_length, "encoding": ENCODING_VERSION}
    return EntailmentEquivalence(
        model,
        tokenizer,
        rule=rule,
        microbatch=microbatch,
        question_tokens=question_tokens,
        max_length=max_length,
        **({"open_answers": partial(answers.open, **decisive)} if answers else {}),
        after_forward=after_forward,
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
