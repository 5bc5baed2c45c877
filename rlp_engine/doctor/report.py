"""The whole examination: what every stage needs, what is free, whether it fits, and which keys would lower it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlp_engine.config.schema import RunConfig, value_of
from rlp_engine.doctor.duration import stages_seconds
from rlp_engine.doctor.hardware import cpu_rates, gpu_rates
from rlp_engine.doctor.libraries import Libraries, measure
from rlp_engine.doctor.machine import Gpus, free_disk, free_memory, gpus_here
from rlp_engine.doctor.memory import StageMemory, stages_memory
from rlp_engine.doctor.parts import WIDTHS
from rlp_engine.doctor.shapes import Models
from rlp_engine.doctor.table_rows import table_rows
from rlp_engine.run.manifest import current_versions
from rlp_engine.stages.spec import StageSpec

CHECKPOINT_NUMBERS = 3  # float32, per trained number: the weight and AdamW's moments
TRAINING_KINDS = ("sft", "train-rm", "refine-rm", "ppo")
ENOUGH = 0.02  # a key that lowers a stage by less is not worth naming


@dataclass(frozen=True)
class Saving:
    """A change of one key, and what the stage that needs most would then need."""

    key: str
    value: object
    bytes: int


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `rlp doctor` says. `free` is of what the tensors live in; None where nobody knows."""

    stages: list[StageMemory]
    gpus: Gpus | None  # None: all on the CPU
    free: int | None
    host_free: int | None
    disk_needed: int
    disk_free: int
    savings: list[Saving]
    libraries: Libraries
    versions: dict[str, str]
    notes: list[str]
    seconds: dict[str, float | None]  # stage -> estimated time; None where nobody can say
    basis: str  # what the times rest on

    @property
    def total_seconds(self) -> float:
        """Of the stages whose time is estimated."""
        return sum(seconds for seconds in self.seconds.values() if seconds is not None)

    @property
    def largest(self) -> StageMemory:
        return max(self.stages, key=self.needed)

    def needed(self, stage: StageMemory) -> int:
        """Of the memory in which its tensors live."""
        return stage.tensors if self.gpus else stage.base + stage.tensors

    def host(self, stage: StageMemory) -> int:
        """Of the machine's memory, one rank: its libraries, and what ZeRO keeps there."""
        offloaded = stage.of_kind("host")
        return stage.base + offloaded + (0 if self.gpus else stage.tensors)

    def stage_fits(self, stage: StageMemory) -> bool | None:
        return None if self.free is None else self.needed(stage) <= self.free

    @property
    def fits(self) -> bool:
        return self.free is None or self.needed(self.largest) <= self.free

    @property
    def disk_fits(self) -> bool:
        """Named GPUs are in another machine, whose disk nobody sees from here."""
        return self.disk_needed <= self.disk_free or (self.gpus is not None and self.gpus.is_named)


def examine(config: RunConfig, pipeline: Sequence[StageSpec], run_dir: Path | None, gpus: Gpus | None) -> Diagnosis:
    """
    Args:
        run_dir: the run; None before there is one.
        gpus: those that the user named; None = look at this machine.

    Raises:
        ModelError: a model's config cannot be read, or the libraries do not work.
    """
    libraries = measure()  # before torch is here: this process stands for one without it
    if gpus is None and config.compute.device != "cpu":
        gpus = gpus_here()
    from rlp_engine.doctor.architecture import read_models

    models, notes = read_models(config, pipeline, run_dir)
    host_free = free_memory()
    ranks = gpus.count if gpus else 1
    stages = stages_memory(config, pipeline, models, libraries, on_device=gpus is not None, ranks=ranks)
    if ranks > 1:
        notes.append(
            f"reckoned with {ranks} ranks and deepspeed.zero_stage = {config.deepspeed.zero_stage}: start the run with "
            f"--launcher deepspeed --nproc {ranks}; without a launcher it is one process on one GPU"
        )
        if config.deepspeed.config_file:
            notes.append("deepspeed.config_file is not read: what it sets instead of [deepspeed] is not reckoned with")
    if config.generation.engine == "server":
        notes.append("sample, collect and evaluate are reckoned as if this machine drew their answers, not servers")
    rates = gpu_rates(gpus) if gpus else cpu_rates()
    if rates is None:
        notes.append(f"no time is estimated: the speed of {gpus.name} is not known")
        seconds, basis = dict.fromkeys((spec.name for spec in pipeline), None), ""
    else:
        rows = table_rows(config, run_dir)
        seconds, basis = stages_seconds(config, pipeline, models, rows, rates, ranks), rates.basis
        unknown = [name for name, value in seconds.items() if value is None]
        if unknown:
            notes.append(f"no time is estimated for {', '.join(unknown)}: how many rows their data have is not known")
    found = Diagnosis(
        stages=stages,
        gpus=gpus,
        free=gpus.bytes if gpus else host_free,
        host_free=host_free,
        disk_needed=disk_bytes(config, pipeline, models),
        disk_free=free_disk(run_dir or Path.cwd()),
        savings=[],
        libraries=libraries,
        versions=current_versions(),
        notes=notes,
        seconds=seconds,
        basis=basis,
    )
    found.savings.extend(savings(config, pipeline, models, found))
    return found


def disk_bytes(config: RunConfig, pipeline: Sequence[StageSpec], models: Models) -> int:
    """The models that all stages leave, and the checkpoints of the largest stage: those kept, and one being written."""
    width, lora = WIDTHS[config.model.dtype], config.model.lora
    left = most = 0
    for spec in pipeline:
        if spec.kind not in TRAINING_KINDS:
            continue
        is_policy = spec.kind in ("sft", "ppo")
        saved = models.policy.parameters if is_policy else models.reward.classifier
        left += saved * width
        trained = [(models.policy if is_policy else models.reward, saved)]
        if spec.kind == "ppo":
            trained.append((models.reward, models.reward.value))
        numbers = sum(shape.lora(lora.rank, lora.target_modules) if lora.rank else whole for shape, whole in trained)
        most = max(most, numbers * 4 * CHECKPOINT_NUMBERS)
    return left + (config.checkpoint.keep + 1) * most


def savings(config: RunConfig, pipeline: Sequence[StageSpec], models: Models, found: Diagnosis) -> list[Saving]:
    """Single keys that would lower the stage that needs most: those that are enough first, of which those that make no
    finished work stale; then the others, what helps most first."""
    stage, now = found.largest, found.needed(found.largest)
    (spec,) = [spec for spec in pipeline if spec.name == stage.stage]
    result = []
    ranks = found.gpus.count if found.gpus else 1
    for key, value in _ways(config, stage.kind, several=ranks > 1):
        changed = _with(config, key, value)
        arguments = (changed, [spec], models, found.libraries)
        (other,) = stages_memory(*arguments, on_device=found.gpus is not None, ranks=ranks)
        if found.needed(other) < now * (1 - ENOUGH):
            result.append(Saving(key, value, found.needed(other)))

    def order(saving: Saving) -> tuple[bool, int]:
        is_enough = found.free is None or saving.bytes <= found.free
        return not is_enough, 0 if is_enough else saving.bytes

    return sorted(result, key=order)


def _ways(config: RunConfig, kind: str, *, several: bool) -> list[tuple[str, object]]:
    """Keys that may lower a stage of this kind, with a lower value; the safe ones first. `several`: ranks."""
    section = kind.replace("-", "_")
    own = {
        "refine_rm": ["refine_rm.microbatch"],
        "train_rm": ["train_rm.microbatch", "train_rm.score_microbatch"],
        "synthesize": ["synthesize.equivalence.microbatch", "synthesize.rlaif.microbatch"],
        "evaluate": ["evaluate.judge.microbatch"],
        "collect": ["collect.annotator.microbatch"],
        "ppo": ["ppo.microbatch", "train_rm.score_microbatch"],
        "sft": ["sft.microbatch"],
        "embed": ["embed.microbatch"],
    }.get(section, [])
    halved = [(key, value_of(config, key) // 2) for key in [*own, "generation.rows"] if value_of(config, key) > 1]
    ways: list[tuple[str, object]] = [*halved]
    if not config.model.gradient_checkpointing:
        ways.append(("model.gradient_checkpointing", True))
    ways.append(("generation.max_new_tokens", max(1, config.generation.max_new_tokens // 2)))
    if kind == "refine-rm" and config.refine_rm.multi_view.microbatch >= 16:
        ways.append(("refine_rm.multi_view.microbatch", config.refine_rm.multi_view.microbatch // 2))
    ways += [("generation.rows", config.generation.rows // 4)] if config.generation.rows >= 4 else []
    if several:
        ways += [("deepspeed.zero_stage", 3)] if config.deepspeed.zero_stage < 3 else []
        ways += [("deepspeed.offload_optimizer", "cpu")] if config.deepspeed.zero_stage else []
    if not config.model.lora.rank:
        ways.append(("model.lora.rank", 16))
    if config.model.dtype == "float32":
        ways.append(("model.dtype", "bfloat16"))
    return ways


def _with(config: RunConfig, key: str, value: object) -> RunConfig:
    """The config with one key changed."""
    head, _, rest = key.partition(".")
    if not rest:
        return config.model_copy(update={head: value})
    return config.model_copy(update={head: _with(getattr(config, head), rest, value)})
