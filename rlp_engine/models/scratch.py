"""A small model from nothing: a tokenizer trained on the run's own texts and a randomly drawn Llama.

The same texts, config and seed give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlp_engine.config.sections.model import ModelConfig, ScratchConfig
from rlp_engine.errors import ConfigError, DataError
from rlp_engine.models.policy import Policy
from rlp_engine.models.special_tokens import PAD_TOKEN

EOS_TOKEN = "[EOS]"
UNKNOWN_TOKEN = "[UNK]"


def build_scratch(model: ModelConfig, texts: Iterable[str], *, seed: int, device: torch.device | str = "cpu") -> Policy:
    """A new policy whose tokenizer knows the words (or byte pairs) of `texts`.

    Raises:
        ConfigError: if heads and widths do not divide.
        DataError: if `texts` hold no word.
    """
    scratch = model.scratch
    _check_widths(scratch)
    tokenizer = build_tokenizer(scratch, texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.num_layers,
        num_attention_heads=scratch.num_heads,
        num_key_value_heads=scratch.num_kv_heads or scratch.num_heads,
        max_position_embeddings=scratch.max_position_embeddings,
        initializer_range=scratch.init_std,
        tie_word_embeddings=scratch.tie_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    if model.attn_implementation != "auto":
        config._attn_implementation = model.attn_implementation
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: the same weights on every device
        torch.manual_seed(seed)
        module = LlamaForCausalLM(config)
    if model.gradient_checkpointing:
        module.activation_checkpointing_enable({"use_reentrant": False})
    return Policy(module.to(device=device, dtype=getattr(torch, model.dtype)).eval(), tokenizer)


def build_tokenizer(scratch: ScratchConfig, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word tokenizer (text between spaces is one token) or byte-level BPE, with pad, EOS and unknown tokens.

    Neither adds a token of its own to a text: templates decide where BOS and EOS stand.
    """
    special = [PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN]
    if scratch.tokenizer == "word":
        core = Tokenizer(models.WordLevel(unk_token=UNKNOWN_TOKEN))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(vocab_size=scratch.vocab_size, special_tokens=special, show_progress=False)
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=scratch.vocab_size,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
    core.train_from_iterator((text for text in texts if text.strip()), trainer)
    if scratch.tokenizer == "word" and core.get_vocab_size() == len(special):
        raise DataError(
            "a tokenizer cannot be trained without a single word",
            mend="give data.demonstrations rows with text in them",
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        clean_up_tokenization_spaces=False,
    )


def _check_widths(scratch: ScratchConfig) -> None:
    key_value_heads = scratch.num_kv_heads or scratch.num_heads
    problems = []
    if scratch.hidden_size % (2 * scratch.num_heads):
        problems.append(f"hidden_size {scratch.hidden_size} is not an even multiple of num_heads {scratch.num_heads}")
    if scratch.num_heads % key_value_heads:
        problems.append(f"num_heads {scratch.num_heads} is not a multiple of num_kv_heads {key_value_heads}")
    if problems:
        raise ConfigError(
            "the widths of the new model do not divide",
            where="[model.scratch]",
            found="; ".join(problems),
            mend="e.g. hidden_size = 128, num_heads = 4, num_kv_heads = 0",
        )
