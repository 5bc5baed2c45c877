"""What a config lets strangers do is told before it happens: on the screen, in the plan, in the log, on record."""

from __future__ import annotations

import json

import pytest
import small_pipeline
from cli_process import run_rlp

from rlp_engine.config.notices import notices
from rlp_engine.config.schema import RunConfig
from rlp_engine.run.events import EventLog
from rlp_engine.stages.runner import execute
from rlp_engine.stages.selection import Selection

TRUSTED = "model.trust_remote_code is on: Python code that comes with evil/model (model.path) runs on this machine"


def server(url, key="KEY"):
    return {"engine": "server", "server": {"base_urls": [url], "api_key_env": key}}


def test_a_careful_config_has_nothing_to_tell():
    assert notices(RunConfig()) == []


def test_trusted_code_names_every_model_that_may_bring_some():
    config = RunConfig(
        model={"path": "evil/model", "trust_remote_code": True},
        evaluate={"judge": {"path": "evil/judge"}},
        synthesize={"equivalence": {"model": "read/without-its-code"}},
    )
    (notice,) = notices(config, {"prepare", "sft"})
    assert notice.is_warning
    assert "evil/model (model.path), evil/judge (evaluate.judge.path) runs on this machine" in notice.text
    assert notices(config, {"prepare"}) == []


@pytest.mark.parametrize(
    ("url", "key", "is_open"),
    [
        ("https://api.example.com/v1", "KEY", False),
        ("http://api.example.com/v1", "KEY", True),
        ("http://api.example.com/v1", "", False),
        ("http://8.8.8.8:8000/v1", "KEY", True),
        ("http://127.0.0.1:8000/v1", "KEY", False),
        ("http://10.1.2.3:8000/v1", "KEY", False),
        ("http://node7:8000/v1", "KEY", False),
    ],
)
def test_a_server_is_named_with_the_key_it_gets_and_a_key_in_the_clear_is_a_warning(url, key, is_open):
    config = RunConfig(generation=server(url, key))
    told = notices(config, {"sample"})
    assert [notice.is_warning for notice in told] == [False, True][: 1 + is_open]
    assert url in told[0].text
    assert ("the key that is in KEY" in told[0].text) is bool(key)
    assert notices(config, {"sft", "ppo"}) == []


def test_the_judges_server_is_told_of_by_those_who_ask_it():
    config = RunConfig(evaluate={"judge": {"kind": "server"}}, judge={"server": {"base_urls": ["http://a/v1"]}})
    assert [notice.text for notice in notices(config, {"evaluate"})] == ["judge.server: http://a/v1 gets the texts"]
    assert notices(config, {"collect", "synthesize"}) == []


def test_config_show_marks_the_keys_and_says_what_they_mean():
    sets = {
        "model.trust_remote_code": True,
        "sft.ready_model": "evil/model",
        "generation.engine": "server",
        "generation.server.base_urls": ["https://evil.example/v1"],
        "generation.server.api_key_env": "KEY",
    }
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    shown = run_rlp("config", "show", "--preset", "alpacafarm", *words).stdout
    assert "\nmodel.trust_remote_code = true   (--set) (!)\n" in shown
    assert '\ngeneration.server.api_key_env = "KEY"   (--set) (!)\n' in shown
    assert shown.count(" (!)\n") == 3
    assert "evil/model (sft.ready_model) runs on this machine" in shown
    assert "generation.server: https://evil.example/v1 gets the texts, and the key that is in KEY" in shown


def test_a_run_tells_it_before_it_starts_and_keeps_a_record(tmp_path):
    said = run_rlp(
        "run", "--preset", "quickstart", tmp_path / "plan", "--set", "model.trust_remote_code=true", "--dry-run"
    )
    assert "warning: model.trust_remote_code is on" in said.stderr
    data = tmp_path / "rows.txt"
    data.write_text("a b")
    config = small_pipeline.config(model={"path": "evil/model", "trust_remote_code": True})
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    execute(run_dir, small_pipeline.pipeline(data), config, Selection(only=["prepare", "sft"]))
    assert f"warning: {TRUSTED}" in (run_dir / "logs" / "latest" / "rank_0.log").read_text()
    events = EventLog(run_dir / "events.jsonl").read()
    assert [e["event"] for e in events][:2] == ["warned", "started"]
    assert TRUSTED in events[0]["message"]
