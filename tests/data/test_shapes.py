"""Recognised shapes of rows, one small file each."""

import json

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
from rlp_engine.data.records import Annotation, Demonstration, ModelOutput, PreferencePair, Prompt, Sample, SampleSet
from rlp_engine.data.rows import write_jsonl
from rlp_engine.errors import ConfigError, DataError


@pytest.fixture
def given(tmp_path):
    """A file of these rows."""

    def write(*rows, **keys) -> DataFile:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DataFile(path=str(path), **keys)

    return write


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": None, "response": "a"},
        {"prompt": "q", "completion": "a"},
        {"input": "q", "output": "a"},
        {"messages": [user("q"), assistant("a")]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": [user("q")], "completion": [assistant("a")]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, assistant("a")]},
    ],
)
def test_a_demonstration_in_every_shape(given, row):
    assert load_demonstrations(given(row), 0) == [Demonstration(Prompt("row-000000", "q"), "a")]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [user("q")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]},
        {"prompt": "q", "chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]},
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
    ],
)
def test_a_pair_in_every_shape(given, row):
    assert load_preferences(given(row), 0) == [PreferencePair(Prompt("row-000000", "q"), "good", "bad")]


@pytest.mark.parametrize(("label", "chosen"), [(1, "x"), (2, "y"), (1.2, "x"), (1.9, "y")])
def test_alpacafarm_pairs_follow_their_preference(given, label, chosen):
    row = {"instruction": "q", "input": "i", "output_1": "x", "output_2": "y", "preference": label}
    [pair] = load_preferences(given(row), 0)
    assert (pair.chosen, pair.prompt.input, pair.meta["preference"]) == (chosen, "i", label)
    assert {pair.chosen, pair.rejected} == {"x", "y"}


def test_llmbar_calls_its_instruction_input_and_its_preference_label(given):
    [pair] = load_preferences(given({"id": "n", "input": "q", "output_1": "x", "output_2": "y", "label": 2}), 0)
    assert pair == PreferencePair(Prompt("n", "q"), "y", "x", meta={"pair_id": "n"})


def test_draws_are_left_out_and_told(given):
    row = {"instruction": "q", "output_1": "x", "output_2": "y"}
    told = []
    rows = [{**row, "preference": preference} for preference in (1, 0, 1.5, None, 2)]
    assert [pair.chosen for pair in load_preferences(given(*rows), 0, warn=told.append)] == ["x", "y"]
    assert len(told) == 1
    assert told[0].endswith("no preference, or a draw: left out (3 such rows)")


def test_several_turns_are_written_out_and_kept_for_chat_templates(given):
    turns = [{"role": "system", "content": "Be brief."}, user("a"), assistant("b"), user("c")]
    [prompt] = load_prompts(given({"messages": turns}), 0)
    assert prompt.instruction == "System: Be brief.\n\nHuman: a\n\nAssistant: b\n\nHuman: c"
    assert prompt.meta["messages"] == turns


def test_hh_turns_are_told_apart_and_neighbours_of_one_role_joined(given):
    start = "\n\nHuman: a\n\nAssistant: b\nline\n\nHuman: c\n\nHuman: d\n\nAssistant:"
    [pair] = load_preferences(given({"chosen": f"{start} yes\n\n1. x", "rejected": f"{start} no"}), 0)
    assert pair.prompt.meta["messages"] == [user("a"), assistant("b\nline"), user("c\n\nd")]
    assert (pair.chosen, pair.rejected) == ("yes\n\n1. x", "no")


def test_dialogues_that_part_before_the_last_answer_are_left_out(given):
    def hh(first, last):
        return f"\n\nHuman: {first}\n\nAssistant: {last}"

    good = {"chosen": hh("q", "a"), "rejected": hh("q", "b")}
    told = []
    assert len(load_preferences(given(good, {**good, "rejected": hh("z", "b")}), 0, warn=told.append)) == 1
    assert "differ before their last answer" in told[0]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": [assistant("a"), user("q")]}, "does not end with an answer"),
        ({"messages": [{"role": "tool", "content": "x"}, assistant("a")]}, "a turn by 'tool'"),
        ({"messages": [user(None), assistant("a")]}, "a turn's content` is null"),
        ({"messages": [assistant("a")]}, "does not end with a question"),
        ({"messages": "hello", "output": "x"}, "does not end with an answer"),
        ({"instruction": " ", "output": "x"}, "`instruction` is empty"),
        ({"instruction": "\ud800", "output": "x"}, "half of a surrogate pair"),
        ({"turns": ["one", "two"], "output": "x"}, "`turns` is a list"),
        ({"instruction": "q", "output": "x", "id": ""}, "`id` is empty"),
        ({"instruction": "q", "output": "x", "id": 1.5}, "`id` is a number"),
    ],
)
def test_rows_that_are_no_demonstrations(given, row, what):
    with pytest.raises(DataError) as error:
        load_demonstrations(given({"instruction": "q", "output": "a"}, row), 0)
    assert error.value.what.startswith("1 of 2 rows are not demonstrations")
    assert what in error.value.what


@pytest.mark.parametrize("weight", [-1, float("inf"), "heavy", True])
def test_a_weight_is_a_number_of_at_least_zero(given, weight):
    row = {"instruction": "q", "chosen": "a", "rejected": "b"}
    assert load_preferences(given({**row, "weight": 0.25}), 0)[0].weight == 0.25
    with pytest.raises(DataError):
        load_preferences(given({**row, "weight": weight}), 0)


def test_prompts_take_reference_subset_and_id(given):
    row = {"question_id": 7, "instruction": "q", "output": "a", "dataset": "koala"}
    assert load_prompts(given(row), 0) == [Prompt("7", "q", "", "a", {"subset": "koala"})]
    assert load_prompts(given({"instruction": "q", "output": ["a", "b"]}), 0)[0].reference is None
    assert load_prompts(given({"question_id": 1, "turns": ["q"]}), 0) == [Prompt("1", "q")]


def test_rows_without_an_id_are_named_by_their_place(given):
    rows = [{"instruction": "a", "split": "test"}, {"instruction": "b", "split": "train"}]
    assert [prompt.prompt_id for prompt in load_prompts(given(*rows, where={"split": "train"}), 0)] == ["row-000001"]


def test_prompt_ids_are_one_rows_own(given):
    with pytest.raises(DataError, match="the id 'x' stands at"):
        load_prompts(given({"id": "x", "instruction": "a"}, {"id": "x", "instruction": "b"}), 0)


def test_an_instruction_may_have_many_pairs_but_an_id_only_one_instruction(given):
    def row(pair, instruction):
        return {"id": pair, "instruction_id": "i", "instruction": instruction, "chosen": "a", "rejected": "b"}

    pairs = load_preferences(given(row("p0", "q"), row("p1", "q")), 0)
    assert [(pair.prompt.prompt_id, pair.meta["pair_id"]) for pair in pairs] == [("i", "p0"), ("i", "p1")]
    with pytest.raises(DataError, match="two different instructions"):
        load_preferences(given(row("p0", "q"), row("p1", "other")), 0)


def test_fields_map_columns(given):
    row = {"instruction": "wrong", "ask": "q", "good": "a", "reject": "b", "rejected": 3}
    fields = {"instruction": "ask", "chosen": "good", "rejected": "reject"}
    assert load_preferences(given(row, fields=fields), 0) == [PreferencePair(Prompt("row-000000", "q"), "a", "b")]


def test_a_mapped_column_is_not_taken_twice(given):
    row = {"input": "q", "output": "a"}
    file = given(row, fields={"instruction": "input"})
    assert load_demonstrations(file, 0) == [Demonstration(Prompt("row-000000", "q", input=""), "a")]


def test_a_mapped_column_that_is_missing_is_a_problem(given):
    with pytest.raises(DataError, match="the row has no `asks`") as error:
        load_prompts(given({"ask": "q"}, fields={"instruction": "asks"}), 0, table="unlabeled")
    assert error.value.mend.endswith("--set data.unlabeled.fields.instruction=ask")


def test_an_unknown_name_in_fields_is_named(given):
    with pytest.raises(ConfigError) as error:
        load_prompts(given({"instruction": "q"}, fields={"instructions": "x"}), 0)
    assert "did you mean `instruction`" in error.value.mend


def test_empty_outputs_are_left_out_and_told(given):
    told = []
    rows = {"instruction": "a", "output": "x"}, {"instruction": "b", "output": " \n"}
    assert len(load_demonstrations(given(*rows), 0, warn=told.append)) == 1
    assert "the output is empty: left out" in told[0]


def test_a_row_that_is_odd_in_two_ways_is_one_row(given):
    rows = {"instruction": "q", "output": "a", "generator": "m"}, {"instruction": "q", "output": "a"}
    report = check_file(given(*rows), "outputs")
    assert (report.rows, report.good_rows, report.num_warnings) == (2, 1, 1)


def test_a_row_that_gives_a_key_twice_is_left_out_and_told(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "a", "output": "x"}\n{"instruction": "b", "output": "x", "output": "y"}\n')
    told = []
    assert [row.prompt.instruction for row in load_demonstrations(DataFile(path=str(path)), 0, warn=told.append)] == [
        "a"
    ]
    assert "gives output twice" in told[0]


def test_a_file_of_which_nothing_is_left_is_an_error(given):
    with pytest.raises(DataError, match="none of its 1 rows can be used") as error:
        load_demonstrations(given({"instruction": "b", "output": ""}), 0)
    assert "the output is empty" in error.value.found


def test_samples_outputs_and_annotations(given):
    prompt = Prompt("row-000000", "q")
    assert load_samples(given({"instruction": "q", "outputs": ["a", "", "a"]})) == [SampleSet(prompt, ("a", "", "a"))]
    assert load_outputs(given({"instruction": "q", "output": "", "generator": "m"})) == [ModelOutput(prompt, "", "m")]
    row = {"instruction": "q", "output_1": "x", "output_2": "y", "preference": 0, "generator_2": "m"}
    assert load_annotations(given(row)) == [Annotation(prompt, "x", "y", 1.5, "", "m", "")]


def test_what_we_wrote_ourselves_is_read_as_what_it_was(tmp_path):
    prompt = Prompt("p", "q", "i", "ref", {"subset": "s", "messages": [user("q")]})
    path = tmp_path / "rows.jsonl"
    for rows, load in (
        ([prompt], load_prompts),
        ([Demonstration(prompt, "a")], load_demonstrations),
        ([PreferencePair(prompt, "a", "b", 0.5, {"annotator": "x"})], load_preferences),
        ([Sample("p", 0, "a", [1], "stop", -1.0)], lambda file, _: load_samples(file)),
    ):
        write_jsonl(path, rows)
        assert load(DataFile(path=str(path)), 0) == rows


DEEP = json.loads("[" * 40 + "]" * 40)


@pytest.mark.parametrize(
    "meta", [{"x": DEEP}, {"x": "\ud800"}, {"messages": "hello"}, {"messages": [{"role": "tool"}]}, "text"]
)
def test_meta_that_is_not_ours_is_refused_within_a_prompt_and_let_be_beside_one(given, meta):
    prompt = {"prompt_id": "p", "instruction": "q", "meta": meta}
    with pytest.raises(DataError, match=r"`prompt\.meta` is not one that we could have written"):
        load_preferences(given({"prompt": prompt, "chosen": "a", "rejected": "b"}), 0)
    assert load_prompts(given(prompt), 0) == [Prompt("p", "q")]


@pytest.mark.parametrize("change", [{"token_ids": ["1"]}, {"draw": "0"}, {"logprob": None}, {"text": None}])
def test_a_sample_of_ours_has_the_types_of_ours(given, change):
    row = {"prompt_id": "p", "draw": 0, "text": "a", "token_ids": [1], "finish_reason": "stop", "logprob": -1.0}
    assert load_samples(given(row)) == [Sample(**row)]
    with pytest.raises(DataError, match="1 of 1 rows are not samples"):
        load_samples(given({**row, **change}))


@pytest.mark.parametrize("name", ["trian", "TEST", "test ", "", None, 3])
def test_slips_in_split_names_are_told(given, name):
    report = check_file(given({"instruction": "q", "split": name}), "prompts")
    assert len(report.problems) == 1


@pytest.mark.parametrize("name", ["train_sft", "test-hard", "fold7", "train2", "koala"])
def test_other_split_names_are_the_users_own(given, name):
    assert check_file(given({"instruction": "q", "split": name}), "prompts").good_rows == 1


def test_check_shows_rows_as_we_understand_them(given):
    report = check_file(given({"prompt": "a"}, {"prompt": "b"}), "prompts", show=1)
    assert [row["instruction"] for row in report.sample] == ["a"]
    assert report.rows == 2


def test_ifevals_demands_are_kept_without_the_arguments_that_are_null(given):
    """As the hub's parquet has them: every argument in every row, and whole numbers as floats."""
    kwargs = [{"num_words": None, "keywords": None}, {"num_words": 300.0, "keywords": None, "relation": "at least"}]
    ids = ["punctuation:no_comma", "length_constraints:number_words"]
    row = {"key": 1, "prompt": "Write.", "instruction_id_list": ids, "kwargs": kwargs}
    (prompt,) = load_prompts(given(row), 0)
    assert prompt.meta["demands"] == [{"id": ids[0]}, {"id": ids[1], "num_words": 300, "relation": "at least"}]
    for broken in ({"kwargs": kwargs[:1]}, {"kwargs": None}, {"kwargs": ["a", "b"]}, {"instruction_id_list": "a"}):
        with pytest.raises(DataError):
            load_prompts(given(row | broken), 0)
