"""The whole way against a real server, `transformers serve`, with a tiny local policy."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import save_word_policy
from transformers_server import transformers_server

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.generation import GenerationConfig
from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.data.records import Prompt
from rlp_engine.data.rows import read_samples
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.models.policy import Policy, load_policy
from rlp_engine.run.events import EventLog
from rlp_engine.run.reporting import NullReporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.serving.discovery import find_servers
from rlp_engine.stages.answer_engines import stage_answerer
from rlp_engine.stages.answering import answer_in_shards, answerer
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.spec import ConfigView, StageContext

TEXT = "one two three four five six seven eight nine ten eleven twelve"
PROMPTS = [Prompt(word, f"one {word}") for word in TEXT.split()]
LIMITS = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_word_policy(tmp_path_factory.mktemp("policy") / "model", TEXT, seed=1)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory):
    with transformers_server(tmp_path_factory.mktemp("serve") / "log") as address:
        yield address


def asked(policy: Policy, folder: Path, url: str, out: Path, temperature: float, draws: int) -> list:
    config = RunConfig(
        generation={"engine": "server", "server": {"base_urls": [url], "max_in_flight": 4}, **LIMITS},
        collect={"annotator": {"path": "x"}},
    )
    spec = next(spec for spec in build_pipeline(config) if spec.kind == "sample")
    view = ConfigView(config, spec.sections)
    stage = StageContext(spec, out, out, {}, view, EventLog(out / "events.jsonl"), NullReporter(), StopSignal())
    template = PromptTemplate("plain", policy.tokenizer)
    source = stage_answerer(stage, policy, template, folder, temperature=temperature, top_p=1.0, key=("seed",))
    return [
        row
        for path in answer_in_shards(stage, source, PROMPTS, draws, "answers", 99, total=len(PROMPTS))
        for row in read_samples(path)
    ]


def test_greedy_answers_equal_our_own(folder: Path, url: str, tmp_path: Path):
    policy = load_policy(folder, ModelConfig())
    served = asked(policy, folder, url, tmp_path, 0.0, 1)
    native = answerer(
        policy,
        PromptTemplate("plain", policy.tokenizer),
        GenerationConfig(**LIMITS),
        temperature=0.0,
        top_p=1.0,
        key=("seed",),
    ).answer(PROMPTS, 1)
    assert len({sample.text for sample in native}) > 3
    assert [sample.text for sample in served] == [sample.text for sample in native]
    for mine, theirs in zip(native, served, strict=True):
        assert theirs.token_ids == mine.token_ids
        assert theirs.logprob == pytest.approx(mine.logprob, abs=1e-4)


def test_it_is_recognised_and_really_samples(folder: Path, url: str, tmp_path: Path):
    """Without being told to it would take the likeliest token, and the check of the answers would refuse them."""
    policy = load_policy(folder, ModelConfig())
    server = RunConfig(generation={"engine": "server", "server": {"base_urls": [url]}}).generation.server
    assert find_servers(server, str(folder), stop=StopSignal()).kind.name == "transformers"
    samples = asked(policy, folder, url, tmp_path, 1.0, 4)
    assert len(samples) == 48
    assert len({sample.text for sample in samples}) > 24
