import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlp_engine.data.strict_json import StrictParser

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(JSON_VALUES)
@settings(max_examples=100, deadline=None)
def test_sound_json_parses_as_pythons_parser_does(value):
    parsed = StrictParser().parse(json.dumps(value))
    assert (parsed.value, parsed.faults, parsed.repeated) == (value, (), ())


@given(st.lists(JSON_VALUES, max_size=5), st.sampled_from([None, 1]))
@settings(max_examples=100, deadline=None)
def test_elements_are_those_of_the_array(values, indent):
    parsed = [element for element, _ in StrictParser().elements(iter(json.dumps(values, indent=indent)))]
    assert [element.value for element in parsed] == values
    assert not any(element.faults for element in parsed)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": [1, -Infinity]}', "-Infinity is not JSON"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        ('{"a": ' + "9" * 5000 + "}", "not a number we can hold"),
        ("[" * 60_000, "nested too deeply"),
        ('{"a":' * 60_000, "nested too deeply"),
        ('{"a": 1} {"a": 2}', "more text after the row"),
        ('{"a": "b', "cut short"),
        ('{"a": 1', "cut short"),
        ("{'a': 1}", "Expecting property name"),
        ("", "cut short"),
    ],
)
def test_what_is_no_json_is_told(text, fault):
    [found] = StrictParser().parse(text).faults
    assert fault in found


def test_a_key_given_twice_is_told_at_any_depth():
    assert StrictParser().parse('{"a": 1, "b": {"c": 1, "c": 2}, "a": 3}').repeated == ("c", "a")


def test_faults_belong_to_their_own_row():
    parsed = [element for element, _ in StrictParser().elements(['[{"a": NaN}, {"a": 1}, {"b": 1, "b": 2}, {}]'])]
    assert [bool(element.faults) for element in parsed] == [True, False, False, False]
    assert [element.repeated for element in parsed] == [(), (), ("b",), ()]


def test_elements_know_their_lines():
    text = '[\n {"a": "x\\n"},\n\n {"a":\n 2}, 3\n]\n'
    assert [line for _, line in StrictParser().elements([text])] == [2, 4, 5]


@pytest.mark.parametrize(
    ("text", "good"),
    [("[1, 2", 2), ("[1, 2,", 2), ("[1 2]", 1), ("[1, 2,]", 2), ("[1] 2", 1), ("[", 0), ("[1, {]", 1)],
)
def test_a_broken_array_ends_with_one_fatal_fault(text, good):
    parsed = [element for element, _ in StrictParser().elements([text])]
    assert [bool(element.faults) for element in parsed] == [False] * good + [True]
    assert parsed[-1].fatal


def test_a_million_keys_take_no_time():
    text = "{" + ",".join(f'"{number % 50000}": 0' for number in range(200_000)) + "}"
    assert len(StrictParser().parse(text).repeated) == 50_000
