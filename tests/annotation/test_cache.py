"""Answers of annotators on the disk: whole, once, and found again."""

from __future__ import annotations

import pytest

from rlp_engine.annotation.cache import Answer, AnswerCache, key_of

ONE, TWO = (Answer(text, "stop", 3, 1, {"1": -0.5}, "m") for text in ("1", "zwei \u2028 {"))


def test_answers_are_found_again_by_what_was_asked(tmp_path) -> None:
    key = key_of({"model": "m", "prompt": "a", "temperature": 0.0})
    assert key == key_of({"temperature": 0.0, "prompt": "a", "model": "m"})
    others = [{"model": "n"}, {"prompt": "b"}, {"temperature": 1.0}, {"seed": 1}]
    assert len({key_of({"model": "m", "prompt": "a", "temperature": 0.0} | other) for other in others} | {key}) == 5
    cache = AnswerCache(tmp_path / "judge" / "answers.jsonl")
    assert key not in cache
    with pytest.raises(KeyError):
        cache.get(key)
    cache.add(key, TWO)
    assert AnswerCache(tmp_path / "judge" / "answers.jsonl").get(key) == cache.get(key) == TWO


def test_a_torn_line_is_lost_alone(tmp_path) -> None:
    path = tmp_path / "answers.jsonl"
    keys = [key_of({"n": n}) for n in range(3)]
    AnswerCache(path).add(keys[0], ONE)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])  # a writer was killed within a line
    cache = AnswerCache(path)
    assert keys[0] in cache
    cache.add(keys[1], TWO)
    again = AnswerCache(path)
    assert [key in again for key in keys] == [True, True, False]
    assert (again.get(keys[0]), again.get(keys[1]), again.unreadable_lines) == (ONE, TWO, 1)
    assert (cache.get(keys[0]), cache.get(keys[1])) == (ONE, TWO)


def test_two_writers_see_each_other_and_the_first_answer_stands(tmp_path) -> None:
    path = tmp_path / "answers.jsonl"
    key, other = key_of({"n": 0}), key_of({"n": 1})
    a, b = AnswerCache(path), AnswerCache(path)
    a.add(key, ONE)
    assert key not in b
    b.refresh()
    assert b.get(key) == ONE
    b.add(other, TWO)
    b.add(key, TWO)  # both had asked at the same time
    a.refresh()
    assert (a.get(other), a.get(key), AnswerCache(path).get(key)) == (TWO, ONE, ONE)
