from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlp_engine.config.sections.synthesis import EquivalenceConfig
from rlp_engine.data.records import Prompt
from rlp_engine.errors import HealthError, ModelError
from rlp_engine.methods import entailment_clusters
from rlp_engine.semantics.build import build_equivalence
from rlp_engine.semantics.equivalence import Comparison
from rlp_engine.semantics.nli import EntailmentEquivalence, label_order, load_entailment

CPU = torch.device("cpu")
PROMPT = Prompt("1", "what is the capital of france", "in a town")
ANSWERS = ["paris", "london is big", "it is paris", "no", "not paris", "the big town is cold", "yes it is", "why not a"]
PAIRS = [Comparison(PROMPT, a, b) for a, b in itertools.permutations(ANSWERS, 2)]
ONE_WAY = [Comparison(PROMPT, a, b) for a, b in itertools.combinations(ANSWERS, 2)]  # no reverse among them


def load(folder: Path, **settings: object) -> EntailmentEquivalence:
    return load_entailment(folder, device=CPU, **{"max_length": 60, **settings})


def texts(comparison: Comparison) -> tuple[str, str]:
    question = "what is the capital of france in a town"
    return f"{question} {comparison.leader}", f"{question} {comparison.answer}"


def test_labels_do_not_depend_on_the_batch_and_take_all_values(nli_folder: Path) -> None:
    together = load(nli_folder, microbatch=7).labels([texts(c) for c in PAIRS])
    alone = load(nli_folder)
    assert together == [alone.labels([texts(c)])[0] for c in PAIRS]
    assert set(together) == {"contradiction", "neutral", "entailment"}  # else the tests below prove little


def test_logits_that_are_no_number_are_no_label(nli_folder: Path) -> None:
    judge = load(nli_folder)
    judge._model.classifier.bias.data[1] = torch.nan
    with pytest.raises(HealthError, match="logits is nan") as error:
        judge.labels([texts(PAIRS[0])])
    assert "what is the capital" in error.value.where


def test_labels_are_those_of_plain_transformers(nli_folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(nli_folder)
    plain = AutoModelForSequenceClassification.from_pretrained(nli_folder).eval()
    ours = load(nli_folder)
    for comparison in PAIRS[:12]:
        with torch.no_grad():
            best = plain(**tokenizer(*texts(comparison), return_tensors="pt")).logits.argmax().item()
        assert ours.labels([texts(comparison)]) == [plain.config.id2label[best].lower()]


@pytest.mark.parametrize("rule", ["strict", "lax", "non-contradiction"])
def test_both_directions_are_asked_with_the_question_and_the_second_only_when_open(nli_folder: Path, rule: str) -> None:
    judge = load(nli_folder)
    forward = judge.labels([texts(c) for c in ONE_WAY])
    backward = judge.labels([texts(c)[::-1] for c in ONE_WAY])
    model = load(nli_folder, rule=rule)
    verdicts = model.equivalent(ONE_WAY)
    assert verdicts == [entailment_clusters.equivalent(a, b, rule) for a, b in zip(forward, backward, strict=True)]
    assert True in verdicts
    assert False in verdicts
    still_open = sum(not entailment_clusters.forward_decides(label, rule) for label in forward)
    assert model.counts()["nli_calls"] == len(ONE_WAY) + still_open
    assert still_open < len(ONE_WAY)


def test_no_question_is_asked_twice(nli_folder: Path) -> None:
    model = load(nli_folder)
    model.labels([texts(c) for c in [*PAIRS, *PAIRS]])
    assert model.counts()["nli_calls"] == len(PAIRS)
    model.equivalent([Comparison(replace(PROMPT, prompt_id="2"), c.leader, c.answer) for c in PAIRS])
    assert model.counts()["nli_calls"] == len(PAIRS)


def test_the_label_order_is_read_from_the_config(nli_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(nli_folder, tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    names = {"0": "entailment", "1": "Neutral", "2": "contradiction"}
    config |= {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    swap = {"entailment": "contradiction", "contradiction": "entailment", "neutral": "neutral"}
    pairs = [texts(c) for c in PAIRS]
    assert load(tmp_path / "other").labels(pairs) == [swap[label] for label in load(nli_folder).labels(pairs)]


@pytest.mark.parametrize(
    "names",
    [
        {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"},
        {0: "entailment", 1: "not_entailment"},
        {0: "entailment", 1: "neutral", 2: "neutral"},
        {0: "entailment", 1: "neutral", 2: "contradiction", 3: "other"},
    ],
)
def test_missing_or_doubled_labels_are_refused(names: dict[int, str]) -> None:
    with pytest.raises(ModelError, match="does not name the labels") as caught:
        label_order(names, where="somewhere")
    assert names[0] in caught.value.found


def test_labels_are_checked_before_the_weights_are_read(nli_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(nli_folder, tmp_path / "bad")
    config = json.loads((tmp_path / "bad/config.json").read_text())
    config |= {"id2label": {"0": "a", "1": "b", "2": "c"}}
    (tmp_path / "bad/config.json").write_text(json.dumps(config))
    (tmp_path / "bad/model.safetensors").unlink()
    with pytest.raises(ModelError, match="does not name the labels"):
        load(tmp_path / "bad")


def test_the_question_is_cut_to_its_first_tokens(nli_folder: Path) -> None:
    model = load(nli_folder, question_tokens=4)
    of_the_rest = Prompt("2", "what is the capital of france", "in a big town")
    verdicts = model.equivalent(PAIRS)
    assert verdicts == model.equivalent([Comparison(of_the_rest, c.leader, c.answer) for c in PAIRS])
    model.equivalent([Comparison(Prompt("3", "who is it"), "yes", "no")])
    assert model.counts()["nli_questions_cut"] == 2
    assert verdicts == load(nli_folder).equivalent(
        [Comparison(Prompt("4", "what is the capital"), c.leader, c.answer) for c in PAIRS]
    )


def test_long_pairs_lose_the_end_of_the_longer_text_and_are_counted(nli_folder: Path) -> None:
    model = load(nli_folder, max_length=20)
    prompt = Prompt("1", "who")
    short = "it is paris"  # 4 tokens with the question; the pair has 3 special ones, so 13 are left for the other
    kept = " ".join(["cold"] * 12)
    full = model.labels([(f"who {short}", f"who {kept}")])
    assert model.counts()["nli_truncated"] == 0
    assert model.labels([(f"who {short}", f"who {kept} hot hot hot hot")]) == full
    assert model.counts()["nli_truncated"] == 1
    model.equivalent([Comparison(prompt, short, f"{kept} hot")])
    assert model.counts()["nli_truncated"] >= 2


def test_a_pair_longer_than_the_model_reads_is_refused_at_the_start(nli_folder: Path) -> None:
    with pytest.raises(ModelError, match="at most 64 tokens, and pairs may have 65") as caught:
        load(nli_folder, max_length=65)
    assert caught.value.mend == "--set synthesize.equivalence.max_length=64"


def test_a_model_without_its_head_is_refused(nli_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, BertModel

    BertModel(AutoConfig.from_pretrained(nli_folder)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(nli_folder).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="would be random"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_by_config_keeps_labels_that_are_not_near_a_tie(nli_folder: Path, dtype: str) -> None:
    config = EquivalenceConfig(kind="nli", model=str(nli_folder), max_length=60, dtype=dtype)
    half = build_equivalence(config, device=CPU)
    assert next(half._model.parameters()).dtype == getattr(torch, dtype)
    whole = load(nli_folder)
    pairs = [texts(c) for c in PAIRS]
    agree = sum(a == b for a, b in zip(half.labels(pairs), whole.labels(pairs), strict=True))
    assert agree >= 0.8 * len(pairs)


def test_the_config_builds_it(nli_folder: Path) -> None:
    config = EquivalenceConfig(kind="nli", model=str(nli_folder), rule="lax", max_length=60)
    built = build_equivalence(config, device=CPU)
    assert built.equivalent(PAIRS) == load(nli_folder, rule="lax").equivalent(PAIRS)
