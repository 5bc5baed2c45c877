"""Rules between keys: what a single field cannot say about itself.

Every rule gives `Problem`s, each with the keys it is about; `load.py` turns them into errors with
a line. The files that keys name are looked for in `named_files.py`; which data tables a stage needs is for
`stages/required_data.py` to say.
"""

from __future__ import annotations

from collections.abc import Iterator

from rlp_engine.config.problems import Problem, nearest
from rlp_engine.config.schema import METHODS, MULTI_VIEW, RunConfig, value_of
from rlp_engine.config.sections.data import DATA_TABLES, DataFile
from rlp_engine.config.sections.generation import ServerConfig

ALPACAFARM = {
    "ppo.kl_estimator": "clamped",
    "ppo.whiten_rewards": "keep-mean",
    "ppo.mask_padding": False,
    "ppo.reward_scale": "none",
    "ppo.missing_eos": "off",
    "refine_rm.multi_view.normalise": "none",
    "refine_rm.multi_view.beta_ramp": 0.0,
    "refine_rm.multi_view.beta_end": 1.0,
    "refine_rm.multi_view.warmup_steps": 0,
}
"""What `fidelity = "alpacafarm"` makes of these keys: PPO as AlpacaFarm ran it, L_M as the paper writes it."""


def cross_field_problems(config: RunConfig) -> list[Problem]:
    """Every rule between keys that this config breaks."""
    rules = (_methods, _batches, _views, _sandbox, _judges, _collect, _models, _engine, _ppo)
    return [problem for rule in rules for problem in rule(config)]


def _methods(config: RunConfig) -> Iterator[Problem]:
    for name in config.methods:
        if name not in METHODS:
            yield Problem(
                ("methods",), f"there is no method '{name}'", f"{nearest(name, METHODS)}Methods: {', '.join(METHODS)}"
            )
    for name in config.curve.methods:
        if name != "ppo" and name not in config.methods:
            what = f"curve.methods names '{name}', which is no branch of this run"
            yield Problem(("curve.methods", "methods"), what, f"name some of: ppo, {', '.join(config.methods)}")
    doubled = sorted({name for name in config.methods if config.methods.count(name) > 1})
    if doubled:
        yield Problem(("methods",), f"methods names {', '.join(doubled)} more than once", "name each method once")
    match = config.refine_rm.reseed.match
    if "reseed" in config.methods and (match == "reseed" or match not in config.methods):
        yield Problem(
            ("refine_rm.reseed.match", "methods"),
            f"refine_rm.reseed.match = '{match}', which is not another method of this run",
            f"name one of: {', '.join(m for m in config.methods if m != 'reseed') or '(add a method to methods)'}",
        )


def _batches(config: RunConfig) -> Iterator[Problem]:
    """Batch words count samples, and each is a whole number of the next smaller one."""
    pairs = [(f"{name}.minibatch", f"{name}.microbatch") for name in ("sft", "train_rm", "refine_rm", "ppo")]
    pairs.append(("ppo.rollout_batch", "ppo.minibatch"))
    if any(method in MULTI_VIEW for method in config.methods):
        pairs.append(("refine_rm.multi_view.pairs_per_step", "refine_rm.multi_view.microbatch"))
    for large, small in pairs:
        whole, part = value_of(config, large), value_of(config, small)
        if whole % part:
            below, above = whole // part * part, (whole // part + 1) * part
            near = " or ".join(str(number) for number in (below, above) if number)
            yield Problem(
                (large, small), f"{large} = {whole} is not a multiple of {small} = {part}", f"--set {large}={near}"
            )


def _views(config: RunConfig) -> Iterator[Problem]:
    views = config.refine_rm.multi_view
    key = "refine_rm.multi_view"
    if views.views == "wordings" and not views.topic:
        what = f"{key}.views = 'wordings' needs to know which instructions ask the same"
        yield Problem((f"{key}.topic", f"{key}.views"), what, f"--set {key}.topic=fact in the sandbox")
    for name, default in (("topic", ""), ("hard_negatives", "none")):
        if views.views != "wordings" and getattr(views, name) != default:
            what = f"{key}.{name} is not read when {key}.views = '{views.views}'"
            yield Problem((f"{key}.{name}", f"{key}.views"), what, "remove one of them")
    if views.hard_negatives != "none":
        for name in ("pairs_per_step", "microbatch"):
            if getattr(views, name) % 4:
                what = f"{key}.{name} = {getattr(views, name)} is no multiple of 4, the pairs of a topic in a minibatch"
                yield Problem((f"{key}.{name}", f"{key}.hard_negatives"), what, "e.g. 16 or 32")


def _sandbox(config: RunConfig) -> Iterator[Problem]:
    mend = "set data.source = 'sandbox', or choose another"
    if config.data.source == "sandbox":
        for table, file in data_files(config):
            if file.path:
                key = f"data.{table}.path"
                yield Problem(
                    (key, "data.source"), f"{key} is not read when data.source = 'sandbox'", "remove one of them"
                )
        for key, kind in (
            ("evaluate.judge", config.evaluate.judge.kind),
            ("collect.annotator", config.collect.annotator.kind),
        ):
            if kind == "ifeval":
                what = f"{key}.kind = 'ifeval' reads IFEval's columns, which the sandbox has not"
                yield Problem((f"{key}.kind", "data.source"), what, "set it to 'gold'")
        if config.collect.source == "file":
            yield Problem(
                ("collect.source", "data.source"),
                "collect.source = 'file', but the sandbox has no file of pairs",
                "set collect.source = 'annotator'",
            )
        return
    if config.collect.source == "annotator" and config.collect.annotator.kind == "gold":
        yield Problem(("collect.annotator.kind", "data.source"), "a gold annotator exists only in the sandbox", mend)
    if config.evaluate.judge.kind == "gold":
        yield Problem(("evaluate.judge.kind", "data.source"), "a gold judge exists only in the sandbox", mend)
    if config.synthesize.equivalence.kind == "sandbox":
        what = "synthesize.equivalence.kind = 'sandbox' knows only what the sandbox's answers mean"
        yield Problem(("synthesize.equivalence.kind", "data.source"), what, mend)


def _judges(config: RunConfig) -> Iterator[Problem]:
    annotates = config.collect.source == "annotator"
    judges = [
        ("evaluate.judge", config.evaluate.judge, True),
        ("collect.annotator", config.collect.annotator, annotates),
    ]
    for key, judge, used in judges:
        if used and judge.kind in ("gold", "ifeval") and judge.path:
            what = f"{key}.path is not read when {key}.kind = '{judge.kind}'"
            yield Problem((f"{key}.path", f"{key}.kind"), what, "remove one")
        if used and judge.kind == "server" and judge.path:
            what = f"{key}.path is not read when {key}.kind = 'server'"
            yield Problem((f"{key}.path", f"{key}.kind"), what, "judge.annotators says who judges")
    for name, file in config.data.test_sets.items():
        if not file.path:
            key = f"data.test_sets.{name}.path"
            yield Problem((key,), f"the test set '{name}' names no file", f"--set {key}=FILE")
    users = server_judges(config)
    if users and not config.judge.server.base_urls:
        asks = next(iter(users))
        yield Problem(
            ("judge.server.base_urls", asks),
            f"{asks} = 'server', and judge.server.base_urls names none",
            """--set 'judge.server.base_urls=["http://127.0.0.1:8000/v1"]'""",
        )
    if "collect.annotator.kind" in users and config.collect.label_noise.temperature:
        yield Problem(
            ("collect.label_noise.temperature", "collect.annotator.kind"),
            "collect.label_noise.temperature needs scores, and annotators by server only compare",
            "use collect.label_noise.flip_share",
        )


def server_judges(config: RunConfig) -> dict[str, list[str]]:
    """Key that asks for annotators behind a server -> their names or paths."""
    found = {}
    if config.collect.source == "annotator" and config.collect.annotator.kind == "server":
        found["collect.annotator.kind"] = config.judge.annotators
    if config.evaluate.judge.kind == "server":
        found["evaluate.judge.kind"] = config.judge.annotators
    if "rlaif" in config.methods and config.synthesize.rlaif.engine == "server":
        found["synthesize.rlaif.engine"] = config.synthesize.rlaif.annotators
    return found


def _collect(config: RunConfig) -> Iterator[Problem]:
    if (
        config.collect.source == "file"
        and config.collect.label_noise.flip_share + config.collect.label_noise.temperature
    ):
        yield Problem(
            ("collect.label_noise", "collect.source"),
            "collect.label_noise is the annotator's, and collect.source = 'file' has none",
            "remove collect.label_noise",
        )


def _models(config: RunConfig) -> Iterator[Problem]:
    model, limits = config.model, config.generation
    if model.init == "pretrained":
        return
    scratch = model.scratch
    if model.path:
        yield Problem(("model.path", "model.init"), "model.path is not read when model.init = 'scratch'", "remove one")
    if scratch.hidden_size % scratch.num_heads:
        what = f"model.scratch.hidden_size = {scratch.hidden_size} is not a multiple of num_heads = {scratch.num_heads}"
        yield Problem(("model.scratch.hidden_size", "model.scratch.num_heads"), what, "every head has the same width")
    if scratch.num_kv_heads and scratch.num_heads % scratch.num_kv_heads:
        what = (
            f"model.scratch.num_heads = {scratch.num_heads} is not a multiple of num_kv_heads = {scratch.num_kv_heads}"
        )
        yield Problem(("model.scratch.num_kv_heads", "model.scratch.num_heads"), what, "0 = as many as heads")
    if model.template == "chat":
        what = "a model from scratch has no chat template"
        yield Problem(("model.template", "model.init"), what, "set model.template = 'alpaca' or 'plain'")
    tokens = limits.max_prompt_tokens + limits.max_new_tokens
    if tokens > scratch.max_position_embeddings:
        yield Problem(
            ("model.scratch.max_position_embeddings", "generation.max_prompt_tokens", "generation.max_new_tokens"),
            f"generation wants {tokens} tokens, the model has {scratch.max_position_embeddings} positions",
            f"--set model.scratch.max_position_embeddings={tokens}",
        )


def _engine(config: RunConfig) -> Iterator[Problem]:
    """[generation.server] belongs to engine = "server", and both ways."""
    generation = config.generation
    if generation.engine == "server" and not generation.server.base_urls:
        yield Problem(
            ("generation.server.base_urls", "generation.engine"),
            "generation.engine = 'server' needs the address of a server",
            """--set 'generation.server.base_urls=["http://127.0.0.1:8000/v1"]'""",
        )
    if generation.engine == "native" and generation.server != ServerConfig():
        key = next(name for name, value in generation.server if value != getattr(ServerConfig(), name))
        what = f"generation.server.{key} is not read when generation.engine = 'native'"
        yield Problem(
            (f"generation.server.{key}", "generation.engine"), what, "--set generation.engine=server, or remove it"
        )


def _ppo(config: RunConfig) -> Iterator[Problem]:
    if any(step <= 0 for step in config.ppo.candidates):
        yield Problem(("ppo.candidates",), "ppo.candidates are steps, counted from 1", "remove what is not positive")
    for section in ("sft", "train_rm", "refine_rm", "ppo"):
        key = f"{section}.optimizer.adam_betas"
        if not all(0 <= beta < 1 for beta in value_of(config, key)):
            yield Problem(
                (key,), f"{key} = {list(value_of(config, key))}: both must lie in [0, 1)", "AdamW's are 0.9, 0.999"
            )


def data_files(config: RunConfig) -> Iterator[tuple[str, DataFile]]:
    """Every table of rows in [data], by its key there."""
    for table in DATA_TABLES:
        yield table, getattr(config.data, table)
    for name, file in config.data.test_sets.items():
        yield f"test_sets.{name}", file
