"""Every key of run.toml: type, default, range, unit and source.

One frozen model per stage, named after it. `Field(description=...)` is the help that
`rlp config show` prints; `SAFE` marks keys that cannot change a result (logging, saving), so that
changing them does not make finished stages stale. Sizes of
micro-batches and the device are safe too: they move the last digits of a float and nothing else, and
an out-of-memory run must be able to go on with a smaller one. METHOD sources: [P] the paper, [AF] AlpacaFarm,
[MIB] Multi-View Information Bottleneck, [we] our choice.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SAFE = {"safe": True}

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]

METHODS = ("spg", "uml", "uml+spg", "reseed", "mvi", "infomax", "cl", "select-all", "reward-pair", "rlaif")
SYNTHESIS = {"spg": "spg", "uml+spg": "spg", "select-all": "select-all", "reward-pair": "reward-pair", "rlaif": "rlaif"}
MULTI_VIEW = {"uml": "uml", "uml+spg": "uml", "mvi": "mvi", "infomax": "infomax", "cl": "cl"}


class Section(BaseModel):
    """Immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class DataFile(Section):
    """Where rows come from, and what their columns are called there."""

    path: str = Field("", description="local JSONL, JSON or parquet file (also .gz); hf://datasets/OWNER/NAME/FILE; or hub:OWNER/NAME. Empty: not given")
    hub_config: str = Field("", description="configuration of a hub: dataset")
    hub_split: str = Field("train", description="split of a hub: dataset")
    where: dict[str, str | int | bool] = Field(default_factory=dict, description="keep only the rows whose columns have these values")
    columns_from: str = Field("", description="a file with one row for each row of `path`, in the same order, whose columns are added (a list of splits, say)")
    fields: dict[str, str] = Field(default_factory=dict, description="our field name = the column's name in the file")
    limit: NonNegative = Field(0, description="keep this many rows, drawn with the run's seed, in file order; 0 = all")


class DataConfig(Section):
    """Demonstrations, preferences D, unlabelled instructions U, validation, test."""

    source: Literal["files", "sandbox"] = Field("files", description="`sandbox` makes everything from [sandbox]; `files` reads the tables below")
    demonstrations: DataFile = Field(DataFile(), description="instruction -> output, for sft")
    preferences: DataFile = Field(DataFile(), description="labelled pairs D, when collect.source = `file`")
    preference_instructions: DataFile = Field(DataFile(), description="instructions that collect samples and labels, when collect.source = `annotator`")
    unlabeled: DataFile = Field(DataFile(), description="U: instructions for PPO and for the policy's samples")
    validation: DataFile = Field(DataFile(), description="instructions that may choose a checkpoint (ppo.select = `judge`); never the test set")
    test: DataFile = Field(DataFile(), description="instructions of `evaluate`, with reference outputs where the file has them")
    test_sets: dict[str, DataFile] = Field(default_factory=dict, description="further test sets by name, each a table as `test` is ([data.test_sets.llmbar] path = ...); judged apart, each with win-rates of its own")

    @model_validator(mode="after")
    def _names_are_folders(self) -> DataConfig:
        for name in self.test_sets:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"test_sets: '{name}' is no name (letters, digits, and . _ - after the first)")
        return self


class SandboxConfig(Section):
    """The gold-reward world, generated from a seed (rlp_engine/sandbox)."""

    seed: NonNegative = Field(0, description="seed of the world: facts, forms, demonstrations")
    facts: Positive = Field(94, le=94, description="facts that are demonstrated, of eight kinds; fewer make a smaller world")
    preferences_about: Literal["same", "other"] = Field("same", description="facts that the preference instructions ask about: those of U, validation and test, or as many others (D then stands far from U)")
    preference_facts: Positive = Field(47, le=94, description="of these, the facts that preferences, U, validation and test ask about (4, 20, 2 and 4 questions each)")
    style_weight: NonNegativeFloat = Field(1.0, description="weight of style in the gold reward, beside 1.6 for a right answer: at 1 most of what a policy can gain is style, at 0 all of it is correctness")
    demonstrations_per_form: Positive = Field(7, description="answers to each of a fact's 6 demonstrated forms")

    @model_validator(mode="after")
    def _not_more_than_all(self) -> SandboxConfig:
        if self.preference_facts > self.facts:
            raise ValueError(f"preference_facts ({self.preference_facts}) must not pass facts ({self.facts})")
        if self.preferences_about == "other" and 2 * self.preference_facts > self.facts:
            raise ValueError(
                f"preferences_about = 'other' needs twice preference_facts ({self.preference_facts}) among facts ({self.facts})"
            )
        return self


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


class ServerConfig(Section):
    """OpenAI-compatible servers, and how patiently they are asked (rlp_engine/serving)."""

    base_urls: list[str] = Field([], description="addresses such as `http://127.0.0.1:8000/v1`; of those that serve the model the one with the fewest requests in flight is asked, and what a dead one had goes to the others", json_schema_extra=SAFE)
    model: str = Field("", description="what the servers call the model; empty = as the stage does, which is a policy's folder in sampling")
    kind: Literal["auto", "vllm", "sglang", "tgi", "transformers", "openai"] = Field("auto", description="what serves: decides whether prompts go as token ids, and which fields beyond OpenAI's are sent; `auto`: /v1/models tells, else `openai`", json_schema_extra=SAFE)
    api_key_env: str = Field("", description="NAME of the environment variable that holds the key (never the key itself); empty = no key", json_schema_extra=SAFE)
    max_in_flight: Positive = Field(32, description="requests of each process that one server works on at a time", json_schema_extra=SAFE)
    timeout_seconds: PositiveFloat = Field(600.0, description="seconds in which a request must be answered whole", json_schema_extra=SAFE)
    max_retries: NonNegative = Field(8, description="times a request is sent again after 429, 5xx, a timeout, a dropped connection or an answer that is not whole", json_schema_extra=SAFE)
    backoff_seconds: PositiveFloat = Field(1.0, description="pause before the first retry, doubled with each (half of it is random); a longer Retry-After of the server is obeyed", json_schema_extra=SAFE)
    max_backoff_seconds: PositiveFloat = Field(60.0, description="longest pause of our own before a retry", json_schema_extra=SAFE)

    @field_validator("base_urls")
    @classmethod
    def _addresses(cls, urls: list[str]) -> list[str]:
        urls = [url.strip().rstrip("/") for url in urls]
        for url in urls:
            try:
                parts = urlsplit(url)
                whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:  # a port that is no number, a bracket that stays open
                whole = False
            if not whole:
                raise ValueError(f"'{url}' is no address: want http://HOST:PORT/v1")
            if parts.username is not None or parts.query or parts.fragment:
                raise ValueError(f"an address of {parts.hostname} holds more than host, port and path: name a key's variable in api_key_env instead")
        if len(set(urls)) < len(urls):
            raise ValueError("an address is named twice")
        return urls

    @field_validator("api_key_env")
    @classmethod
    def _name_of_a_variable(cls, name: str) -> str:
        if name and not re.fullmatch("[A-Z_][A-Z0-9_]*", name):  # and not shown: it may be the key itself
            raise ValueError("want the NAME of an environment variable (capitals, digits, _), not the key itself")
        return name


class GenerationConfig(Section):
    """Limits shared by collect, ppo, sample and evaluate."""

    max_prompt_tokens: Positive = Field(192, description="longer prompts are dropped from training and counted [AF]; `evaluate` keeps their last tokens")
    max_new_tokens: Positive = Field(300, description="tokens, the EOS included [AF]")
    rows: Positive = Field(64, description="sequences decoded side by side: more is faster until memory ends (on a CPU up to about 320), and the answers are the same", json_schema_extra=SAFE)
    engine: Literal["native", "server"] = Field("native", description="who answers in collect, sample and evaluate: our own loop, or servers that run the same policies; PPO's rollouts are native always")
    server: ServerConfig = ServerConfig()


class OptimizerConfig(Section):
    """AdamW and its schedule, the same words in every training stage. Batch words count samples."""

    learning_rate: PositiveFloat = Field(1e-5, description="peak")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="decay to 0 over all steps, after the warm-up")
    warmup: NonNegativeFloat = Field(0.03, description="below 1: share of all steps; from 1: steps")
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW")
    adam_betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW")
    adam_epsilon: PositiveFloat = Field(1e-8, description="AdamW")
    max_grad_norm: PositiveFloat = Field(1.0, description="clip the gradient norm")


class SftConfig(Section):
    """Demonstrations -> SFT policy; loss on response tokens only (METHOD 4.4, 4.5)."""

    ready_model: str = Field("", description="folder or hub id of a policy that is already supervised-fine-tuned: the stage is then not needed")
    epochs: Positive = Field(3, description="passes over the demonstrations [AF]")
    minibatch: Positive = Field(128, description="demonstrations per optimizer step [AF]")
    microbatch: Positive = Field(1, description="demonstrations per forward pass, of the longest; as many tokens of shorter ones", json_schema_extra=SAFE)
    max_length: Positive = Field(512, description="tokens of prompt and response, cut on the right [AF]")
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-5)


class JudgeConfig(Section):
    """Who says which of two answers is better."""

    kind: Literal["gold", "reward-model", "server", "ifeval"] = Field("reward-model", description="`gold`: the sandbox's true reward; `reward-model`: a fixed reward model by path; `server`: the annotators of [judge], who compare and give no scores; `ifeval`: the share of an instruction's checkable demands that the answer meets, for rows with IFEval's columns")
    path: str = Field("", description="folder or hub id of the reward model (AutoModelForSequenceClassification with one label)")
    microbatch: Positive = Field(16, description="texts per forward pass", json_schema_extra=SAFE)
    max_length: Positive = Field(1024, description="tokens of prompt and response")


class ServerJudgeConfig(Section):
    """Annotators behind a server, who compare two answers (docs/ANNOTATORS.md): for kind = "server" and RLAIF by server."""

    annotators: list[str] = Field(["alpaca-eval"], min_length=1, description="names of built-in annotators, or paths of TOML files; each instruction goes to one of them, by a draw from the seed and its text (METHOD 6.2)")
    order: Literal["coin", "both"] = Field("coin", description="`coin`: the outputs are shown in one order, by a draw from the seed and the instruction, and the answer is mapped back (METHOD 6.2); `both`: in both orders, and the mean counts. RLAIF always asks both")
    max_characters: Positive = Field(8000, description="of an instruction, and of each output, that annotators are shown; the rest is cut off and counted")
    price_per_million_input: NonNegativeFloat = Field(0.0, description="price of a million prompt tokens, in any currency; 0 = unknown", json_schema_extra=SAFE)
    price_per_million_output: NonNegativeFloat = Field(0.0, description="price of a million tokens of answers; 0 = unknown", json_schema_extra=SAFE)
    server: ServerConfig = ServerConfig()


class LabelNoiseConfig(Section):
    """How an annotator errs. Both off: the better score wins, equal scores give no pair."""

    flip_share: Share = Field(0.0, description="share of the labels that are flipped; AlpacaFarm's 25% noise means 0.25 here (METHOD 6.2)")
    temperature: NonNegativeFloat = Field(0.0, description="labels drawn from sigmoid((score_a - score_b) / temperature); 0 = the better score wins")

    @model_validator(mode="after")
    def _one_kind(self) -> LabelNoiseConfig:
        if self.flip_share and self.temperature:
            raise ValueError("give flip_share or temperature, not both")
        return self


class CollectConfig(Section):
    """Preferences D: two SFT samples per pair and a label, or a file of pairs."""

    source: Literal["annotator", "file"] = Field("annotator", description="label SFT samples, or read data.preferences")
    pairs_per_instruction: Positive = Field(1, description="pairs of SFT samples per instruction [AF]")
    temperature: PositiveFloat = Field(1.0, description="sampling temperature")
    top_p: PositiveFloat = Field(1.0, le=1.0, description="nucleus")
    annotator: JudgeConfig = JudgeConfig()
    label_noise: LabelNoiseConfig = LabelNoiseConfig()


class RewardTrainingConfig(Section):
    """Bradley-Terry training, shared by train_rm and refine_rm (METHOD 4.4)."""

    epochs: Positive = Field(1, description="passes over the pairs [AF]")
    minibatch: Positive = Field(16, description="pairs per optimizer step [AF]")
    microbatch: Positive = Field(2, description="pairs per forward pass, of the longest; as many tokens of shorter ones", json_schema_extra=SAFE)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-6)


class TrainRmConfig(RewardTrainingConfig):
    """Pairs -> reward model r, initialised from the SFT policy."""

    base_model: str = Field("", description="folder or hub id of another backbone, with its own tokenizer; empty = the SFT policy [AF]")
    held_out: NonNegative = Field(500, description="pairs of D kept out of training, to measure accuracy [AF]; the same ones for every reward model of a run")
    max_length: Positive = Field(512, description="tokens of prompt and response, cut on the right [AF]; the same for every reward model of a run, in training and when it scores")
    score_microbatch: Positive = Field(16, description="texts per forward pass, of the longest, when a reward model only scores", json_schema_extra=SAFE)


class MultiViewConfig(Section):
    """UML: heads, critic and the weight of the multi-view loss (METHOD 2)."""

    weight: NonNegativeFloat = Field(0.5, description="lambda: weight of L_M beside Bradley-Terry [P]")
    views: Literal["answers", "placebo", "wordings"] = Field("answers", description="what the two views of a policy pair are. `answers`: two answers to one instruction [P]; `placebo`: an answer each to two instructions, a control [we]; `wordings`: one answer under two instructions that ask the same, by `topic` [we]")
    topic: str = Field("", description="views = `wordings`: key of the `meta` of unlabeled rows that is equal for instructions that ask the same; `fact` in the sandbox")
    hard_negatives: Literal["none", "also", "only"] = Field("none", description="views = `wordings`: pairs of the same topic with another answer are no negatives; are negatives too, four pairs of a topic in a minibatch; or are the only ones [we]")
    pairs_per_step: Positive = Field(16, ge=8, description="policy pairs per optimizer step; each needs negatives among the others [we, METHOD 7.7]")
    microbatch: Positive = Field(16, ge=8, description="policy pairs whose z share one critic pass; at least 8")
    hidden_size: Positive = Field(1024, description="width of mu, Sigma and critic [MIB]")
    latent_size: Positive = Field(64, description="k: width of z [MIB]")
    learning_rate: PositiveFloat = Field(1e-4, description="of heads and critic [MIB]; the backbone keeps refine_rm.optimizer's")
    warmup_steps: NonNegative = Field(200, description="steps in which heads and critic alone learn, on detached v, at beta_start [we, METHOD 7.15]")
    beta_start: PositiveFloat = Field(1e-3, description="weight of SKL at the start of joint training [MIB]")
    beta_end: NonNegativeFloat = Field(1.0, description="weight of SKL after the ramp [P]")
    beta_ramp: Share = Field(0.5, description="share of joint training over which beta goes log-linearly from start to end; 0 = constant beta_end (as the paper writes it)")
    negatives: Literal["off-diagonal", "roll"] = Field("off-diagonal", description="all other instructions of the microbatch, or the neighbour [MIB]")
    skl: Literal["closed-form", "sample"] = Field("closed-form", description="symmetrised KL of the two Gaussians, exact or by one sample [MIB]")
    normalise: Literal["none", "layer-norm", "standardise"] = Field("none", description="of v in front of the heads: as the paper writes it; LayerNorm (METHOD 2.4); or mean 0, std 1 in each dimension over the policy's answers at the start [we]: at the last token v can be one common vector with small differences, from which the heads learn nothing")
    temperature: PositiveFloat = Field(0.1, description="tau of the CL ablation's InfoNCE")


class ReseedConfig(Section):
    """The control: D alone, another seed, as many optimizer steps as the method it is compared with."""

    match: str = Field("spg", description="method whose number of optimizer steps is taken")


class RefineRmConfig(RewardTrainingConfig):
    """D with synthetic pairs, or with the multi-view loss, or both -> refined reward model (Eq. 1)."""

    multi_view: MultiViewConfig = MultiViewConfig()
    reseed: ReseedConfig = ReseedConfig()


Alarm = Literal["max_kl", "max_length_growth", "max_eos_drop", "max_entropy_drop", "max_distinct_drop", "max_agreement_drop"]


class HealthConfig(Section):
    """Alarms: passing a limit warns, or stops the stage where `stop` names it; 0 = off. Non-finite numbers always stop it."""

    max_kl: NonNegativeFloat = Field(100.0, description="nats a sequence from the SFT policy", json_schema_extra=SAFE)
    max_length_growth: NonNegativeFloat = Field(3.0, description="mean length, as a multiple of the first step's", json_schema_extra=SAFE)
    max_eos_drop: Share = Field(0.3, description="by how much the share of answers that end in EOS is below the first step's", json_schema_extra=SAFE)
    max_entropy_drop: Share = Field(0.8, description="share of the first step's entropy that is lost", json_schema_extra=SAFE)
    max_distinct_drop: Share = Field(0.8, description="share of the first step's distinct_2 (different bigrams over all) that is lost: the policy repeats itself", json_schema_extra=SAFE)
    max_agreement_drop: Share = Field(0.15, description="by how much the agreement with held-out pairs is below its highest, while the score is above what it was then; at least two standard errors, 1/sqrt(pairs)", json_schema_extra=SAFE)
    stop: list[Alarm] = Field([], description="limits, by their key here, that end the stage with exit code 7 after a checkpoint; the others warn", json_schema_extra=SAFE)
    agreement_pairs: NonNegative = Field(64, description="of the pairs that train_rm.held_out keeps out of training, those that the policy's agreement is measured on (share on which log pi/pi_ref is higher for the chosen answer); 0 = off", json_schema_extra=SAFE)
    agreement_every: Positive = Field(10, description="steps between measurements of the agreement; each costs two forward passes a pair", json_schema_extra=SAFE)


class PpoConfig(Section):
    """SFT policy and a reward model -> policy (METHOD 5)."""

    steps: Positive = Field(390, description="PPO steps, each with a fresh rollout: 10 passes over 20,000 instructions at 512 [AF]")
    rollout_batch: Positive = Field(512, description="answers sampled per step [AF]")
    minibatch: Positive = Field(256, description="answers per optimizer step [AF]")
    microbatch: Positive = Field(2, description="answers per forward pass, of the longest; as many tokens of shorter ones [AF]", json_schema_extra=SAFE)
    epochs: Positive = Field(2, description="passes over each rollout [AF]")
    temperature: PositiveFloat = Field(1.0, description="of the rollouts; log-probabilities are divided by it too [AF]")
    kl_coefficient: NonNegativeFloat = Field(0.0067, description="weight of the KL penalty in the token rewards; simulated preferences 0.0067, human 0.02 [AF]")
    kl_estimator: Literal["k1", "k3", "clamped"] = Field("k1", description="per token: k1 = log ratio, k3 = non-negative, clamped = max(k1, 0) [AF]")
    kl_controller: Literal["fixed", "adaptive"] = Field("fixed", description="[AF] fixed")
    kl_target: PositiveFloat = Field(6.0, description="nats a sequence, for the adaptive controller [AF]")
    kl_gain: PositiveFloat = Field(0.1, lt=5.0, description="k_beta of the adaptive controller [AF]")
    gamma: Share = Field(1.0, description="discount [AF]")
    gae_lambda: Share = Field(1.0, description="GAE [AF]")
    clip_ratio: PositiveFloat = Field(0.2, description="[AF]")
    clip_value: PositiveFloat = Field(0.2, description="[AF]")
    value_coefficient: NonNegativeFloat = Field(0.1, description="weight of the value loss [AF]")
    whiten_rewards: Literal["off", "scale", "keep-mean"] = Field("scale", description="`scale`: divide by the live entries' standard deviation; `keep-mean`: [AF], pays for length when masked")
    mask_padding: bool = Field(True, description="losses, whitening and GAE over live tokens only; false = over all positions as [AF] ran")
    reward_scale: Literal["none", "reference"] = Field("none", description="`reference`: mean 0, std 1 on the SFT policy's samples; kept in this stage, never in the model")
    missing_eos: Literal["off", "replace", "subtract"] = Field("off", description="an answer without EOS: nothing [AF], its score becomes the penalty, or loses it")
    missing_eos_penalty: float = Field(1.0, description="`replace`: the score becomes minus this; `subtract`: the score loses this")
    select: Literal["last", "judge"] = Field("last", description="`judge`: the candidate with the best mean score on data.validation; with a judge that only compares, the best win-rate against its references, or against the SFT policy's answers when it has none")
    candidates: list[int] = Field([20, 40, 60, 80], description="steps whose policies `select = judge` compares; steps beyond `steps` are ignored, the last step always competes")
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-5, schedule="linear", warmup=5, adam_epsilon=1e-5)
    health: HealthConfig = HealthConfig()


class CurveConfig(Section):
    """Gold against KL (Gao et al. 2023): every reward model also trains a policy at other weights of the KL penalty."""

    kl_coefficients: list[NonNegativeFloat] = Field([], description="values of ppo.kl_coefficient besides its own; each adds a ppo stage to every branch, judged beside the others. P stays the samples of the policy at ppo.kl_coefficient")
    methods: list[str] = Field([], description="branches with a curve, `ppo` = the first reward model; empty = all")


class SampleConfig(Section):
    """n answers an instruction from the policy (METHOD 1, stage 4a)."""

    num_per_prompt: Positive = Field(10, ge=2, description="n [P]")
    temperature: PositiveFloat = Field(1.0, description="[P]")
    top_p: PositiveFloat = Field(1.0, le=1.0, description="[we, METHOD 7.3]")
    shard_prompts: Positive = Field(512, description="instructions per shard; a shard is committed when whole")


class EmbedConfig(Section):
    """Rewards, hidden states v and drift of the samples under the current reward model."""

    microbatch: Positive = Field(16, description="texts per forward pass", json_schema_extra=SAFE)
    drift_samples: Positive = Field(2000, description="most vectors per side in the Frechet distance and the classifier; drawn with the run's seed")


class EquivalenceConfig(Section):
    """When two answers mean the same (METHOD 3.1, 3.2)."""

    kind: Literal["nli", "embedding", "exact-match", "sandbox"] = Field("nli", description="NLI model both ways [P]; cosine of sentence embeddings; equal after normalisation; the sandbox's exact meaning")
    model: str = Field("microsoft/deberta-large-mnli", description="folder or hub id of the NLI model or the sentence encoder [P: Deberta-large]")
    revision: str = Field("main", description="revision of a hub model")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the model's weights and forward pass; half precision is for CUDA, and may turn a label that is near a tie")
    rule: Literal["strict", "lax", "non-contradiction"] = Field("strict", description="strict: both directions entail")
    min_cosine: Share = Field(0.8, description="threshold of `embedding`")
    microbatch: Positive = Field(32, description="texts or pairs per forward pass", json_schema_extra=SAFE)
    question_tokens: Positive = Field(128, description="the question's share of an NLI text, tokens")
    max_length: Positive = Field(512, description="tokens of an NLI pair or an embedded text")


RLAIF_PROMPT = """\
Compare two responses to the same instruction and say which one follows it better: write 1 for the first response or 2 \
for the second, and nothing else.

Instruction:
{instruction}

Response 1:
{response_1}

Response 2:
{response_2}"""


class RlaifConfig(Section):
    """How the policy, or a server, is asked which of two of the policy's answers is better (METHOD 3.5, 7.37)."""

    engine: Literal["policy", "server"] = Field("policy", description="who judges: the policy that was sampled [P], by `prompt`; or `annotators`, at the servers of [judge]")
    annotators: list[str] = Field(["rlaif"], min_length=1, description="engine = `server`: names or paths as in judge.annotators; always asked in both orders")
    prompt: str = Field(RLAIF_PROMPT, description="what it is asked, put into model.template as an instruction; {instruction}, {response_1} and {response_2} stand for the texts [we]")
    labels: list[str] = Field(["1", "2"], min_length=2, max_length=2, description="what it may answer: the response shown first, or second; compared by log-probability, in both orders")
    max_length: Positive = Field(1024, description="tokens of prompt and label; the longer response loses its end first")
    microbatch: Positive = Field(16, description="rows per forward pass; a comparison is four (two orders, two labels)", json_schema_extra=SAFE)

    @model_validator(mode="after")
    def _two_labels_and_three_places(self) -> RlaifConfig:
        missing = [name for name in ("{instruction}", "{response_1}", "{response_2}") if name not in self.prompt]
        if missing:
            raise ValueError(f"prompt lacks {', '.join(missing)}")
        if not all(label.strip() for label in self.labels) or self.labels[0] == self.labels[1]:
            raise ValueError(f"labels must be two different texts, got {self.labels}")
        return self


class SynthesizeConfig(Section):
    """Clusters -> confidence -> synthetic pairs (METHOD 3.4)."""

    min_confidence: Share = Field(0.5, description="gamma; accepted when confidence >= gamma [P]")
    equivalence: EquivalenceConfig = EquivalenceConfig()
    rlaif: RlaifConfig = RlaifConfig()


class EvaluateConfig(Section):
    """Win-rates of every policy and accuracies of every reward model (METHOD 6)."""

    instructions: Literal["test", "validation"] = Field("test", description="table of [data] that is judged; choose settings on `validation`, report on `test`")
    temperature: PositiveFloat = Field(0.7, description="[P]")
    top_p: PositiveFloat = Field(0.9, le=1.0, description="[AF] decoding default")
    best_of_n: NonNegative = Field(16, description="n of the best-of-n baseline, SFT samples at T = 1, highest stage-2 reward; 0 = none [we, METHOD 7.46]")
    samples_per_prompt: Positive = Field(4, ge=2, description="answers per test instruction and policy at T = 1: KL, and the pairs on which reward models are tested")
    input: Literal["apart", "merged"] = Field("apart", description="how outputs/ and annotations/ write an instruction that has an input: `apart`, as AlpacaFarm; `merged` into the instruction after a blank line, as AlpacaEval (METHOD 6.3)")
    judge: JudgeConfig = JudgeConfig()


class CheckpointConfig(Section):
    """When training stages save what they need to go on."""

    every_steps: Positive = Field(50, description="steps between checkpoints", json_schema_extra=SAFE)
    keep: Positive = Field(2, ge=2, description="newest whole checkpoints that are kept", json_schema_extra=SAFE)


class LogConfig(Section):
    """What is written while a stage runs."""

    every_steps: Positive = Field(1, description="steps between lines of metrics.jsonl", json_schema_extra=SAFE)
    samples_every_steps: Positive = Field(10, description="PPO steps between saved answers", json_schema_extra=SAFE)
    samples: NonNegative = Field(4, description="answers saved each time", json_schema_extra=SAFE)


class RunConfig(Section):
    """The whole of run.toml."""

    preset: str = Field("", description="the preset this run was made from", json_schema_extra=SAFE)
    seed: NonNegative = Field(42, description="of everything random [AF: 42]")
    rounds: Positive = Field(1, description="K: refine and retrain this often; the paper is 1 [P]")
    methods: list[str] = Field(["spg"], min_length=1, description="branches of the run: " + ", ".join(METHODS))
    fidelity: Literal["ours", "alpacafarm"] = Field("ours", description="`alpacafarm`: PPO as AlpacaFarm ran it and the losses as the paper writes them (METHOD 5.1, 7.44)")
    data: DataConfig = DataConfig()
    sandbox: SandboxConfig = SandboxConfig()
    model: ModelConfig = ModelConfig()
    compute: ComputeConfig = ComputeConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    generation: GenerationConfig = GenerationConfig()
    sft: SftConfig = SftConfig()
    judge: ServerJudgeConfig = ServerJudgeConfig()
    collect: CollectConfig = CollectConfig()
    train_rm: TrainRmConfig = TrainRmConfig()
    ppo: PpoConfig = PpoConfig()
    curve: CurveConfig = CurveConfig()
    sample: SampleConfig = SampleConfig()
    embed: EmbedConfig = EmbedConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    refine_rm: RefineRmConfig = RefineRmConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
