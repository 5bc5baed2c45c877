"""Saved models: adapters merged, tokenizer beside them."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlp_engine.models.loading import quiet
from rlp_engine.models.lora import merged_state
from rlp_engine.run import faults
from rlp_engine.run.disk import Writing


def save_module(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """save_pretrained of the merged weights and of the tokenizer; the live module keeps its adapters.

    The config names the pad token (`special_tokens.ensure_pad_token`), by which plain sequence classifiers find
    the last token. Weights keep their live dtype. Files: config.json, *.safetensors, tokenizer files.
    """
    # save_pretrained empties the dict it is given; merged_state makes a new one each time.
    state = merged_state(module)
    with quiet(), Writing(path, sum(tensor.nbytes for tensor in state.values())):
        module.save_pretrained(path, state_dict=state)
        tokenizer.save_pretrained(path)
        for file in sorted(path.iterdir()):
            faults.wrote(file)
