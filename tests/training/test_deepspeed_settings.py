import json

import pytest
import torch

from rlp_engine.config.sections.model import DeepSpeedConfig
from rlp_engine.config.sections.training import OptimizerConfig
from rlp_engine.errors import ConfigError
from rlp_engine.training.deepspeed_settings import deepspeed_settings

OPTIMIZER = OptimizerConfig(max_grad_norm=0.5)


def settings(dtype=torch.float32, **keys):
    return deepspeed_settings(OPTIMIZER, DeepSpeedConfig(**keys), dtype)


def test_the_three_keys_become_deepspeeds_words():
    found = settings(zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu")
    assert found["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": {"device": "cpu"},
        "offload_param": {"device": "cpu"},
    }
    assert found["gradient_clipping"] == 0.5
    assert found["bf16"] == {"enabled": False}
    assert settings(torch.bfloat16)["bf16"] == {"enabled": True}


def test_a_users_file_is_taken_whole_and_what_is_auto_there_is_ours(tmp_path):
    file = tmp_path / "ds.json"
    theirs = {
        "zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": 7},
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False},
        "comms_logger": {"enabled": True},
    }
    file.write_text(json.dumps(theirs))
    found = settings(config_file=str(file))
    assert found["zero_optimization"] == theirs["zero_optimization"]
    assert found["comms_logger"] == {"enabled": True}
    assert found["gradient_clipping"] == 0.5
    assert "train_batch_size" not in found
    assert "fp16" not in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "does not read"),
        ("[]", "not a JSON object"),
        ("{}", "ZeRO stage 1, 2 or 3"),
        ('{"zero_optimization": {"stage": 2}, "train_batch_size": 8}', "'train_batch_size' is rlp's to say"),
        ('{"zero_optimization": {"stage": 2}, "fp16": {"enabled": true}}', "'fp16' is rlp's to say"),
        ('{"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW"}}', "'optimizer' is rlp's to say"),
    ],
)
def test_a_file_that_contradicts_the_run_is_refused(text, words, tmp_path):
    file = tmp_path / "ds.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        settings(config_file=str(file))


def test_a_missing_file_is_an_error_of_the_config(tmp_path):
    with pytest.raises(ConfigError, match="does not read"):
        settings(config_file=str(tmp_path / "none.json"))
