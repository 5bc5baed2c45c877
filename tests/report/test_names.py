"""What policies and reward models are called, and their colours."""

from __future__ import annotations

import re

import pytest

from rlp_engine.report import names
from rlp_engine.report.comparisons import against_kl


def test_a_method_keeps_its_colour_and_methods_differ() -> None:
    every = ["sft", "ppo", "round-1/uml/ppo", "round-1/spg/refine-rm", "round-2/spg/ppo", "round-1/reseed/ppo"]
    colours = names.colours(every)
    assert colours["sft"] == 0
    assert colours["ppo"] == 1
    assert len({colours[m] for m in ("ppo", "spg", "uml", "reseed")}) == 4
    assert names.colours(reversed(every)) == colours


def test_policies_of_one_reward_model_are_joined_and_named_once() -> None:
    rows = [
        {"name": name, "kl": kl, "win_rate": rate, "standard_error": 2.0}
        for name, kl, rate in (
            ("sft", None, 50.0),
            ("ppo", 2.0, 60.0),
            ("ppo-kl0.5", 1.0, 55.0),
            ("ppo-kl2", 0.5, 52.0),
        )
    ]
    colours = names.colours([row["name"] for row in rows])
    figure = str(against_kl(rows, colours))
    assert "KL coefficient" not in figure
    apart = str(against_kl([row | {"name": row["name"].replace("-kl", "x")} for row in rows], colours))
    through_three = r'<path d="M [\d.]+ [\d.]+ \nL [\d.]+ [\d.]+ \nL [\d.]+ [\d.]+ \n"[^>]*stroke: var\('
    assert [len(re.findall(through_three, text)) for text in (figure, apart)] == [1, 0]


@pytest.mark.parametrize(
    ("full", "label"),
    [
        ("sft", "SFT"),
        ("best-of-16", "Best of 16"),
        ("round-1/spg/ppo", "RLP-SPG"),
        ("round-3/uml+spg/ppo", "RLP-UML+SPG (round 3)"),
        ("round-1/reseed/refine-rm", "Control"),
        ("round-1/spg-kl0.05", "RLP-SPG, KL coefficient 0.05"),
        ("ppo-kl2", "PPO, KL coefficient 2"),
        ("something", "something"),
    ],
)
def test_labels(full: str, label: str) -> None:
    assert names.parse(full).label == label
