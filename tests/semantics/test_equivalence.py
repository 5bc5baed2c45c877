from __future__ import annotations

import pytest
import torch

from rlp_engine.config.sections.synthesis import EquivalenceConfig
from rlp_engine.data.records import Prompt
from rlp_engine.errors import ConfigError
from rlp_engine.semantics.build import build_equivalence
from rlp_engine.semantics.equivalence import Comparison, ExactMatch

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The cat.", "cat"),
        ("It is Paris!", "it is  paris"),
        ("Don't", "dont"),
        ("U.S.", "us"),
        ("well-known", "well known"),
        ("ﬁve", "FIVE"),
        ("yes, no", "yes,no"),
    ],
)
def test_case_punctuation_articles_and_spaces_do_not_matter(a: str, b: str) -> None:
    assert ExactMatch().equivalent([Comparison(Prompt("1", "q"), a, b)]) == [True]


@pytest.mark.parametrize(
    ("a", "b"),
    [("3.5", "35"), ("-5", "5"), ("10:30", "1030"), ("C#", "C"), ("5%", "5"), ("A", "the"), ("?", "!"), ("a b", "c")],
)
def test_what_changes_the_meaning_does(a: str, b: str) -> None:
    assert ExactMatch().equivalent([Comparison(Prompt("1", "q"), a, b)]) == [False]


def test_the_sandbox_is_asked_with_its_prompt() -> None:
    equivalence = build_equivalence(
        EquivalenceConfig(kind="sandbox"), device=CPU, same_meaning=lambda prompt, a, b: prompt.meta["fact"] in a + b
    )
    comparisons = [Comparison(Prompt("1", "q", meta={"fact": fact}), "cold", "hot") for fact in ("hot", "wet")]
    assert equivalence.equivalent(comparisons) == [True, False]


def test_kind_sandbox_without_a_sandbox_is_refused() -> None:
    with pytest.raises(ConfigError, match="only the sandbox knows"):
        build_equivalence(EquivalenceConfig(kind="sandbox"), device=CPU)


def test_kind_exact_match_needs_no_model() -> None:
    assert isinstance(build_equivalence(EquivalenceConfig(kind="exact-match"), device=CPU), ExactMatch)
