"""Two answers to a prompt -> what an NLI model is shown: the question before both, a pair of bounded length.

METHOD 3.2. The texts are a policy's samples and may spell out any control token. None of it counts as one:
a "[SEP]" inside an answer would end the premise early, and the model would judge another pair.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import processors
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlp_engine.data.records import Prompt
from rlp_engine.errors import ModelError
from rlp_engine.semantics.equivalence import Comparison

Encoded = dict[str, list[int]]

ENCODING_VERSION = 1  # raise it when the same texts make other ids: answers on file are not used then
MOST_QUESTIONS = 10_000  # remembered; only repeats within a block of prompts matter


class PairEncoder:
    """A tokenizer, and how much of a question and of a pair it keeps. Counts what it cut."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, question_tokens: int, max_length: int) -> None:
        """
        Args:
            question_tokens: the question is cut to its first so many tokens; it is in both texts.
            max_length: tokens of an encoded pair; the longer text loses its end first.
        """
        self.questions_cut = 0
        self._tokenizer = tokenizer
        self._question_tokens = question_tokens
        self._max_length = max_length
        self._control_ids = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self._questions: dict[tuple[str, str], str] = {}

    def forget(self) -> None:
        """Of the questions so far; what was cut stays counted."""
        self._questions.clear()

    def texts(self, comparison: Comparison) -> tuple[str, str]:
        """question + " " + answer, of both."""
        question = self.question(comparison.prompt)
        return f"{question} {comparison.leader.strip()}", f"{question} {comparison.answer.strip()}"

    def question(self, prompt: Prompt) -> str:
        """Instruction and input, cut to the first `question_tokens` tokens."""
        key = (prompt.instruction, prompt.input)
        if key not in self._questions:
            if len(self._questions) >= MOST_QUESTIONS:
                self._questions.clear()
            self._questions[key] = self._cut(
                f"{prompt.instruction} {prompt.input}" if prompt.input else prompt.instruction
            )
        return self._questions[key]

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Encoded, int]]:
        """Each pair encoded, and how many tokens it has before it is cut to `max_length`."""
        if not pairs:
            return []
        whole = self._encode([premise for premise, _ in pairs], [hypothesis for _, hypothesis in pairs])
        return [
            (row if len(row["input_ids"]) <= self._max_length else self._cut_pair(*pair), len(row["input_ids"]))
            for row, pair in zip(whole, pairs, strict=True)
        ]

    def _cut_pair(self, premise: str, hypothesis: str) -> Encoded:
        return self._encode([premise], [hypothesis], truncation="longest_first", max_length=self._max_length)[0]

    def _encode(self, premises: list[str], hypotheses: list[str], **options: object) -> list[Encoded]:
        encoded = self._tokenizer(
            premises,
            hypotheses,
            split_special_tokens=True,
            return_special_tokens_mask=True,
            verbose=False,
            **options,
        )
        return [self._without_control({k: v[i] for k, v in encoded.items()}) for i in range(len(premises))]

    def _without_control(self, row: Encoded) -> Encoded:
        """Drop control tokens that the text itself spelled: a unigram vocabulary holds them as words like others,
        so `split_special_tokens` does not keep them out."""
        is_own = row.pop("special_tokens_mask")
        if not any(i in self._control_ids and not own for i, own in zip(row["input_ids"], is_own, strict=True)):
            return row
        kept = [n for n, i in enumerate(row["input_ids"]) if is_own[n] or i not in self._control_ids]
        return {name: [values[n] for n in kept] for name, values in row.items()}

    def _cut(self, text: str) -> str:
        plain = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        ids = self._tokenizer(text, **plain)["input_ids"]
        if len(ids) <= self._question_tokens:
            return text
        self.questions_cut += 1
        if not self._tokenizer.is_fast:
            return self._tokenizer.decode(ids[: self._question_tokens], skip_special_tokens=True)
        offsets = self._tokenizer(text, return_offsets_mapping=True, **plain)["offset_mapping"]
        return text[: offsets[self._question_tokens - 1][1]]


def repair_pair_template(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give DeBERTa (the first version) the form of a pair it was trained on: [CLS] premise [SEP] hypothesis [SEP].

    transformers 5 writes two separators, as RoBERTa has them; up to version 4 it was one, and the authors of
    DeBERTa asked for one when that tokenizer was reviewed (huggingface/transformers, pull request 10703).
    """
    if model.config.model_type != "deberta" or not tokenizer.is_fast:
        return
    cls, sep = str(tokenizer.cls_token), str(tokenizer.sep_token)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
    )


def require_separator(tokenizer: PreTrainedTokenizerBase, *, where: str) -> None:
    """Refuse a tokenizer that puts no control token between two texts: the model could not tell them apart.

    Raises:
        ModelError: as said. Tokenizers of decoders do that, and so did a release of transformers for DeBERTa-v2.
    """
    encoded = tokenizer("a", "b", return_special_tokens_mask=True, verbose=False)
    is_control = encoded["special_tokens_mask"]
    of_texts = [i for i, control in enumerate(is_control) if not control]
    if not of_texts or not any(is_control[of_texts[0] : of_texts[-1]]):
        raise ModelError(
            "the tokenizer puts nothing between premise and hypothesis",
            where=where,
            found=" ".join(tokenizer.convert_ids_to_tokens(encoded["input_ids"])),
            mend="set synthesize.equivalence.model to an encoder for sentence pairs (BERT, RoBERTa, DeBERTa)",
        )
