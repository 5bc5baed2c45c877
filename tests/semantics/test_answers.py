"""The file of NLI answers: what is in it is never asked again, and what is damaged is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from rlp_engine.data.records import Prompt
from rlp_engine.semantics.answers import Answer, AnswerFolder, Answers, key_of
from rlp_engine.semantics.equivalence import Comparison
from rlp_engine.semantics.nli import EntailmentEquivalence, load_entailment

CPU = torch.device("cpu")
WORDS = ["paris", "london is big", "it is paris", "no", "not paris", "the big town is cold", "yes it is", "why not a"]
COMPARISONS = [Comparison(Prompt("1", "what"), a, b) for a, b in itertools.combinations(WORDS, 2)]


class Stopped(Exception):
    pass


def folder(path: Path, warnings: list[str] | None = None, model: str = "digest") -> AnswerFolder:
    return AnswerFolder(path / "nli", model, (warnings if warnings is not None else []).append)


def load(nli_folder: Path, answers: AnswerFolder | None, **settings: object) -> EntailmentEquivalence:
    return load_entailment(nli_folder, device=CPU, answers=answers, **{"max_length": 60, "microbatch": 4, **settings})


def asked(model: EntailmentEquivalence) -> int:
    return model.counts()["nli_calls"] - model.recalled()


def stop_after(number: int) -> object:
    calls = itertools.count(1)

    def after_forward() -> None:
        if next(calls) == number:
            raise Stopped

    return after_forward


def file_of(path: Path) -> Path:
    [file] = (path / "nli").iterdir()
    return file


def test_keys_tell_every_pair_of_texts_apart() -> None:
    texts = ["", "a", "ab", 'a", "b', "b", "\ud800"]
    assert len({key_of(*pair) for pair in itertools.product(texts, texts)}) == len(texts) ** 2


@pytest.mark.parametrize("forwards", [1, 3, 8])
def test_interrupted_work_goes_on_where_it_stopped(nli_folder: Path, tmp_path: Path, forwards: int) -> None:
    whole = load(nli_folder, None)
    verdicts = whole.equivalent(COMPARISONS)
    first = load(nli_folder, folder(tmp_path), after_forward=stop_after(forwards))
    with pytest.raises(Stopped):
        first.equivalent(COMPARISONS)
    second = load(nli_folder, folder(tmp_path))
    assert second.equivalent(COMPARISONS) == verdicts
    assert second.recalled() == asked(first)
    assert second.counts() == whole.counts()
    assert asked(first) + asked(second) == asked(whole) == whole.counts()["nli_calls"]
    third = load(nli_folder, folder(tmp_path))
    assert third.equivalent(COMPARISONS) == verdicts
    assert asked(third) == 0
    assert third.counts() == whole.counts()


def test_the_rest_is_asked_in_the_batches_of_an_uninterrupted_run(nli_folder: Path, tmp_path: Path) -> None:
    load(nli_folder, folder(tmp_path / "whole")).equivalent(COMPARISONS)
    with pytest.raises(Stopped):
        load(nli_folder, folder(tmp_path / "cut"), after_forward=stop_after(3)).equivalent(COMPARISONS)
    load(nli_folder, folder(tmp_path / "cut")).equivalent(COMPARISONS)
    assert file_of(tmp_path / "cut").read_bytes() == file_of(tmp_path / "whole").read_bytes()


def test_another_rule_asks_only_what_is_new(nli_folder: Path, tmp_path: Path) -> None:
    strict = load(nli_folder, folder(tmp_path))
    strict.equivalent(COMPARISONS)
    lax = load(nli_folder, folder(tmp_path), rule="lax")
    assert lax.equivalent(COMPARISONS) == load(nli_folder, None, rule="lax").equivalent(COMPARISONS)
    assert lax.counts()["nli_calls"] == len(set(strict._answers.used) | set(lax._answers.used))
    assert lax.recalled() == asked(strict)


@pytest.mark.parametrize(
    ("change", "model"), [({"max_length": 50}, "digest"), ({"dtype": "bfloat16"}, "digest"), ({}, "other weights")]
)
def test_answers_of_another_model_or_setting_are_not_used(
    nli_folder: Path, tmp_path: Path, change: dict[str, object], model: str
) -> None:
    load(nli_folder, folder(tmp_path)).equivalent(COMPARISONS)
    other = load(nli_folder, folder(tmp_path, model=model), **change)
    other.equivalent(COMPARISONS)
    assert other.recalled() == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[: len(line) // 2],  # a killed writer
        lambda line: b"\0" * len(line),  # a power cut
        lambda line: (
            line.replace(b"entailment", b"entailmenu")
            .replace(b"neutral", b"neutrak")
            .replace(b"contradiction", b"contradictiom")
        ),
        lambda line: b'{"answers": [1]}\n',
        lambda line: b"\xff\xfe\n",
    ],
)
@pytest.mark.parametrize("number", [2, -1])
def test_a_damaged_line_is_told_and_asked_again(nli_folder: Path, tmp_path: Path, damage: object, number: int) -> None:
    verdicts = load(nli_folder, folder(tmp_path)).equivalent(COMPARISONS)
    file = file_of(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    lost = len(json.loads(lines[number])["answers"])
    lines[number] = damage(lines[number])
    if number != -1 and not lines[number].endswith(b"\n"):
        lines[number] += b"\n"  # what the next writer does
    file.write_bytes(b"".join(lines))
    warnings: list[str] = []
    again = load(nli_folder, folder(tmp_path, warnings))
    assert again.equivalent(COMPARISONS) == verdicts
    assert asked(again) == lost
    assert len(warnings) == 1
    assert "nli" in warnings[0]
    assert "jsonl: 1; their questions are asked again" in warnings[0]
    assert asked_after(nli_folder, tmp_path) == 0, "what was appended after the damage can be read"


def asked_after(nli_folder: Path, tmp_path: Path) -> int:
    model = load(nli_folder, folder(tmp_path))
    model.equivalent(COMPARISONS)
    return asked(model)


def test_an_answer_is_stored_for_its_direction(tmp_path: Path) -> None:
    book = Answers(tmp_path / "answers.jsonl")
    book.add({key_of("a", "b"): Answer("neutral", 7)})
    assert Answers(tmp_path / "answers.jsonl").stored(key_of("a", "b")) == Answer("neutral", 7)
    assert Answers(tmp_path / "answers.jsonl").stored(key_of("b", "a")) is None
