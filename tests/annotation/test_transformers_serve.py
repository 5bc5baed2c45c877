"""A judge behind `transformers serve`: what it says is what the model says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import save_word_policy
from transformers_server import transformers_server

from rlp_engine.annotation.cache import AnswerCache
from rlp_engine.annotation.server_judge import ServerJudge
from rlp_engine.config.annotators import Annotator
from rlp_engine.config.sections.generation import GenerationConfig, ServerConfig
from rlp_engine.config.sections.judging import ServerJudgeConfig
from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.models.policy import load_policy
from rlp_engine.serving.client import ServerClient
from rlp_engine.stages.answering import answerer

TEXT = "one two three four five six seven eight nine ten eleven twelve which"
ROWS = [(Prompt(word, word), "one two", f"{word} ten") for word in TEXT.split()]


@pytest.mark.slow
def test_a_greedy_annotator_says_what_the_model_says_and_is_read_so(tmp_path: Path) -> None:
    folder = save_word_policy(tmp_path / "model", TEXT, seed=1)
    policy = load_policy(folder, ModelConfig())
    template = PromptTemplate("plain", policy.tokenizer)
    limits = GenerationConfig(max_new_tokens=1)
    own = answerer(policy, template, limits, temperature=0.0, top_p=1.0, key=("unused",))
    shown = [
        Prompt(f"{prompt.prompt_id} {order}", f"{prompt.instruction} {first} which {second}")
        for prompt, one, two in ROWS
        for order, (first, second) in enumerate([(one, two), (two, one)])
    ]
    words = [sample.text.split()[0] if sample.text.split() else "" for sample in own.answer(shown, 1)]
    labels = [word for word in dict.fromkeys(words) if word][:2]
    reading = {labels[0]: 1.0, labels[1]: 2.0}
    expected = [(reading.get(words[2 * i]), reading.get(words[2 * i + 1])) for i in range(len(ROWS))]
    expected = [(first, None if second is None else 3 - second) for first, second in expected]
    annotator = Annotator(
        name="tiny",
        endpoint="completion",
        model=str(folder),
        prompt="{instruction} {output_1} which {output_2}\n",
        max_tokens=1,
        labels=labels,
    )
    with transformers_server(tmp_path / "log") as url:
        config = ServerJudgeConfig(server=ServerConfig(base_urls=[url], kind="transformers", max_in_flight=4))
        client = ServerClient(config.server)
        judge = ServerJudge([annotator], config, seed=0, client=client, cache=AnswerCache(tmp_path / "answers"))
        assert judge.both_orders(ROWS) == expected
    assert sum(value is not None for pair in expected for value in pair) > 2
    assert judge.costs()["calls"] == 2 * len(ROWS)
    assert judge.costs()["prompt_tokens"] > 0
