"""Pad and EOS tokens of a tokenizer and its model (METHOD 4.5)."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlp_engine.errors import ModelError
from rlp_engine.models.loading import quiet

PAD_TOKEN = "[PAD]"


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase, module: PreTrainedModel) -> None:
    """Give tokenizer and model a pad token that is not an EOS, in place (METHOD 4.5).

    A model without one gets "[PAD]", whose input and output embedding rows are the means of the old
    rows [AF]: with the EOS as padding, masks and the last-token lookup would be off by one.

    Raises:
        ModelError: the tokenizer knows tokens that the model has no embedding for.
    """
    rows, largest = module.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ModelError(
            f"the tokenizer has tokens up to {largest}, the model has embeddings for {rows}",
            where=str(tokenizer.name_or_path),
            found=f"no embedding for {tokenizer.convert_ids_to_tokens(largest)!r}",
            mend="give model and tokenizer that belong together, or resize_token_embeddings, train and save",
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in eos_ids(tokenizer, module):
        old_size = len(tokenizer)
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
        _set_mean_rows(module, new_id=tokenizer.pad_token_id, old_size=old_size)
    module.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    module.config.pad_token_id = tokenizer.pad_token_id
    if getattr(module, "generation_config", None) is not None:
        module.generation_config.pad_token_id = tokenizer.pad_token_id


def eos_ids(tokenizer: PreTrainedTokenizerBase, module: PreTrainedModel) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's EOS first, then the generation config's.

    Raises:
        ModelError: the generation config names something else than tokens.
    """
    generation = getattr(module, "generation_config", None)
    named = getattr(generation, "eos_token_id", None)
    others = [token for token in (named if isinstance(named, list) else [named]) if token is not None]
    if not all(isinstance(token, int) for token in others):
        raise ModelError(
            "generation_config.json names an end of a text that is no token",
            where=str(tokenizer.name_or_path),
            found=f"eos_token_id = {named!r}"[:100],
            want="a token id, or a list of them",
        )
    return tuple(dict.fromkeys(token for token in [tokenizer.eos_token_id, *others] if token is not None))


def _set_mean_rows(module: PreTrainedModel, *, new_id: int, old_size: int) -> None:
    embeddings = module.get_input_embeddings()
    old_size = min(old_size, embeddings.num_embeddings)  # rows beyond the vocabulary are unused padding
    if new_id >= embeddings.num_embeddings:
        with quiet():
            module.resize_token_embeddings(new_id + 1, mean_resizing=False)
    tables = [module.get_input_embeddings(), module.get_output_embeddings()]
    with torch.no_grad():
        for weight in {id(table.weight): table.weight for table in tables if table is not None}.values():
            # On the CPU always: the same row to the bit on every device, so that `base_digest` knows the base again.
            weight[new_id] = weight[:old_size].cpu().float().mean(dim=0).to(weight)
