"""The table of stages: Algorithm 1 of the paper, round by round. Read this first.

    prepare                       data files or the sandbox -> typed rows
    sft                           demonstrations -> SFT policy              (Algorithm 1, step 0)
    collect                       SFT policy + annotator, or a file -> D    (line 1)
    train-rm                      D -> reward model r                       (line 2)
    ppo                           SFT policy + r -> policy                  (line 3)
    round-1/sample                policy + U -> n answers each              (line 4)
    round-1/embed                 samples -> rewards, hidden states, drift
    round-1/METHOD/synthesize     samples -> synthetic pairs (SPG)
    round-1/METHOD/refine-rm      D, samples, synthetic pairs -> refined r
    round-1/METHOD/ppo            SFT policy + refined r -> policy          (line 5)
    ..ppo-kl0.05                  the same at another weight of the KL penalty ([curve])
    evaluate                      all policies and reward models -> win-rates, accuracies

In the first round the methods are siblings: they share everything above `METHOD/`. From the second
round on each method samples its own policy (`round-2/spg/sample`, ...), and y_w is picked by the
reward model that trained the sampled policy. A stage's module is imported only when it runs.
"""

from __future__ import annotations

from rlp_engine.config.schema import MULTI_VIEW, SYNTHESIS, RunConfig
from rlp_engine.config.sections.data import DATA_TABLES, DataFile
from rlp_engine.stages.branches import curve_points, policies, reward_models, synthesis_of, synthetic_pairs
from rlp_engine.stages.required_data import ifeval_tables
from rlp_engine.stages.spec import StageInput, StageSpec
from rlp_engine.stages.stage_inputs import (
    NATIVE,
    TEST_SETS,
    TRAINING,
    annotator_inputs,
    answering,
    external,
    judge_inputs,
    judge_sections,
    reward_init,
    rows,
    rows_of_test_set,
    sft_policy,
)

# What every branch reads of [refine_rm]: a key of the multi-view loss must not make the other branches stale.
_REFINING = ("refine_rm.epochs", "refine_rm.minibatch", "refine_rm.microbatch", "refine_rm.optimizer")


def build_pipeline(config: RunConfig) -> list[StageSpec]:
    """Every stage that this config asks for, in an order in which each finds its inputs made."""
    stages = [_prepare(config)]
    if not config.sft.ready_model:
        stages.append(_sft(config))
    stages += [_collect(config), _train_rm(config), *_policies(config, "ppo", "", reward="train-rm", round_number=0)]
    for round_number in range(1, config.rounds + 1):
        stages += _round(config, round_number)
    return [*stages, _evaluate(config)]


def _prepare(config: RunConfig) -> StageSpec:
    files: list[StageInput] = []
    if config.data.source == "files":
        files_of: dict[str, DataFile] = {table: getattr(config.data, table) for table in DATA_TABLES}
        files_of |= {f"{TEST_SETS}/{name}": file for name, file in config.data.test_sets.items()}
        for table, file in files_of.items():
            files += external(table, file.path) + external(f"{table}.columns", file.columns_from)
    return StageSpec(
        name="prepare",
        kind="prepare",
        version=1,
        inputs=tuple(files),
        sections=("seed", "data", "sandbox"),
        function="rlp_engine.stages.prepare:run",
        params={"ifeval_tables": tables} if (tables := ifeval_tables(config)) else {},
    )


def _sft(config: RunConfig) -> StageSpec:
    tables = ["demonstrations"]
    if config.model.init == "scratch":  # the tokenizer is trained on all the instructions of the run but the test set
        tables += [t for t in ("preference_instructions", "unlabeled") if _has(config, t)]
    pretrained = config.model.path if config.model.init == "pretrained" else ""
    return StageSpec(
        name="sft",
        kind="sft",
        version=1,
        inputs=(*map(rows, tables), *external("base_model", pretrained)),
        sections=(*TRAINING, "sft"),
        function="rlp_engine.stages.sft:run",
        ranks="all",
    )


def _has(config: RunConfig, table: str) -> bool:
    return config.data.source == "sandbox" or bool(getattr(config.data, table).path)


def _collect(config: RunConfig) -> StageSpec:
    if config.collect.source == "file":
        inputs: tuple[StageInput, ...] = (rows("preferences"),)
        sections: tuple[str, ...] = ("collect",)
    else:
        annotator = config.collect.annotator
        inputs = (sft_policy(config), rows("preference_instructions"))
        inputs += judge_inputs(config, "annotator", annotator)
        sections = ("seed", "model", "compute", *answering(config), "collect", "sandbox", *judge_sections(annotator))
    return StageSpec(
        name="collect",
        kind="collect",
        version=2,
        inputs=inputs,
        sections=sections,
        function="rlp_engine.stages.collect:run",
        ranks="all",
    )


def _train_rm(config: RunConfig) -> StageSpec:
    return StageSpec(
        name="train-rm",
        kind="train-rm",
        version=_reward_version(config),
        inputs=(reward_init(config), StageInput("pairs", stage="collect", path="pairs.jsonl")),
        sections=(*TRAINING, "train_rm"),
        function="rlp_engine.stages.train_rm:run",
        ranks="all",
    )


def _reward_version(config: RunConfig) -> int:
    """Of train-rm and refine-rm: since version 2 they leave an adapter/ folder too, which full training has not."""
    return 2 if config.model.lora.rank else 1


def _policies(config: RunConfig, method: str, folder: str, *, reward: str, round_number: int) -> list[StageSpec]:
    """The policy of one reward model, and those of its curve."""
    points = {"": None} | curve_points(config, method)
    return [
        _ppo(config, f"{folder}ppo{suffix}", reward=reward, round_number=round_number, kl_coefficient=value)
        for suffix, value in points.items()
    ]


def _ppo(
    config: RunConfig, name: str, *, reward: str, round_number: int, kl_coefficient: float | None = None
) -> StageSpec:
    inputs = (
        sft_policy(config),
        StageInput("reward_model", stage=reward, path="model"),
        *((StageInput("reward_adapter", stage=reward, path="adapter"),) if config.model.lora.rank else ()),
        rows("unlabeled"),
    )
    sections = (*TRAINING, *NATIVE, "ppo", "train_rm")
    if config.ppo.select == "judge":
        judge = config.evaluate.judge
        inputs += (rows("validation"), *judge_inputs(config, "judge", judge))
        sections += ("evaluate", "sandbox", *judge_sections(judge))
    return StageSpec(
        name=name,
        kind="ppo",
        version=1,
        inputs=inputs,
        sections=sections,
        function="rlp_engine.stages.ppo:run",
        watched=(StageInput("pairs", stage="collect", path="pairs.jsonl"),),
        ranks="all",
        params={"round": round_number} | ({} if kl_coefficient is None else {"kl_coefficient": kl_coefficient}),
    )


def _round(config: RunConfig, round_number: int) -> list[StageSpec]:
    """One round of refinement: what the methods share, then a branch for each."""
    stages: list[StageSpec] = []
    if round_number == 1:
        stages += _sampling(config, "round-1", policy="ppo", reward="train-rm", round_number=1)
    for method in sorted(config.methods, key=lambda method: method == "reseed"):  # after the one it is matched with
        previous = f"round-{round_number - 1}/{method}"
        branch = f"round-{round_number}/{method}"
        shared = "round-1"
        if round_number > 1 and method != "reseed":  # the control learns from D alone: it needs no samples
            shared = branch
            stages += _sampling(
                config, branch, policy=f"{previous}/ppo", reward=f"{previous}/refine-rm", round_number=round_number
            )
        stages += _branch(config, method, branch=branch, shared=shared, round_number=round_number)
    return list({stage.name: stage for stage in stages}.values())  # siblings name the same synthesize stage


def _sampling(config: RunConfig, folder: str, *, policy: str, reward: str, round_number: int) -> list[StageSpec]:
    sample = StageSpec(
        name=f"{folder}/sample",
        kind="sample",
        version=1,
        inputs=(sft_policy(config), StageInput("policy", stage=policy, path="model"), rows("unlabeled")),
        sections=("seed", "model", "compute", *answering(config), "sample"),
        function="rlp_engine.stages.sample:run",
        ranks="all",
        params={"round": round_number},
    )
    embed = StageSpec(
        name=f"{folder}/embed",
        kind="embed",
        version=1,
        inputs=(
            StageInput("samples", stage=f"{folder}/sample", path="answers"),
            StageInput("sft_samples", stage=f"{folder}/sample", path="sft_answers"),
            StageInput("reward_model", stage=reward, path="model"),
            StageInput("pairs", stage="collect", path="pairs.jsonl"),
            rows("unlabeled"),
        ),
        sections=("seed", "model", "compute", "embed", "train_rm"),
        function="rlp_engine.stages.embed:run",
        ranks="all",
    )
    return [sample, embed]


def _branch(config: RunConfig, method: str, *, branch: str, shared: str, round_number: int) -> list[StageSpec]:
    """synthesize (where the method makes pairs), refine-rm and ppo of one method."""
    stages: list[StageSpec] = []
    matched = config.refine_rm.reseed.match if method == "reseed" else method
    synthesis = ""
    if matched in SYNTHESIS:
        synthesis = synthesis_of(matched, round_number)
        if method != "reseed" or round_number == 1:
            policy = "ppo" if round_number == 1 else f"round-{round_number - 1}/{method}/ppo"
            stages.append(_synthesize(config, synthesis, SYNTHESIS[matched], shared, policy, round_number))
    stages.append(_refine_rm(config, method, branch, synthesis=synthesis, shared=shared, round_number=round_number))
    stages += _policies(config, method, f"{branch}/", reward=f"{branch}/refine-rm", round_number=round_number)
    return stages


def _synthesize(config: RunConfig, name: str, selection: str, shared: str, policy: str, round_number: int) -> StageSpec:
    """Pairs of what `policy` answered, in `shared`/sample."""
    inputs = (
        StageInput("samples", stage=f"{shared}/sample", path="answers"),
        StageInput("rewards", stage=f"{shared}/embed", path="vectors"),
        rows("unlabeled"),
    )
    if selection == "rlaif" and config.synthesize.rlaif.engine == "server":
        inputs += annotator_inputs(config.synthesize.rlaif.annotators)
        sections: tuple[str, ...] = ("seed", "judge", "synthesize.rlaif")
    elif selection == "rlaif":  # the policy that answered is the judge
        inputs += (StageInput("policy", stage=policy, path="model"),)
        sections = ("seed", "compute", "model", "synthesize.rlaif")
    else:
        equivalence = config.synthesize.equivalence
        inputs += external("equivalence_model", equivalence.model if equivalence.kind in ("nli", "embedding") else "")
        sections = ("seed", "compute", "synthesize.min_confidence", "synthesize.equivalence", "sandbox")
    return StageSpec(
        name=name,
        kind="synthesize",
        version=3,
        inputs=inputs,
        sections=sections,
        function="rlp_engine.stages.synthesize:run",
        ranks="all",
        params={"selection": selection, "round": round_number},
    )


def _refine_rm(
    config: RunConfig, method: str, branch: str, *, synthesis: str, shared: str, round_number: int
) -> StageSpec:
    inputs = (reward_init(config), StageInput("pairs", stage="collect", path="pairs.jsonl"))
    if synthesis:
        inputs += (StageInput("synthetic_pairs", stage=synthesis, path="pairs.jsonl"),)
    if method in MULTI_VIEW:
        inputs += (StageInput("samples", stage=f"{shared}/sample", path="answers"), rows("unlabeled"))
    return StageSpec(
        name=f"{branch}/refine-rm",
        kind="refine-rm",
        version=_reward_version(config),
        inputs=inputs,
        sections=(*TRAINING, "train_rm", *_REFINING, *(("refine_rm.multi_view",) if method in MULTI_VIEW else ())),
        function="rlp_engine.stages.refine_rm:run",
        ranks="all",
        params={"method": method, "round": round_number},
    )


def _evaluate(config: RunConfig) -> StageSpec:
    judge = config.evaluate.judge
    inputs = (
        sft_policy(config),
        *(StageInput(f"policy:{name}", stage=stage, path="model") for name, stage in policies(config).items()),
        *(StageInput(f"reward:{name}", stage=stage, path="model") for name, stage in reward_models(config).items()),
        *(StageInput(f"pairs:{name}", stage=s, path="pairs.jsonl") for name, s in synthetic_pairs(config).items()),
        StageInput("instructions", stage="prepare", path=f"{config.evaluate.instructions}.jsonl"),
        *(rows_of_test_set(name) for name in config.data.test_sets if config.evaluate.instructions == "test"),
        *judge_inputs(config, "judge", judge),
    )
    return StageSpec(
        name="evaluate",
        kind="evaluate",
        version=3,
        inputs=inputs,
        sections=(
            *("seed", "model", "compute", *answering(config), "evaluate", "train_rm", "refine_rm.reseed", "sandbox"),
            *judge_sections(judge),
        ),
        function="rlp_engine.stages.evaluate:run",
        ranks="all",
    )
