"""Judges that only compare, in the stages that would have scores: labels, win-rates, reward models, choosing a step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rlp_engine.config.annotators import annotator_path
from rlp_engine.config.load import load_preset
from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.data import DataConfig, SandboxConfig
from rlp_engine.config.sections.judging import LabelNoiseConfig
from rlp_engine.data.records import Prompt, Sample
from rlp_engine.errors import ConfigError
from rlp_engine.evaluation.judges import GoldJudge, Judge
from rlp_engine.sandbox.data import World
from rlp_engine.stages.collect import label, opinions
from rlp_engine.stages.evaluate import policy_row
from rlp_engine.stages.evaluate_policies import Judged, judge_samples
from rlp_engine.stages.evaluate_rewards import accuracy_on, compare_samples
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.ppo import worth
from rlp_engine.stages.rlaif import LOG_ZERO, Judgement, label_logprobs
from rlp_engine.stages.synthesize import decide_prompt


class Longer(Judge):
    """Prefers the longer text; says nothing readable of one with a question mark."""

    name = "longer"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def compare(
        self, prompts, outputs_1: Sequence[str], outputs_2: Sequence[str], **_: Sequence[str] | None
    ) -> list[float | None]:
        self.asked += zip(outputs_1, outputs_2, strict=True)
        return [
            None if "?" in a + b else 1.5 if len(a) == len(b) else 2.0 if len(b) > len(a) else 1.0
            for a, b in zip(outputs_1, outputs_2, strict=True)
        ]


def samples(*texts: str) -> list[Sample]:
    return [Sample("p", draw, text, [1], "stop", -1.0) for draw, text in enumerate(texts)]


PROMPT = Prompt("p", "say something")


def test_labels_come_from_comparisons_and_noise_turns_them() -> None:
    judge = Longer()
    found = opinions(judge, {"p": PROMPT}, samples("a", "bb", "cc", " cc ", "eee", "f", "g?", "h", "ii", "jj"))
    assert found == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), None, (0.5, 0.5)]
    assert ("cc", " cc ") not in judge.asked
    exact, flipped = LabelNoiseConfig(), LabelNoiseConfig(flip_share=1.0)
    outcome, pair = label(PROMPT, ("a", "bb"), found[0], exact, 0, 0)
    assert (outcome, pair.chosen, pair.rejected) == ("agrees with the score", "bb", "a")
    outcome, pair = label(PROMPT, ("a", "bb"), found[0], flipped, 0, 0)
    assert (outcome, pair.chosen, pair.rejected) == ("against the score", "a", "bb")
    assert label(PROMPT, ("cc", " cc "), found[1], exact, 0, 0) == ("equal texts", None)
    assert label(PROMPT, ("g?", "h"), found[3], exact, 0, 0) == ("not readable", None)
    assert label(PROMPT, ("ii", "jj"), found[4], exact, 0, 0) == ("equal scores", None)


def test_samples_are_compared_in_disjoint_pairs_and_reward_models_by_them() -> None:
    prompts = [PROMPT, Prompt("q", "more")]
    drawn = samples("a", "bb", "ccc", "dd", "e?", "f", "gg", "hh")
    judge = Longer()
    compared = compare_samples(judge, prompts, drawn, 4)
    assert compared == [[(0, 1, 2.0), (2, 3, 1.0)], [(0, 1, None), (2, 3, 1.5)]]
    assert judge_samples(judge, prompts, drawn) is None
    policy = Judged("sft", drawn, None, [], drawn, None, [], None)
    # rewards order (0, 1) wrongly and (2, 3) rightly; the other prompt has nothing that counts
    found = accuracy_on([1.0, 0.0, 1.0, 0.0, 9.0, 8.0, 7.0, 6.0], policy, 4, compared)
    assert (found["accuracy"], found["n"]) == (0.5, 2)
    row = policy_row(policy, policy, [2.0, None])
    assert (row["mean_score"], row["gain"], row["win_rate"], row["dropped"]) == (None, None, 100.0, 1)


def test_candidates_are_chosen_by_win_rate_where_there_are_no_scores() -> None:
    prompts = [PROMPT] * 4
    answers = samples("aaa", "b", "cc", "d?")
    assert worth(Longer(), prompts, answers, ["x", "yy", "zz", "x"]) == 50.0  # a win, a loss, a draw, one unread
    assert worth(Longer(), prompts, answers, ["x", None, None, None]) == 100.0
    gold = GoldJudge(World(SandboxConfig()).gold)
    asked = [Prompt("p", "what is the opposite of hot ?")] * 4
    scores = gold.scores(asked, [a.text for a in answers])
    assert worth(gold, asked, answers, []) == pytest.approx(sum(scores) / 4)


def test_rlaif_by_server_averages_both_orders_and_drops_what_cannot_be_read() -> None:
    def decided(first: float | None, second: float | None) -> str:
        """Preferences in the order shown: 2 = the answer shown second."""
        judgement = Judgement("p", 0, 1, label_logprobs(first), label_logprobs(second), False)
        decision = decide_prompt(PROMPT, None, [0.0, 0.0], selection="rlaif", gamma=0, key=(0, 1), judgement=judgement)
        return f"{decision.reason} {decision.chosen}"

    assert label_logprobs(2.0) == (LOG_ZERO, 0.0)
    assert decided(1.0, 2.0) == "accepted 0"
    assert decided(2.0, 1.0) == "accepted 1"
    assert (
        decided(1.0, 1.0) == decided(2.0, 2.0) == "equal None"
    )  # it names what is shown first, or second, whatever it is
    assert decided(1.2, 1.7) == "accepted 0"
    assert decided(1.0, None) == "unparsed None"


SERVER = {
    "data": DataConfig(source="sandbox"),
    "judge": {
        "annotators": ["alpacafarm-label", "alpaca-eval"],
        "server": {"base_urls": ["http://h/v1"], "model": "m"},
    },
    "methods": ["rlaif", "spg"],
    "ppo": {"select": "judge"},
}
BY_SERVER = {
    "collect": {"annotator": {"kind": "server"}},
    "evaluate": {"judge": {"kind": "server"}},
    "synthesize": {"rlaif": {"engine": "server"}},
}


def test_annotators_are_inputs_of_the_stages_that_ask_them() -> None:
    stages = {spec.name: spec for spec in build_pipeline(RunConfig(**SERVER, **BY_SERVER))}
    for name, annotators in {
        "collect": ["alpacafarm-label", "alpaca-eval"],
        "ppo": ["alpacafarm-label", "alpaca-eval"],
        "evaluate": ["alpacafarm-label", "alpaca-eval"],
        "round-1/rlaif/synthesize": ["rlaif"],
    }.items():
        inputs = {item.name: item.path for item in stages[name].inputs if item.name.startswith("annotator:")}
        assert inputs == {f"annotator:{one}": str(annotator_path(one)) for one in annotators}
        assert "judge" in stages[name].sections
    assert "policy" not in {item.name for item in stages["round-1/rlaif/synthesize"].inputs}
    plain = build_pipeline(
        RunConfig(**SERVER, evaluate={"judge": {"kind": "gold"}}, collect={"annotator": {"kind": "gold"}})
    )
    assert not any("judge" in spec.sections for spec in plain), "who does not ask is not stale when [judge] changes"


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["judge.server.base_urls=[]"], "judge.server.base_urls names none"),
        (["judge.server.model="], "annotator 'alpaca-eval' names no model"),
        (['judge.annotators=["alpaca-evil"]'], "there is no annotator 'alpaca-evil'"),
        (["collect.annotator.kind=server"], "collect.label_noise.temperature needs scores"),
        (["evaluate.judge.path=some/model"], "evaluate.judge.path is not read"),
        (['judge.server.base_urls=["h:1"]'], "is no address"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused_at_once(sets: list[str], says: str) -> None:
    whole = ["evaluate.judge.kind=server", 'judge.server.base_urls=["http://h:1/v1"]', "judge.server.model=m"]
    assert load_preset("quickstart", whole).config.evaluate.judge.kind == "server"
    with pytest.raises(ConfigError) as caught:
        load_preset("quickstart", [*whole, *sets])
    assert says in str(caught.value)
