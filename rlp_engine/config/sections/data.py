"""[data] and [sandbox]: where rows come from."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from rlp_engine.config.sections.base import NonNegative, NonNegativeFloat, Positive, Section

DATA_TABLES = ("demonstrations", "preferences", "preference_instructions", "unlabeled", "validation", "test")
"""Keys of [data] that are tables of rows; stage `prepare` makes NAME.jsonl of each."""


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
