"""The only place that applies a prompt or chat template, or adds BOS and EOS.

Every stage tokenises through `PromptTemplate`, so that one prompt is the same tokens for the SFT loss,
the policy, its reference and the reward model. Prompt and response are always tokenised as one string
(METHOD 4.3): the ids of "Response:" followed by those of "Paris" need not be those of "Response:Paris".

User text never becomes a control token: "</s>" in an instruction is four characters, not an end of text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from jinja2 import TemplateError

from rlp_engine.data.records import Prompt
from rlp_engine.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TemplateKind = Literal["alpaca", "chat", "plain"]

# AlpacaFarm v0_inputs_noinputs, to the letter (METHOD 4.3).
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n"
)
ALPACA_INPUT = "\n\n### Input:\n"
ALPACA_RESPONSE = "\n\n### Response:"

# A chat template is a program of whoever made the model: it may divide by zero, recurse or ask for all the memory.
_TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip

# Private-use characters around a control token that stands in user text of a chat (see `_marked_text`).
MARK_OPEN, MARK_CLOSE = "\U000ffff0", "\U000ffff1"


class PromptTemplate:
    """How a prompt, and an answer after it, become text and tokens.

    Args:
        kind: `alpaca` (METHOD 4.3), `chat` (the tokenizer's chat template with its generation prompt), or
            `plain` (instruction, input and a newline).
        tokenizer: a fast tokenizer: the response's tokens are found by character offsets.

    Raises:
        ModelError: the tokenizer gives no offsets, adds BOS twice, or has no chat template for `chat`.
    """

    def __init__(self, kind: TemplateKind, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets",
                want="a fast tokenizer (one with a tokenizer.json)",
                mend="convert it: AutoTokenizer.from_pretrained(PATH).save_pretrained(PATH)",
            )
        if kind == "chat" and not tokenizer.chat_template:
            raise ModelError(
                "the tokenizer has no chat template, and the template is `chat`",
                where=str(tokenizer.name_or_path),
                mend="use template = 'alpaca' or 'plain', or a model with a chat template",
            )
        self.kind = kind
        self.tokenizer = tokenizer
        self._prefix_ids = _prefix_ids(tokenizer)
        specials = sorted(
            (token.content for token in tokenizer.added_tokens_decoder.values() if token.special), key=len, reverse=True
        )
        control_token = "|".join(map(re.escape, specials)) or "(?!)"  # (?!) never matches
        self._control_token = re.compile(control_token)
        # A template may cut a text between the two marks; a mark without its partner only splits.
        self._marks = re.compile(f"{MARK_OPEN}({control_token}){MARK_CLOSE}|[{MARK_OPEN}{MARK_CLOSE}]")

    def render(self, prompt: Prompt) -> str:
        """The text before the response, which follows it directly."""
        return _unmarked(self._marked_prompt(prompt))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Ids of the rendered prompt, with BOS once when the tokenizer adds one. Nothing is cut."""
        return self._encode(self._marked_prompt(prompt))[0]

    def cut_prompt(self, ids: list[int], max_length: int) -> list[int]:
        """The last `max_length` of a prompt's ids, the BOS kept: a model that learned with BOS misbehaves without."""
        if len(ids) <= max_length:
            return ids
        prefix = ids[: len(self._prefix_ids)] if ids[: len(self._prefix_ids)] == self._prefix_ids else []
        kept = max_length - len(prefix)
        return prefix + ids[-kept:] if kept > 0 else prefix[:max_length]

    def encode_example(
        self, prompt: Prompt, output: str, max_length: int | None = None
    ) -> tuple[list[int], list[bool]]:
        """Prompt, response and EOS as one sequence, for supervised fine-tuning (METHOD 4.5).

        Returns:
            ids and is_response, of equal length, cut on the right to `max_length` (None = not cut). A token that
            holds any character of the response is a response token, and so is the EOS. When the prompt alone
            fills `max_length`, no token is one.

        Raises:
            ModelError: the tokenizer has no EOS; the policy could never learn to stop.
        """
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no end-of-sequence token, so the policy could never learn to stop",
                where=str(self.tokenizer.name_or_path),
                mend="set eos_token in its tokenizer_config.json",
            )
        before = self._marked_prompt(prompt)
        boundary = len(_unmarked(before))
        ids, ends = self._encode(before + self._marked_text(output))
        first = next((index for index, end in enumerate(ends) if end > boundary), len(ids))
        ids = [*ids, self.tokenizer.eos_token_id]
        is_response = [index >= first for index in range(len(ids))]
        return ids[:max_length], is_response[:max_length]

    def encode_scored(self, prompt: Prompt, response: str, max_length: int | None = None) -> list[int]:
        """Prompt and response as a reward model reads them: no EOS, cut on the right (METHOD 4.2).

        Args:
            max_length: tokens; None = nothing is cut.

        Raises:
            DataError: there is no token at which a reward could be read.
        """
        ids = self._encode(self._marked_prompt(prompt) + self._marked_text(response))[0][:max_length]
        if not ids:
            raise DataError(
                "the tokenizer makes no token of an instruction and its answer, so there is nothing to reward",
                where=f"prompt {prompt.prompt_id}: {prompt.instruction[:40]!r}",
                mend="take it out of the data, or set model.template = 'alpaca'",
            )
        return ids

    def _marked_prompt(self, prompt: Prompt) -> str:
        if self.kind == "chat":
            return self._chat(prompt)
        if self.kind == "plain":
            return prompt.instruction + ("\n" + prompt.input if prompt.input else "") + "\n"
        if not prompt.input:
            return ALPACA_WITHOUT_INPUT + prompt.instruction + ALPACA_RESPONSE
        return ALPACA_WITH_INPUT + prompt.instruction + ALPACA_INPUT + prompt.input + ALPACA_RESPONSE

    def _chat(self, prompt: Prompt) -> str:
        content = prompt.instruction + ("\n\n" + prompt.input if prompt.input else "")
        turns = prompt.meta.get("messages") or [{"role": "user", "content": content}]
        messages = [{"role": turn["role"], "content": self._marked_text(turn["content"])} for turn in turns]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except _TEMPLATE_ERRORS as error:
            raise ModelError(
                f"the tokenizer's chat template refused a prompt: {str(error)[:200] or type(error).__name__}",
                where=f"prompt {prompt.prompt_id}, roles {', '.join(turn['role'] for turn in turns)}",
                mend="use a template that knows these roles, or template = 'alpaca' or 'plain'",
            ) from error

    def _marked_text(self, text: str) -> str:
        """User text, with marks around what a chat's tokenisation would take for a control token."""
        if self.kind != "chat":
            return text  # no control token is written by these templates, so `_encode` matches none
        return self._control_token.sub(f"{MARK_OPEN}\\g<0>{MARK_CLOSE}", _unmarked(text))

    def _encode(self, marked: str) -> tuple[list[int], list[int]]:
        """Ids with BOS, and for each the character of the unmarked text at which it ends (0 for BOS)."""
        ids: list[int] = []
        ends: list[int] = []
        start = 0
        # Splitting at the marks gives text, control token, text, ... For nearly every text that is one piece.
        pieces = self._marks.split(marked) if self.kind == "chat" else [marked]
        for index, piece in enumerate(pieces):
            if not piece:
                continue
            as_text = self.kind != "chat" or index % 2 == 1
            encoding = self.tokenizer(
                piece,
                add_special_tokens=False,
                split_special_tokens=as_text,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
            ids += encoding["input_ids"]
            ends += [start + end for _, end in encoding["offset_mapping"]]
            start += len(piece)
        prefix = self._prefix_ids
        if prefix and ids[: len(prefix)] != prefix:  # a chat template may have written the BOS itself
            ids, ends = prefix + ids, [0] * len(prefix) + ends
        self._refuse_double_bos(ids)
        return ids, ends

    def _refuse_double_bos(self, ids: list[int]) -> None:
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise ModelError(
                f"a prompt begins with two {self.tokenizer.bos_token} tokens",
                where=str(self.tokenizer.name_or_path),
                mend="take it out of the chat template, or set add_bos_token to false in tokenizer_config.json",
            )


def _unmarked(text: str) -> str:
    return text.replace(MARK_OPEN, "").replace(MARK_CLOSE, "")


def _prefix_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before every text: nothing, or BOS. What it puts after one is never wanted here."""
    added = tokenizer("", add_special_tokens=True)["input_ids"]
    if not added or (added == [tokenizer.bos_token_id] and tokenizer.bos_token_id != tokenizer.eos_token_id):
        return added
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next(i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain)
    return whole[:start]
