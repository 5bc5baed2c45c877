import json

import numpy as np
import pytest

from rlp_engine.run.events import EventLog, MetricsLog, parse_json
from rlp_engine.run.warned import Warned, warned


def test_events_keep_their_order_and_what_was_bound(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", launch=3)
    log.append("started")
    log.bound(stage="sft").append("finished", seconds=1.5)
    first, second = log.read()
    assert (first["event"], first["launch"]) == ("started", 3)
    assert second | {"time": ""} == {"time": "", "event": "finished", "launch": 3, "stage": "sft", "seconds": 1.5}
    assert first["time"] <= second["time"]


def test_a_torn_last_line_costs_that_line_only(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append("one")
    log.append("two")
    path.write_bytes(path.read_bytes()[:-9])
    assert [event["event"] for event in log.read()] == ["one"]
    log.append("three")
    assert [event["event"] for event in log.read()] == ["one", "three"]


def test_text_of_any_language_stays_on_its_line(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("warned", message="größer\n\u2028 als 東京")
    assert len((tmp_path / "events.jsonl").read_bytes().splitlines()) == 1
    assert log.read()[0]["message"] == "größer\n\u2028 als 東京"


def test_metrics_take_numbers_of_numpy_and_write_nan_as_null(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(1, {"loss": np.float32(0.5), "count": np.int64(3), "kl": float("nan"), "ratio": np.float64("inf")})
    assert log.read() == [{"step": 1, "loss": 0.5, "count": 3, "kl": None, "ratio": None}]


def test_cutting_drops_later_steps_and_a_torn_line(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3, 4):
        log.append(step, {"loss": step / 10})
    with open(log.path, "ab") as file:
        file.write(b'{"step": 5, "lo')
    assert log.cut_to(2) == 3
    assert [row["step"] for row in log.read()] == [1, 2]
    log.append(3, {"loss": 0.3})
    assert [row["step"] for row in log.read()] == [1, 2, 3]
    assert all(json.loads(line) for line in log.path.read_text().splitlines())


def test_a_last_line_that_lacks_only_its_end_counts(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(1, {"loss": 0.5})
    log.path.write_bytes(log.path.read_bytes()[:-1])
    assert log.cut_to(1) == 0
    log.append(2, {"loss": 0.4})
    assert [row["step"] for row in log.read()] == [1, 2]


def test_cutting_without_a_file_makes_none(tmp_path):
    assert MetricsLog(tmp_path / "metrics.jsonl").cut_to(10) == 0
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("text", [b"[" * 50_000, "[" * 40 + "]" * 40, '{"half":', b"\xff", "1" * 5000])
def test_json_that_nothing_of_ours_wrote_is_one_kind_of_error(text):
    with pytest.raises(ValueError, match=r"nested|Expecting|utf-8|digits"):
        parse_json(text)


def test_numbers_that_no_float_holds_are_none():
    assert parse_json(f'[NaN, -Infinity, 1e999, 1{"0" * 400}, {2**63}, true, "x"]') == [*[None] * 4, 2**63, True, "x"]


def test_warnings_count_since_the_stage_last_began_and_once_though_a_step_was_done_twice(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for stage, will, steps in [("ppo", "run", [3]), ("ppo", "start again", [5, 6]), ("ppo", "continue", [6, 9])]:
        log.append("started", stage=stage, will=will)
        for step in steps:
            log.append("warned", stage=stage, step=step, message=f"kl at {step}")
    log.append("warned", message="of the whole run")
    assert warned(log.path) == {"ppo": [Warned(step, f"kl at {step}") for step in (5, 6, 9)]}
