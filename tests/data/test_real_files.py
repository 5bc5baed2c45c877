"""Public data as it is published; the counts were read off the files by other means (shared/data/README.md)."""

from collections import Counter

import pytest

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.check import check_file
from rlp_engine.data.readers import (
    load_annotations,
    load_demonstrations,
    load_outputs,
    load_preferences,
    load_prompts,
    load_samples,
)


@pytest.mark.parametrize(
    ("name", "kind", "rows", "good", "warned"),
    [
        ("eval/alpacafarm_eval.json", "prompts", 805, 805, 0),
        ("eval/alpacafarm_eval.json", "outputs", 805, 805, 0),
        ("eval/alpacafarm_eval_gpt35.json", "outputs", 805, 805, 0),
        ("eval/llmbar.jsonl", "prompts", 419, 419, 0),
        ("eval/llmbar.jsonl", "preferences", 419, 419, 0),
        ("eval/vicuna80_questions.jsonl", "prompts", 80, 80, 0),
        ("eval/ifeval.jsonl", "prompts", 541, 541, 0),
        ("preferences/alpacaeval_validation.jsonl.gz", "preferences", 2400, 2399, 1),  # equal but for a newline
        ("preferences/instruction_data_with_preference.json", "preferences", 1100, 1094, 6),  # 6 are equal
        ("preferences/dpo_en_demo.json", "preferences", 300, 300, 0),
        ("preferences/hh_harmless_shared.jsonl.gz", "preferences", 1500, 1498, 2),  # 2 chosen ones are empty
        ("preferences/kto_en_demo.json", "demonstrations", 300, 300, 0),
        ("outputs/alpacaeval_diverse12.jsonl.gz", "samples", 642, 642, 0),
        ("outputs/oasst_samples_rlhf1_llama30b.jsonl.gz", "samples", 200, 200, 0),
        ("outputs/alpacafarm_example_multisamples_sft.json", "samples", 8, 8, 0),
        ("outputs/alpacafarm_example_outputs_sft.json", "outputs", 252, 252, 0),
        ("sft/alpaca_zh_demo.json", "demonstrations", 1000, 1000, 0),
        ("sft/gpteacher_roleplay.jsonl.gz", "demonstrations", 1923, 1923, 0),
    ],
)
def test_published_files_are_read_as_they_are(shared_data, name, kind, rows, good, warned):
    report = check_file(shared_data / name, kind)
    assert report.problems == []
    assert (report.rows, report.good_rows, report.num_warnings) == (rows, good, warned)


def test_the_splits_of_alpaca_have_their_published_sizes(shared_data):
    path = str(shared_data / "sft" / "alpaca52k_shared.parquet")
    told = []
    sft = load_demonstrations(DataFile(path=path, where={"split": "sft"}), 0, warn=told.append)
    empty = sum("the output is empty" in line for line in told)
    assert 9_980 <= len(sft) <= 10_000
    assert (len(sft) == 10_000) != bool(empty)
    unlabeled = load_prompts(DataFile(path=path, where={"split": "unlabeled"}), 0)
    assert len(unlabeled) == 20_000
    assert not {row.prompt.prompt_id for row in sft} & {prompt.prompt_id for prompt in unlabeled}


def test_the_test_split_comes_from_the_file_beside(shared_data):
    file = DataFile(
        path=str(shared_data / "eval" / "alpacafarm_eval.json"),
        columns_from=str(shared_data / "eval" / "instruction_splits.jsonl"),
        where={"split": "test"},
    )
    prompts = load_prompts(file, 0)
    assert 140 <= len(prompts) <= 180  # a fifth of 805
    assert all(prompt.reference is not None and prompt.prompt_id.startswith("ae-") for prompt in prompts)
    assert {prompt.meta["subset"] for prompt in prompts} == {"selfinstruct", "oasst", "koala", "helpful_base", "vicuna"}


def test_pairs_keep_their_instruction_and_their_annotator(shared_data):
    pairs = load_preferences(DataFile(path=str(shared_data / "preferences" / "alpacaeval_validation.jsonl.gz")), 0)
    assert len({pair.meta["pair_id"] for pair in pairs}) == len(pairs)
    assert len({pair.prompt.prompt_id for pair in pairs}) < 100  # instructions: a tenth of 805
    assert all(pair.meta["annotator"] and 0.5 <= pair.meta["p_chosen"] <= 1 for pair in pairs)


def test_llmbars_labels_choose_the_second_answer_when_they_are_two(shared_data):
    rows = load_preferences(DataFile(path=str(shared_data / "eval" / "llmbar.jsonl"), where={"subset": "natural"}), 0)
    assert len(rows) == 100
    annotated = load_annotations(DataFile(path=str(shared_data / "eval" / "llmbar.jsonl"), where={"subset": "natural"}))
    assert Counter(row.preference for row in annotated) == {1.0: 42, 2.0: 58}  # METHOD 6.3
    for pair, row in zip(rows, annotated, strict=True):
        assert pair.chosen == (row.output_1, row.output_2)[int(row.preference) - 1]


def test_annotations_count_zero_as_a_draw(shared_data):
    path = shared_data / "eval" / "annotations_alpaca-7b_alpaca_eval_gpt4.jsonl.gz"
    assert Counter(row.preference for row in load_annotations(DataFile(path=str(path)))) == {
        1.0: 584,
        2.0: 205,
        1.5: 16,
    }


def test_sets_of_samples_are_whole(shared_data):
    path = shared_data / "outputs" / "oasst_samples_pythia3b_sft.jsonl.gz"
    assert {len(row.outputs) for row in load_samples(DataFile(path=str(path)))} == {11}
    path = shared_data / "eval" / "alpacafarm_eval.json"
    assert sum(not row.output.strip() for row in load_outputs(DataFile(path=str(path)))) == 2


def test_the_three_test_sets_of_the_paper_with_their_subsets(shared_data):
    """As docs/EVALUATION.md says to name them; counts from METHOD 6.3."""

    def read(name: str, **settings) -> list:
        return load_prompts(DataFile(path=str(shared_data / "eval" / name), **settings), 0)

    whole, llmbar = read("alpacafarm_eval.json"), read("llmbar.jsonl", where={"subset": "natural"})
    vicuna = read("vicuna80_questions.jsonl")
    assert Counter(prompt.meta["subset"] for prompt in whole) == {
        "selfinstruct": 252,
        "oasst": 188,
        "koala": 156,
        "helpful_base": 129,
        "vicuna": 80,
    }
    assert sum(prompt.reference is not None for prompt in whole) == 805
    assert (len(llmbar), {prompt.meta["subset"] for prompt in llmbar}) == (100, {"natural"})
    assert all(prompt.reference is None for prompt in [*llmbar, *vicuna])
    assert sorted(Counter(prompt.meta["subset"] for prompt in vicuna).values()) == [3, 7] + [10] * 7
    inside = {prompt.instruction for prompt in whole if prompt.meta["subset"] == "vicuna"}
    assert {prompt.instruction for prompt in vicuna} == inside
