"""Which prompts a policy is asked, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Regex, normalizers
from transformers import LlamaConfig, LlamaModel

from rlp_engine.config.sections.generation import GenerationConfig
from rlp_engine.config.sections.model import ScratchConfig
from rlp_engine.data.records import Prompt
from rlp_engine.data.rows import write_jsonl
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import CorruptArtifactError, DataError
from rlp_engine.models.scratch import build_tokenizer
from rlp_engine.stages.answering import Answerer, prompt_room, short_enough
from rlp_engine.stages.common import shard_files
from rlp_engine.stages.sharding import PromptsInOrder

INVISIBLE = Prompt("odd", "\u200b")  # a zero-width space


@pytest.fixture
def template() -> PromptTemplate:
    """Words; as many published tokenizers do, it drops control characters."""
    tokenizer = build_tokenizer(ScratchConfig(tokenizer="word"), ["one two three"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("\u200b"), "")
    return PromptTemplate("plain", tokenizer)


def told(prompts: list[Prompt], template: PromptTemplate, limit: int | None) -> tuple[list[Prompt], list[str]]:
    warnings: list[str] = []
    context = SimpleNamespace(reporter=SimpleNamespace(warn=warnings.append))
    return short_enough(context, prompts, template, limit), warnings


def test_long_prompts_and_prompts_without_a_token_are_left_out_and_counted(template: PromptTemplate):
    fits, long = Prompt("fits", "one two"), Prompt("long", "one two three")
    kept, warnings = told([INVISIBLE, long, fits], template, 2)
    assert kept == [fits]
    assert warnings == [
        "1 of 3 prompts are longer than generation.max_prompt_tokens = 2 and are left out",
        "1 of 3 prompts have no token and are left out",
    ]
    assert told([fits], template, 2) == ([fits], [])


def test_no_prompt_left_is_an_error_that_tells_why(template: PromptTemplate):
    with pytest.raises(DataError, match="none of 2 prompts has between 1 and 1 tokens") as error:
        told([INVISIBLE, Prompt("long", "one two")], template, 1)
    assert error.value.found == "1 longer ones, 1 without a token"


def test_judged_instructions_may_be_long_but_not_without_a_token(template: PromptTemplate):
    long = Prompt("long", "one two three")
    assert told([INVISIBLE, long], template, None) == ([long], ["1 of 2 prompts have no token and are left out"])
    with pytest.raises(DataError, match="none of 1 prompts has a token") as error:
        told([INVISIBLE], template, None)
    assert error.value.mend


@pytest.mark.parametrize(("positions", "kept"), [(10, 6), (8, 4), (4, 6), (3, 6)])
def test_a_prompt_leaves_the_answer_its_room_in_the_model(positions: int, kept: int):
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=positions,
    )  # fmt: skip
    assert prompt_room(LlamaModel(config), GenerationConfig(max_prompt_tokens=6, max_new_tokens=4)) == kept


def test_shards_stay_in_order_when_their_numbers_get_longer(tmp_path: Path):
    names = ["shard_00002.jsonl", "shard_99999.jsonl", "shard_100000.jsonl"]
    for name in reversed(names):
        (tmp_path / name).touch()
    (tmp_path / ".shard_00003.jsonl.tmp").touch()
    assert [path.name for path in shard_files(tmp_path)] == names


def test_the_prompts_of_a_shard_are_found_in_the_files_order(tmp_path: Path):
    write_jsonl(tmp_path / "unlabeled.jsonl", [Prompt(f"p{i}", "?") for i in range(6)])
    prompts = PromptsInOrder(tmp_path / "unlabeled.jsonl")
    assert list(prompts.find(["p1", "p1", "p2"])) == ["p1", "p2"]  # p0 was left out
    assert list(prompts.find(["p5"])) == ["p5"]
    with pytest.raises(CorruptArtifactError, match="samples answer prompt 'p3', which unlabeled"):
        prompts.find(["p3"])


def test_a_prompt_without_a_token_cannot_be_answered_or_rewarded(template: PromptTemplate):
    answerer = Answerer(None, template, None, rows=1, max_prompt_tokens=4, key=())
    with pytest.raises(DataError) as error:
        answerer.encode(INVISIBLE)
    assert "odd" in error.value.where
    with pytest.raises(DataError) as error:
        template.encode_scored(INVISIBLE, "", 4)
    assert "odd" in error.value.where
    assert len(template.encode_scored(INVISIBLE, "one", 4)) == 1
