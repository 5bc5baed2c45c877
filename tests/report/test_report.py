from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rlp_engine.report.page import write_report
from rlp_engine.report.read import read_decisions, read_run

ALLOWED_IN_STYLE = re.compile(r"url\(#[\w-]+\)")


class Page(HTMLParser):
    """Every element and every text of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "col"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def test_the_headline_has_the_win_rates_the_difference_and_its_interval(page: str) -> None:
    text = Page(page).text
    for words in (
        "79.7 ± 2.9 %",
        "best win-rate: RLP-SPG (one standard error, 188 instructions)",
        "+8.7 points",
        "RLP-SPG over PPO, same instructions (95 % interval +3.5 to +13.9; interval clear of 0)",
        "+5.7 points",
        "61.3 → 68.7 %",
        "144 · 12 · 32",
        "different KL, 1.80 to 5.30 nats",
    ):
        assert words in text


def test_an_interval_that_holds_zero_says_so(run_dir: Path, results: dict[str, Any], tmp_path: Path) -> None:
    results["paired"] = [{"a": "ppo", "b": "round-1/spg", "difference": -2.0, "low": -6.0, "high": 2.5}]
    write_report(run_dir, results, tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    assert "+2.0 points" in text  # the pair was given the other way round
    assert "95 % interval −2.5 to +6.0; interval holds 0: not told apart" in text


def test_gains_right_answers_curves_and_confirmed_pairs_are_on_the_page(
    run_dir: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    ppo = next(row for row in results["policies"] if row["name"] == "ppo")
    ppo["gain"] = {"score": 0.5, "standard_error": 0.05, "correct": 0.125, "style": 0.375}
    uml = next(row for row in results["policies"] if row["name"] == "round-1/uml")
    uml["gain"] = {"score": 0.25, "standard_error": 0.05, "correct": -0.5, "style": 0.75}
    results["policies"].append({**ppo, "name": "ppo-kl0.5"})
    for model in results["reward_models"]:
        model["accuracy"]["ppo"]["differing"] = {"accuracy": 0.584, "n": 213}
    results["synthetic_pairs"] = [
        {"name": "round-1/spg", "method": "spg", "accuracy": 0.926, "standard_error": 0.0106, "n": 605}
    ]
    summary = {"entropy_discrete": 0.613, "entropy_kuhn": 1.25, "comparisons": 896, "naive_comparisons": 983}
    summary |= {"nli_calls": 1500, "nli_truncated": 3, "nli_questions_cut": 0}
    rlaif = {"rlaif_asked": 912, "rlaif_confident_rate": 0.125, "rlaif_consistent_rate": 0.25}
    rlaif |= {"rlaif_first_label": 0.875, "rlaif_shortened": 7, "comparisons": 0, "naive_comparisons": 0}
    for method, numbers in {"spg": summary, "rlaif": rlaif}.items():
        path = run_dir / "round-1" / method / "synthesize"
        path.mkdir(parents=True, exist_ok=True)
        record = {"name": f"round-1/{method}/synthesize", "status": "done", "summary": numbers}
        (path / "stage.json").write_text(json.dumps(record))
        (path / "decisions.jsonl").touch()
        (path / "pairs.jsonl").write_text(json.dumps({"chosen": "it is cold .", "rejected": "warm"}) + "\n")
    write_report(run_dir, results, tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    for words in (
        "PPO+0.500 ± 0.050+0.125+0.37525 %",
        "RLP-UML+0.250 ± 0.050−0.500+0.750–",
        "Policies at other KL coefficients (1)PolicyWin-rate",
        "Accuracy on pairs of which one answer is right",
        "58.4 %n = 213",
        "RLP-SPG92.6 ± 1.1 %605",
        "Mean semantic entropy in nats: 0.61 by counts, 1.25 Kuhn's.",
        "The NLI model was called 1\N{NARROW NO-BREAK SPACE}500 times; one by one it is 1\N{NARROW NO-BREAK SPACE}966.",
        "Cut to fit: 3 NLI pairs. Cut to fit: 0 questions of NLI pairs.",
        "The judge compared 912 pairs, each in both orders: it is 75 % sure or surer in 12.5 %, prefers the same "
        "answer in both orders in 25.0 %, and gives the label of the answer shown first 87.5 % on average",
        "Cut to fit: 7 answers in RLAIF's prompt.",
    ):
        assert words in text, words


def test_every_part_of_a_finished_run_is_on_the_page(page: str) -> None:
    parsed = Page(page)
    ids = {attrs["id"] for name, attrs in parsed.elements if name == "section"}
    assert ids == {"results", "ppo", "reward-models", "drift", "synthetic", "read", "stages"}
    for words in (
        "KL from the SFT policy",
        "Jensen-Shannon bound J of the views",
        "Accuracy on the policies' own answers",
        "68.7 %",
        "Classifier AUC",
        "accepted from 0.5",
        "accepted: 123 of 200 (61.5 %)",
        "40 pairs; preferred answers have 12 characters on average, rejected ones 4.",
        "In 6.7 % of the pairs the rejected answer has the higher reward.",
        "Clustering asked 896 questions, 87 less than one by one.",
        "on held-out pairs of D",
        "73.1 %n = 500",
        "RLP-SPGfive . have a nice day !won",
        "PPOit is five .draw",
        "SFTfive .lost",
        "RLP-UML: steps 10, 30, 60",
        "round-1/spg/refine-rm",
    ):
        assert words in parsed.text, words


def test_the_page_is_well_formed_and_its_ids_are_unique(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'(?:url\(|href=")#([\w-]+)', page))
    assert references <= set(ids)
    assert any(reference.startswith("ppo-0-") for reference in references)


def test_nothing_is_loaded_and_nothing_can_run(page: str) -> None:
    parsed = Page(page)
    kinds = {name for name, _ in parsed.elements}
    assert not kinds & {"script", "img", "image", "iframe", "object", "embed", "link", "base", "form", "foreignobject"}
    for name, attrs in parsed.elements:
        for key, value in attrs.items():
            assert not key.startswith("on"), (name, key)
            if key in ("href", "xlink:href"):
                assert value.startswith("#"), value
            assert key not in ("src", "srcset", "action", "data"), (name, key)
            assert "url(" not in ALLOWED_IN_STYLE.sub("", value or ""), value
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attrs for _, attrs in parsed.elements if attrs.get("http-equiv") == "Content-Security-Policy")[
        "content"
    ]
    assert "default-src 'none'" in policy
    assert "script-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_texts_of_models_are_shown_and_never_become_elements(page: str) -> None:
    assert "<script" not in page
    assert "<img" not in page
    shown = '</style><script>alert("x")</script><img src=x onerror=alert(1)> $\\frac{1}{0}$'
    assert (
        Page(page).text.count(shown) == 7
    )  # a labelled pair, question and answer of a decision, one sample of each of 4 PPO stages
    assert "\u202e" not in page
    assert "\x00" not in page


def test_hostile_names_of_policies_stages_and_metrics_are_escaped(
    run_dir: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    hostile = '<b onload="x">$\\frac$'
    results["judge"] = results["reference"] = hostile
    results["policies"][1]["name"] = hostile
    results["policies"][2]["parts"] = {hostile: 1.0}
    results["reward_models"][0]["name"] = hostile
    results["reward_models"][0]["accuracy"] = {hostile: {"accuracy": 0.7, "n": 3}}
    results["paired"][0]["a"] = hostile
    with (run_dir / "ppo" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 61, hostile: 1.0}) + "\n")
    drift = json.loads((run_dir / "round-1/embed/drift.json").read_text())
    (run_dir / "round-1/embed/drift.json").write_text(json.dumps(drift | {hostile: drift["sft"]}))
    write_report(run_dir, results, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "b" not in {name for name, attrs in Page(page).elements if attrs}
    assert Page(page).text.count(hostile) >= 9


def test_light_and_dark_share_the_figures_by_variables(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    figures = re.findall(r'<svg role="img".*?</svg>', page, flags=re.DOTALL)
    assert len(figures) >= 20
    for figure in figures:
        assert "var(--" in figure
        assert not re.search(r"#[0-9a-f]{6}\b", figure), "a fixed colour cannot follow the theme"


def test_subsets_and_test_sets_have_a_figure_and_a_table(run_dir: Path, results: dict, tmp_path: Path) -> None:
    rows = [
        {"name": row["name"], "win_rate": row["win_rate"], "standard_error": 9.0, "n": 20}
        for row in results["policies"]
    ]
    none = {"name": "sft", "win_rate": None, "standard_error": None, "n": 0}
    subsets = [{"subset": "<b>koala</b>", "policies": rows}, {"subset": "", "policies": [none]}]
    test_sets = [{"test_set": "llmbar", "policies": rows[:2], "subsets": [{"subset": "natural", "policies": rows[:1]}]}]
    write_report(run_dir, results | {"subsets": subsets, "test_sets": test_sets}, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<b>koala" not in page
    text = Page(page).text
    assert "Where it was won" in text
    for label in ("<b>koala</b>", "llmbar: all", "llmbar: natural", "79.7 ± 9.0"):
        assert label in text
    assert "(none)" not in text, "a part that nobody judged is left out"


def test_the_same_files_give_the_same_bytes(run_dir: Path, tmp_path: Path, page: str) -> None:
    write_report(run_dir, None, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("kept", [[], ["sft"], ["sft", "collect", "train-rm", "ppo"]])
def test_a_run_at_any_point_has_a_page(run_dir: Path, tmp_path: Path, kept: list[str]) -> None:
    for child in list(run_dir.iterdir()):
        if child.is_dir() and child.name not in kept:
            shutil.rmtree(child)
    write_report(run_dir, None, tmp_path / "r.html")
    parsed = Page((tmp_path / "r.html").read_text())
    assert "not been evaluated yet" in parsed.text
    assert ("Policy optimisation" in parsed.text) == ("ppo" in kept)
    assert ("No stage has begun." in parsed.text) == (not kept)


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_report(tmp_path / "run", None, tmp_path / "r.html")
    assert "No stage has begun." in (tmp_path / "r.html").read_text()


def test_a_stage_under_way_is_shown_with_its_status_and_step(run_dir: Path, tmp_path: Path) -> None:
    shutil.rmtree(run_dir / "evaluate")
    (run_dir / "round-1/spg/ppo").rename(run_dir / "round-1/spg/ppo.partial")
    partial = run_dir / "round-1/spg/ppo.partial"
    (partial / "stage.json").unlink()
    (partial / "attempt.json").write_text(json.dumps({"status": "interrupted", "message": "Ctrl-C", "attempt": 2}))
    with (partial / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "score": 1.')  # being written
    write_report(run_dir, None, tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    assert "Under way: round-1/spg/ppo (interrupted)." in text
    assert "RLP-SPG (interrupted)" in text
    assert "Not readable" not in text


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "train-rm/stage.json").write_text("{broken")
    (run_dir / "round-1/embed/drift.json").write_text("[1, 2]")
    with (run_dir / "ppo/metrics.jsonl").open("a") as file:
        file.write("garbage\n[1]\n")
    (run_dir / "run.toml").write_text("seed = = 1")
    (run_dir / "evaluate/results.json").write_bytes(b"\xff\xfe")
    write_report(run_dir, None, tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    assert "stage.json in train-rm/ could not be read" in text
    assert "drift.json in embed/ is not a JSON object" in text
    assert "2 lines of metrics.jsonl in ppo/ could not be read" in text
    assert "run.toml could not be read" in text
    assert "results.json in evaluate/ could not be read" in text
    assert "Policy optimisation" in text


def test_results_with_holes_are_shown_with_dashes(run_dir: Path, tmp_path: Path) -> None:
    holes = {
        "policies": [{"name": "ppo", "win_rate": float("nan"), "kl": None}, {"name": "sft"}],
        "paired": [{"a": "x"}],
    }
    write_report(run_dir, holes, tmp_path / "r.html")
    assert "PPO" in Page((tmp_path / "r.html").read_text()).text


def test_not_finite_metrics_are_left_out_of_curves(run_dir: Path, tmp_path: Path) -> None:
    with (run_dir / "ppo/metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "score": NaN}\n{"step": 62, "score": Infinity}\n')
    write_report(run_dir, None, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "nan" not in re.findall(r'<svg role="img".*?</svg>', page, flags=re.DOTALL)[2].lower()


def test_curves_of_long_runs_are_thinned_and_keep_the_last_step(run_dir: Path) -> None:
    with (run_dir / "sft/metrics.jsonl").open("w") as file:
        file.writelines(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(1, 5002))
    sft = next(stage for stage in read_run(run_dir).stages if stage.name == "sft")
    assert len(sft.metrics) <= 400
    assert sft.metrics[-1]["step"] == 5001


def test_a_metric_of_every_tenth_step_is_not_thinned_away(run_dir: Path) -> None:
    rows = [
        {"step": step, "kl": 1.0} | ({"held_out_agreement": 0.6} if step % 10 == 0 else {}) for step in range(1, 802)
    ]
    (run_dir / "ppo/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ppo = next(stage for stage in read_run(run_dir).stages if stage.name == "ppo")
    assert [row["step"] for row in ppo.metrics if "held_out_agreement" in row] == list(range(10, 802, 10))
    assert 200 <= sum("kl" in row for row in ppo.metrics) <= 400


def test_stages_are_in_the_order_of_the_method(run_dir: Path) -> None:
    order = [stage.name for stage in read_run(run_dir).stages]
    assert order[:4] == ["sft", "collect", "train-rm", "ppo"]
    assert order[4:6] == ["round-1/sample", "round-1/embed"]
    spg = [name for name in order if "/spg/" in name]
    assert spg == ["round-1/spg/synthesize", "round-1/spg/refine-rm", "round-1/spg/ppo"]
    assert order[-1] == "evaluate"


def test_superseded_and_hidden_folders_are_not_stages(run_dir: Path) -> None:
    before = [stage.name for stage in read_run(run_dir).stages]
    shutil.copytree(run_dir / "ppo", run_dir / "superseded" / "ppo-20260101")
    shutil.copytree(run_dir / "ppo", run_dir / ".cache" / "ppo")
    assert [stage.name for stage in read_run(run_dir).stages] == before


def test_decisions_are_counted_and_a_few_are_kept(run_dir: Path) -> None:
    problems: list[str] = []
    decisions = read_decisions(run_dir / "round-1/spg/synthesize/decisions.jsonl", problems)
    assert sum(decisions.reasons.values()) == 200
    assert sum(sum(counts.values()) for counts in decisions.by_confidence.values()) == 200
    assert len(decisions.examples) <= 12
    assert problems == []
