"""[model], [compute] and [deepspeed]: what is trained, and on what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rlp_engine.config.sections.base import SAFE, NonNegative, Positive, PositiveFloat, Section, Share


class ScratchConfig(Section):
    """A model built from a config, and a tokenizer trained on the run's own data."""

    hidden_size: Positive = Field(128, description="width")
    num_layers: Positive = Field(2, description="transformer layers")
    num_heads: Positive = Field(4, description="attention heads")
    num_kv_heads: NonNegative = Field(0, description="key-value heads; 0 = as many as heads")
    intermediate_size: Positive = Field(256, description="width of the MLP")
    max_position_embeddings: Positive = Field(1024, description="tokens")
    init_std: PositiveFloat = Field(0.02, description="standard deviation of initial weights; tiny models need about 0.08 (SANDBOX lesson 6)")
    tie_embeddings: bool = Field(True, description="share input and output embeddings")
    tokenizer: Literal["word", "bpe"] = Field("bpe", description="`word`: one token a word (sandbox); `bpe`: byte-level BPE")
    vocab_size: Positive = Field(4096, description="most tokens of a trained tokenizer")


class LoraConfig(Section):
    """Low-rank adapters; the saved models are merged, so that plain transformers load them."""

    rank: NonNegative = Field(0, description="rank of the adapters; 0 = full fine-tuning")
    alpha: PositiveFloat = Field(16.0, description="scale: updates are multiplied by alpha / rank")
    dropout: Share = Field(0.0, description="on the adapters' input; 0 keeps the PPO ratio at 1 on the first minibatch")
    target_modules: list[str] = Field(["all-linear"], description="module names; `all-linear` = every linear layer but the head")


class ModelConfig(Section):
    """The base model: policy, reference, and by default reward and value backbone."""

    init: Literal["pretrained", "scratch"] = Field("pretrained", description="load `path`, or build from [model.scratch]")
    path: str = Field("", description="folder or hub id of an AutoModelForCausalLM")
    revision: str = Field("main", description="revision of a hub model")
    template: Literal["alpaca", "chat", "plain"] = Field("alpaca", description="how a prompt becomes text: AlpacaFarm's v0 prompts [AF], the tokenizer's chat template, or the bare instruction and a newline")
    trust_remote_code: bool = Field(False, description="run code that comes with the model; only for models you trust")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the weights and the forward pass; losses and log-softmax are float32 always")
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field("auto", description="`auto`: transformers chooses", json_schema_extra=SAFE)
    gradient_checkpointing: bool = Field(False, description="trade time for memory in training", json_schema_extra=SAFE)
    scratch: ScratchConfig = ScratchConfig()
    lora: LoraConfig = LoraConfig()


class ComputeConfig(Section):
    """Where the work runs."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: CUDA when there is one", json_schema_extra=SAFE)
    cpu_threads: NonNegative = Field(0, description="torch threads on CPU; 0 = torch's choice. On a busy machine 1 can be ten times faster than 2", json_schema_extra=SAFE)


class DeepSpeedConfig(Section):
    """DeepSpeed's engine, which trains when a launcher started the processes (`rlp run DIR --launcher deepspeed --nproc N`)."""

    zero_stage: Literal[1, 2, 3] = Field(2, description="what the ranks share out: 1 the optimizer's state, 2 gradients too, 3 weights too", json_schema_extra=SAFE)
    offload_optimizer: Literal["none", "cpu"] = Field("none", description="keep AdamW's state in the machine's memory and step there; needs a C++ compiler", json_schema_extra=SAFE)
    offload_parameters: Literal["none", "cpu"] = Field("none", description="keep the shared-out weights in the machine's memory; needs zero_stage 3", json_schema_extra=SAFE)
    config_file: str = Field("", description="a whole DeepSpeed JSON, in place of the three keys above; batch sizes, clipping, precision, optimizer and schedule are rlp's, and may only be `auto` there", json_schema_extra=SAFE)

    @model_validator(mode="after")
    def _offload_needs_sharing(self) -> DeepSpeedConfig:
        if self.offload_parameters != "none" and self.zero_stage != 3:
            raise ValueError("offload_parameters needs zero_stage 3")
        return self
