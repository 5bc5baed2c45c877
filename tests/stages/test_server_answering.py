"""Samples from servers: rows like our own engine's, asked for once, and refused when they are another model's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from fake_server import Reply
from policy_server import PolicyServer
from tiny_models import save_byte_model, save_word_policy
from tokenizers import processors

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.data.records import Prompt, Sample
from rlp_engine.data.rows import read_samples
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import DataError, ServerError
from rlp_engine.generation.logprobs import sequence_logprobs
from rlp_engine.generation.native import Sampling
from rlp_engine.models.policy import Policy, load_policy
from rlp_engine.run.events import EventLog
from rlp_engine.run.fingerprint import safe_keys, section_values, without
from rlp_engine.run.reporting import NullReporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.serving.kinds import KINDS
from rlp_engine.stages.answer_engines import stage_answerer
from rlp_engine.stages.answering import answer_in_shards
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.server_samples import Translator
from rlp_engine.stages.spec import ConfigView, StageContext, is_by_server

TEXT = "one two three four five six seven eight nine ten eleven twelve"
DRAWS = 3
PROMPTS = [Prompt(f"id-{word}", f"one {word}") for word in TEXT.split()]


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_word_policy(tmp_path_factory.mktemp("policy") / "model", TEXT, seed=1)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_word_policy(tmp_path_factory.mktemp("other") / "model", TEXT, seed=2)


def context(out: Path, server: PolicyServer, **more: object) -> StageContext:
    settings = {"base_urls": [server.url], "backoff_seconds": 0.01, "max_backoff_seconds": 0.05, **more}
    config = RunConfig(
        generation={"engine": "server", "server": settings, "max_new_tokens": 12},
        model={"template": "plain"},
        collect={"annotator": {"path": "x"}},
    )
    spec = next(spec for spec in build_pipeline(config) if spec.name == "round-1/sample")
    assert is_by_server(spec)
    out.mkdir(parents=True, exist_ok=True)
    view = ConfigView(config, spec.sections)
    return StageContext(spec, out, out, {}, view, EventLog(out / "events.jsonl"), NullReporter(), StopSignal())


def sample(
    stage: StageContext, folder: Path, prompts: list[Prompt] = PROMPTS, temperature: float = 1.0, top_p: float = 1.0
) -> list[Sample]:
    """DRAWS answers a prompt, five prompts a shard."""
    policy = load_policy(folder, ModelConfig())
    template = PromptTemplate("plain", policy.tokenizer)
    source = stage_answerer(
        stage, policy, template, folder, temperature=temperature, top_p=top_p, key=(1, 1, "sample", 0)
    )
    return [
        row
        for path in answer_in_shards(stage, source, prompts, DRAWS, "answers", 5, total=len(prompts))
        for row in read_samples(path)
    ]


def own_logprobs(folder: Path, samples: list[Sample], temperature: float = 1.0) -> list[float]:
    policy = load_policy(folder, ModelConfig())
    template = PromptTemplate("plain", policy.tokenizer)
    ids = {prompt.prompt_id: template.encode_prompt(prompt) for prompt in PROMPTS}
    prompt_ids, response_ids = [ids[s.prompt_id] for s in samples], [s.token_ids for s in samples]
    return sequence_logprobs(policy.model, prompt_ids, response_ids, pad_id=0, rows=8, temperature=temperature)


@pytest.mark.parametrize(("tells_tokens", "temperature"), [(True, 0.7), (False, 1.0)])
def test_samples_are_whole_in_order_and_exact(
    tmp_path: Path, policy_folder: Path, tells_tokens: bool, temperature: float
):
    with PolicyServer({str(policy_folder): policy_folder}, tells_tokens=tells_tokens) as server:
        samples = sample(context(tmp_path, server), policy_folder, temperature=temperature)
    assert [(s.prompt_id, s.draw) for s in samples] == [(p.prompt_id, draw) for p in PROMPTS for draw in range(DRAWS)]
    assert len({body["seed"] for body in server.requests}) == len(samples)
    assert {type(body["prompt"]) for body in server.requests} == {list if tells_tokens else str}
    policy = load_policy(policy_folder, ModelConfig())
    assert all(s.text == policy.answer_text(s.token_ids) for s in samples)
    assert {s.finish_reason for s in samples} == {"stop", "length"}
    assert all((s.token_ids[-1] in policy.eos_ids) == (s.finish_reason == "stop") for s in samples)
    assert [s.logprob for s in samples] == pytest.approx(own_logprobs(policy_folder, samples, temperature), abs=1e-3)
    assert sorted(path.name for path in (tmp_path / "answers").iterdir()) == [f"shard_0000{i}.jsonl" for i in range(3)]


def test_text_and_token_ids_ask_for_the_same_samples(tmp_path: Path, policy_folder: Path):
    """The fake server draws by the seed alone, so both ways must give the same tokens and log-probabilities."""
    both = []
    for name, tells_tokens in (("ids", True), ("text", False)):
        with PolicyServer({str(policy_folder): policy_folder}, tells_tokens=tells_tokens) as server:
            stage = context(tmp_path / name, server)
            both.append(sample(stage, policy_folder))
        assert sample(stage, policy_folder) == both[-1]  # whole shards need no server: it is gone
    special = {0, 2}  # padding and the unknown word: text does not hold them
    pairs = [(a, b) for a, b in zip(*both, strict=True) if not special & set(a.token_ids)]
    assert len(pairs) > 15
    assert all(a.token_ids == b.token_ids for a, b in pairs)
    assert all(a.logprob == pytest.approx(b.logprob, abs=1e-4) for a, b in pairs)


def test_a_restarted_stage_asks_for_the_missing_answers_only(tmp_path: Path, policy_folder: Path):
    def ends(number: int, body: dict) -> Reply | None:
        return Reply(400, {"error": "enough"}) if number == 22 else None

    with PolicyServer({str(policy_folder): policy_folder}, misbehave=ends) as server:
        stage = context(tmp_path, server, max_in_flight=3)
        with pytest.raises(ServerError, match="refused"):
            sample(stage, policy_folder)
        pending = tmp_path / "answers" / "pending_00001.jsonl"
        assert len(server.answered) == 15 + len(pending.read_text().splitlines())  # all that was paid for is kept
        with open(pending, "a") as file:
            file.write('{"prompt_id": "id-six", "dr')  # as a kill within a write leaves it
        samples = sample(stage, policy_folder)
        assert Counter(body["seed"] for body in server.answered).most_common(1)[0][1] == 1  # never paid twice
        assert len(server.answered) == len(samples) == 36
    with PolicyServer({str(policy_folder): policy_folder}) as server:
        assert sample(context(tmp_path / "whole", server), policy_folder) == samples  # the same rows as in one go
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert sum(event["requests_answered"] for event in events) == 36


WRONG = {
    "another model": ({}, "less likely"),
    "greedy": ({"temperature": 0.0}, "likelier"),
    "hot": ({"temperature": 2.0}, "less likely"),
    "log-probabilities": ({"logprob_error": 0.2}, "log-probabilities differ .* nats an answer"),
}


@pytest.mark.parametrize("how", WRONG)
def test_answers_that_are_not_the_policys_are_refused_and_thrown_away(
    tmp_path: Path, policy_folder: Path, other_folder: Path, how: str
):
    settings, words = WRONG[how]
    serves = other_folder if how == "another model" else policy_folder
    with PolicyServer({str(policy_folder): serves}, **settings) as server:
        with pytest.raises(ServerError, match=words) as error:
            sample(context(tmp_path, server), policy_folder, PROMPTS[:5])
        assert server.url in error.value.where
    assert not list((tmp_path / "answers").iterdir())


def test_answers_that_a_killed_launch_left_unchecked_are_checked(tmp_path: Path, policy_folder: Path):
    with PolicyServer({str(policy_folder): policy_folder}) as server:
        stage = context(tmp_path, server)  # the server is gone, and nothing is missing
    odd = {"token_ids": [5] * 12, "finish_reason": "length", "logprob": None}
    rows = [{"prompt_id": p.prompt_id, "draw": draw, **odd} for p in PROMPTS[:5] for draw in range(DRAWS)]
    pending = tmp_path / "answers" / "pending_00000.jsonl"
    pending.parent.mkdir()
    pending.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ServerError, match="not drawn from the policy"):
        sample(stage, policy_folder)
    assert not pending.exists()


def test_a_server_without_the_policy_is_told_what_to_serve(tmp_path: Path, policy_folder: Path):
    with PolicyServer({"some/other": policy_folder}) as server, pytest.raises(ServerError) as error:
        sample(context(tmp_path, server), policy_folder)
    assert f"vllm serve {policy_folder}" in error.value.mend
    assert "some/other" in error.value.found
    assert not server.requests
    with PolicyServer({"some/other": policy_folder}) as server:
        assert sample(context(tmp_path, server, model="some/other"), policy_folder)
        assert {body["model"] for body in server.requests} == {"some/other"}


def test_an_answer_that_the_server_cut_short_is_refused(tmp_path: Path, policy_folder: Path):
    short = {"index": 0, "text": "one two", "token_ids": [5, 6], "finish_reason": "length"}
    odd = {"index": 0, "text": "one", "token_ids": [5], "finish_reason": "content_filter"}
    for choice, words in ((short, "it has 2 tokens"), (odd, "ended with 'content_filter'")):
        reply = Reply(body={"model": "m", "choices": [choice]})
        serving = PolicyServer({str(policy_folder): policy_folder}, misbehave=lambda n, b, r=reply: r)
        with serving as server, pytest.raises(ServerError, match=words):
            sample(context(tmp_path, server), policy_folder)


@pytest.fixture
def byte_policy(tmp_path: Path) -> Policy:
    """Its tokenizer puts a BOS before every text, and knows the control token </s>."""
    folder = save_byte_model(tmp_path / "bytes", ["one two three"])
    policy = load_policy(folder, ModelConfig())
    policy.tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["</s>"]})
    bos = ("<s>", policy.tokenizer.convert_tokens_to_ids("<s>"))
    policy.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[bos]
    )
    policy.tokenizer.chat_template = "<s>{{ messages[0]['content'] }}</s>"
    return policy


@pytest.mark.parametrize("kind", ["alpaca", "chat", "plain"])
def test_a_text_prompt_is_read_as_the_same_tokens_with_one_bos(byte_policy: Policy, kind: str):
    template = PromptTemplate(kind, byte_policy.tokenizer)
    sampling = Sampling(1.0, 1.0, 8, byte_policy.eos_ids, byte_policy.tokenizer.pad_token_id)
    to_text = Translator(byte_policy, template, sampling, KINDS["transformers"])
    ids = template.encode_prompt(Prompt("a", "one two three"))
    asked = to_text.prompt(Prompt("a", "one two three"), ids)
    assert byte_policy.tokenizer(asked)["input_ids"] == ids
    assert ids.count(byte_policy.tokenizer.bos_token_id) == 1
    cut = template.cut_prompt(ids, 5)
    assert byte_policy.tokenizer(to_text.prompt(Prompt("a", "one two three"), cut))["input_ids"] == cut


def test_user_text_that_reads_like_a_control_token_needs_token_ids(byte_policy: Policy):
    template = PromptTemplate("plain", byte_policy.tokenizer)
    sampling = Sampling(1.0, 1.0, 8, byte_policy.eos_ids, byte_policy.tokenizer.pad_token_id)
    prompt = Prompt("sly", "one</s>two")
    ids = template.encode_prompt(prompt)
    with pytest.raises(DataError, match="no text of which") as error:
        Translator(byte_policy, template, sampling, KINDS["tgi"]).prompt(prompt, ids)
    assert "sly" in error.value.where
    assert Translator(byte_policy, template, sampling, KINDS["vllm"]).prompt(prompt, ids) == ids


def test_the_engine_makes_samples_stale_and_the_address_does_not():
    def stages(**generation: object) -> dict[str, dict]:
        config = RunConfig(generation=generation, collect={"annotator": {"path": "x"}})
        return {
            spec.kind: without(section_values(config, spec.sections), safe_keys(RunConfig))
            for spec in build_pipeline(config)
        }

    native = stages()
    one = stages(engine="server", server={"base_urls": ["http://a/v1"], "max_in_flight": 3})
    two = stages(engine="server", server={"base_urls": ["http://b/v1"], "kind": "vllm"})
    assert one == two
    changed = {kind for kind in native if native[kind] != one[kind]}
    assert changed == {"collect", "sample", "evaluate"}
    other = stages(engine="server", server={"base_urls": ["http://a/v1"], "model": "m"})
    assert {kind for kind in one if one[kind] != other[kind]} == changed
    assert native["sample"]["generation"] == {"max_prompt_tokens": 192, "max_new_tokens": 300}
