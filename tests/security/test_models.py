"""Models from strangers: whatever their files say, no code of theirs runs, and the refusal is a ModelError (exit 5)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from rlp_engine.config.sections.model import ModelConfig, ScratchConfig
from rlp_engine.errors import ModelError
from rlp_engine.models.loading import load_config
from rlp_engine.models.policy import load_policy, save_policy
from rlp_engine.models.scratch import build_scratch
from rlp_engine.stages.export import export_model

MODEL = ModelConfig()


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    scratch = ScratchConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, tokenizer="word")
    folder = tmp_path_factory.mktemp("saved") / "policy"
    save_policy(build_scratch(ModelConfig(init="scratch", scratch=scratch), ["one two three"], seed=1), folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "policy")


@pytest.fixture
def marker(tmp_path: Path):
    path = tmp_path / "it_ran"
    yield path
    assert not path.exists(), "code of the model ran"


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder: Path | str) -> ModelError:
    with pytest.raises(ModelError) as error:
        load_policy(folder, MODEL)
    assert error.value.exit_code == 5
    return error.value


def test_the_payload_of_these_tests_does_run_when_a_pickle_is_trusted(tmp_path):
    torch.save({"weight": Payload(tmp_path / "it_ran")}, tmp_path / "x.bin")
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert (tmp_path / "it_ran").exists()


def test_a_pickle_in_place_of_the_weights_is_refused(folder, marker):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload(marker)}, folder / "pytorch_model.bin")
    assert refused(folder).found == "pytorch_model.bin"
    torch.save({}, folder / "decoy.safetensors")
    assert "no file named model.safetensors" in refused(folder).found


@pytest.mark.parametrize("name", ["evil.bin", "../policy/evil.bin", "/dev/zero", 3])
def test_an_index_that_leads_to_a_pickle_or_out_of_the_folder_is_refused(folder, marker, name):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    torch.save({"weight": Payload(marker)}, folder / "evil.bin")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(folder).found == str(name)


def test_an_adapter_is_refused_before_its_base_and_its_pickle_are_looked_at(folder, marker):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))
    torch.save({"weight": Payload(marker)}, folder / "adapter_model.bin")
    assert refused(folder).what == "this is an adapter, not a whole model"


def test_a_malicious_pickle_of_the_hub_is_read_as_weights_only_and_refused(saved, tmp_path, marker, monkeypatch):
    """As the hub's own cache holds it, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0" * 40
    snapshot = tmp_path / "hub" / "models--some--one" / "snapshots" / commit
    shutil.copytree(saved, snapshot)
    (snapshot / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Payload(marker)}, snapshot / "pytorch_model.bin")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    assert "Weights only load failed" in refused("some/one").found


CODE = "from pathlib import Path\nPath(MARKER).mkdir()\nclass Odd: pass\n"


@pytest.mark.parametrize("part", ["config", "tokenizer"])
def test_code_beside_a_model_does_not_run_nor_is_anybody_asked(folder, marker, tmp_path, monkeypatch, part):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    (folder / "odd.py").write_text(CODE.replace("MARKER", repr(str(marker))))
    if part == "config":
        auto_map = {"AutoConfig": "odd.Odd", "AutoModelForCausalLM": "odd.Odd"}
        change(folder / "config.json", model_type="odd", auto_map=auto_map)
        with pytest.raises(ModelError, match="cannot be loaded"):
            export_model(folder, tmp_path / "out", kind="policy")
    else:
        auto_map = {"AutoTokenizer": ["odd.Odd", None]}
        change(folder / "tokenizer_config.json", tokenizer_class="Odd", auto_map=auto_map)
        with pytest.raises(ModelError, match="tokenizer cannot be loaded"):
            export_model(folder, tmp_path / "out", kind="policy", dtype="bfloat16")
    assert "trust_remote_code" in refused(folder).mend
    assert [path.name for path in tmp_path.glob("*out*")] == []


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_config_cannot_have_a_kernel_fetched(folder, tmp_path, key):
    change(folder / "config.json", **{key: "some-one/kernel"})
    error = refused(folder)
    assert error.found == "attn_implementation = 'some-one/kernel'"
    with pytest.raises(ModelError, match="fetched and run"):
        export_model(folder, tmp_path / "out", kind="policy")
    assert load_config(folder, ModelConfig(trust_remote_code=True))._attn_implementation == "some-one/kernel"


def test_a_device_a_pipe_or_a_huge_file_in_a_model_folder_is_not_read(folder):
    config = folder / "config.json"
    config.unlink()
    config.symlink_to("/dev/zero")
    assert refused(folder).where == str(config)
    config.unlink()
    os.mkfifo(config)
    assert "is no file" in refused(folder).what
    config.unlink()
    with config.open("wb") as file:
        file.truncate(1 << 40)  # sparse: takes no room
    assert "too large" in refused(folder).what


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_json_nested_without_end_is_an_error_with_words(folder, name):
    (folder / name).write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    assert refused(folder).mend
