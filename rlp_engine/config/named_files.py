"""The files and folders that keys name: are they there?"""

from __future__ import annotations

from rlp_engine.config.annotators import annotator_path, load_annotator
from rlp_engine.config.local_paths import HUB_ID, expanded, kind_at
from rlp_engine.config.problems import Problem
from rlp_engine.config.rules import data_files, server_judges
from rlp_engine.config.schema import RunConfig
from rlp_engine.errors import ConfigError


def annotator_problems(config: RunConfig) -> list[Problem]:
    """Annotators that are not there, not sound, or without a model."""
    problems = {}
    for asks, names in server_judges(config).items():
        key = "synthesize.rlaif.annotators" if asks.startswith("synthesize") else "judge.annotators"
        for name in names:
            try:
                annotator = load_annotator(annotator_path(name))
            except ConfigError as error:
                problems[name] = Problem((key,), f"{error.what}  ({error.where})", error.mend)
                continue
            if not annotator.model and not config.judge.server.model:
                what = f"annotator '{annotator.name}' names no model, and judge.server.model is empty"
                problems[name] = Problem((key, "judge.server.model"), what, "--set judge.server.model=NAME")
    return list(problems.values())


def file_problems(config: RunConfig) -> list[Problem]:
    """Local files and folders that the config names and that are not there. Hub ids are not looked up."""
    problems = annotator_problems(config)
    for table, file in data_files(config):
        problems += _missing_data(f"data.{table}.path", file.path)
        problems += _missing_data(f"data.{table}.columns_from", file.columns_from)
    models = {
        "model.path": config.model.path,
        "sft.ready_model": config.sft.ready_model,
        "train_rm.base_model": config.train_rm.base_model,
        "collect.annotator.path": config.collect.annotator.path,
        "evaluate.judge.path": config.evaluate.judge.path,
        "synthesize.equivalence.model": config.synthesize.equivalence.model,
    }
    for key, path in models.items():
        problems += _missing_model(key, path)
    return problems


def _missing_data(key: str, path: str) -> list[Problem]:
    if not path or path.startswith("hub:") or path.startswith("hf://"):
        return []
    if "://" in path:
        return [Problem((key,), f"{key} = '{path}' is no address we read", "a local file, hf://... or hub:OWNER/NAME")]
    local = expanded(path)
    kind = kind_at(local)
    if kind == "file":
        return []
    what = {
        "folder": f"{key} = '{path}' is a folder, not a file",
        "special": f"{key} = '{path}' is a pipe or a device, not a file",
        "unreachable": f"{key} names a file that cannot be reached (permissions, or a name too long)",
        "nothing": f"{key} names a file that is not there",
    }[kind]
    return [Problem((key,), what, f"looked for {local.absolute()} (relative paths count from the current folder)")]


def _missing_model(key: str, path: str) -> list[Problem]:
    if not path:
        return []
    local = expanded(path)
    kind = kind_at(local)
    if kind == "folder":
        if kind_at(local / "config.json") == "file":
            return []
        return [Problem((key,), f"{key} = '{path}' is a folder without config.json", "want what save_pretrained wrote")]
    if HUB_ID.fullmatch(path) and kind == "nothing":  # only the hub can answer for it
        return []
    mend = f"looked for {local.absolute()}; a model of the hub is called OWNER/NAME"
    return [Problem((key,), f"{key} names a model folder that is not there", mend)]
