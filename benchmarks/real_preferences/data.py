"""The judged pairs, the unlabelled output sets and the folds of the benchmark, read from the shared data.

Split by generator: nothing of the generators of the output sets, nor of their near relatives, is in D.
Split by instruction: five folds; two give D, two give P (the unlabelled sets), one gives neither.
"""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from rlp_engine.errors import DataError
from rlp_engine.randomness import permutation, uniforms

REFERENCES = {"text_davinci_003", "gpt4_1106_preview"}
# What D may not hold: the generators of the two output sets and every model of the same name or family.
HELD_OUT_PREFIXES = (
    *("vicuna", "alpaca-7b", "alpaca-farm", "falcon", "gpt-3.5", "gpt35", "gpt4", "guanaco", "oasst", "phi-2"),
    *("text_davinci_001", "claude", "bedrock_claude"),
)
OUTPUT_SETS = {"vicuna": "alpacaeval_vicuna_family8", "diverse": "alpacaeval_diverse12"}
LEFT_OUT_OF_SETS = {"diverse": {"text_davinci_003", "vicuna-13b-v1.3"}}  # a reference; a member of the other set
TABLES = ("train.parquet", "validation.jsonl.gz", "lenbalanced_train.jsonl.gz", "lenbalanced_validation.jsonl.gz")
NUM_FOLDS = 5
NEAR_DUPLICATE = 0.6  # word Jaccard: such instructions share a fold, as in the data's own splits
MOST_D_PAIRS_AN_INSTRUCTION = 12


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """Two outputs for one instruction, by their places in `Texts`."""

    instruction: int
    chosen: int
    rejected: int
    log_length_ratio: float  # ln(characters of chosen / of rejected)
    generator: str  # of the side that is no reference; "" when both are, and for LLMBar
    reference_chosen: bool


@dataclass(frozen=True, slots=True)
class UnlabelledSet:
    """The outputs that some generators gave to one instruction."""

    instruction: int
    texts: tuple[int, ...]
    generators: tuple[str, ...]


@dataclass
class Texts:
    """Every (instruction, output) that is read, once."""

    items: list[tuple[str, str]] = field(default_factory=list)
    _places: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, instruction: str, output: str) -> int:
        key = (instruction, output)
        if key not in self._places:
            self._places[key] = len(self.items)
            self.items.append(key)
        return self._places[key]


@dataclass(frozen=True)
class World:
    """All that the benchmark reads.

    `group_of[i]` numbers the near-duplicates of instruction i: the unit of folds and of the bootstrap.
    """

    texts: Texts
    group_of: list[int]
    judged: list[JudgedPair]  # of generators that may be in D
    tests: dict[str, list[JudgedPair]]  # by output set: judged pairs of its generators
    sets: dict[str, list[UnlabelledSet]]
    llmbar: dict[str, list[JudgedPair]]  # by part

    def folds(self, rotation: int) -> dict[int, int]:
        """Fold, 0 to 4, of every group: a shuffle by rotation // 5, turned by one place for each further rotation."""
        groups = sorted(set(self.group_of))
        shuffle, turn = divmod(rotation, NUM_FOLDS)
        order = permutation(len(groups), "real-preferences", "folds", shuffle)
        return {groups[place]: (rank - turn) % NUM_FOLDS for rank, place in enumerate(order)}

    def part_of(self, rotation: int) -> list[str]:
        """Of every instruction: "D" (folds 0, 1), "P" (2, 3) or "new" (4)."""
        fold_of = self.folds(rotation)
        return [("D", "D", "P", "P", "new")[fold_of[group]] for group in self.group_of]


def read_world(folder: Path, limit: int | None = None) -> World:
    """Read everything; `limit` keeps the first so many instructions (for a quick trial).

    Raises:
        DataError: if the shared data is not there.
    """
    if not (folder / "preferences" / "alpacaeval_train.parquet").is_file():
        raise DataError("the shared data is not here", where=str(folder), mend="name its folder with --data")
    texts, numbers, instructions = Texts(), {}, []
    sets: dict[str, list[UnlabelledSet]] = {}
    for name, file in OUTPUT_SETS.items():
        rows = list(_lines(folder / "outputs" / f"{file}.jsonl.gz"))[:limit]
        for row in rows:
            if row["instruction_id"] not in numbers:
                numbers[row["instruction_id"]] = len(instructions)
                instructions.append(row["instruction"])
        sets[name] = [_unlabelled(row, numbers, texts, LEFT_OUT_OF_SETS.get(name, set())) for row in rows]
    judged, tests = _judged_pairs(folder, numbers, texts, sets)
    llmbar = _llmbar(folder, texts, limit)
    return World(texts, near_duplicate_groups(instructions), judged, tests, sets, llmbar)


def _unlabelled(row: dict, numbers: dict[str, int], texts: Texts, left_out: set[str]) -> UnlabelledSet:
    kept = [(g, o) for g, o in zip(row["generators"], row["outputs"], strict=True) if o.strip() and g not in left_out]
    places = tuple(texts.add(row["instruction"], output) for _, output in kept)
    return UnlabelledSet(numbers[row["instruction_id"]], places, tuple(generator for generator, _ in kept))


def _judged_pairs(
    folder: Path, numbers: dict[str, int], texts: Texts, sets: dict[str, list[UnlabelledSet]]
) -> tuple[list[JudgedPair], dict[str, list[JudgedPair]]]:
    """(pairs that D may hold, at most 12 an instruction; test pairs by output set)."""
    set_of = {generator: name for name, rows in sets.items() for row in rows for generator in row.generators}
    tests: dict[str, list[JudgedPair]] = {name: [] for name in sets}
    allowed: dict[str, list[dict]] = defaultdict(list)
    for table in TABLES:
        for row in _rows(folder / "preferences" / f"alpacaeval_{table}"):
            if row["instruction_id"] not in numbers:
                continue
            generator = _other_side(row)
            if generator in set_of:
                tests[set_of[generator]].append(_pair(row, numbers, texts))
            elif not generator.startswith(HELD_OUT_PREFIXES):
                allowed[row["instruction_id"]].append(row)
    judged = []
    for instruction_id, rows in sorted(allowed.items()):
        order = permutation(len(rows), "real-preferences", "pool", instruction_id)[:MOST_D_PAIRS_AN_INSTRUCTION]
        judged += [_pair(rows[place], numbers, texts) for place in order]
    return judged, tests


def _other_side(row: dict) -> str:
    sides = [g for g in (row["chosen_generator"], row["rejected_generator"]) if g not in REFERENCES]
    return sides[0] if sides else ""


def _pair(row: dict, numbers: dict[str, int], texts: Texts) -> JudgedPair:
    return JudgedPair(
        numbers[row["instruction_id"]],
        texts.add(row["instruction"], row["chosen"]),
        texts.add(row["instruction"], row["rejected"]),
        math.log(len(row["chosen"]) / len(row["rejected"])),
        _other_side(row),
        row["chosen_generator"] in REFERENCES,
    )


def _llmbar(folder: Path, texts: Texts, limit: int | None) -> dict[str, list[JudgedPair]]:
    parts: dict[str, list[JudgedPair]] = defaultdict(list)
    for number, row in enumerate(list(_lines(folder / "eval" / "llmbar.jsonl"))[:limit]):
        outputs = (row["output_1"], row["output_2"])
        better, worse = outputs if row["label"] == 1 else outputs[::-1]
        ratio = math.log(max(1, len(better)) / max(1, len(worse)))
        chosen, rejected = (texts.add(row["input"], output) for output in (better, worse))
        part = "natural" if row["subset"].lower() == "natural" else "adversarial"
        parts[part].append(JudgedPair(number, chosen, rejected, ratio, "", False))
    return dict(parts)


def near_duplicate_groups(instructions: Sequence[str]) -> list[int]:
    """For each instruction the lowest number it is linked to by word Jaccard >= 0.6, over any chain."""
    words = [frozenset(text.casefold().split()) for text in instructions]
    group = list(range(len(words)))
    for i, own in enumerate(words):
        for j in range(i):
            union = len(own | words[j])
            if union and group[i] != group[j] and len(own & words[j]) >= NEAR_DUPLICATE * union:
                low, high = sorted((group[i], group[j]))
                group = [low if g == high else g for g in group]
    return group


def development_world(world: World) -> World:
    """A world of the same shape without any test pair: half of D's generators play the unseen ones.

    Settings are chosen here. Its one output set, "development", is what D's pool holds of that half.
    """
    names = sorted({pair.generator for pair in world.judged} - {""})
    draws = uniforms(len(names), "real-preferences", "development")
    unseen = {name for name, draw in zip(names, draws, strict=True) if draw < 0.5}
    tests = [pair for pair in world.judged if pair.generator in unseen]
    outputs: dict[int, dict[int, str]] = defaultdict(dict)
    for pair in tests:
        outputs[pair.instruction][pair.rejected if pair.reference_chosen else pair.chosen] = pair.generator
    rows = [UnlabelledSet(i, tuple(found), tuple(found.values())) for i, found in sorted(outputs.items())]
    rows = [row for row in rows if len(row.texts) >= 2]
    judged = [pair for pair in world.judged if pair.generator not in unseen]
    return World(world.texts, world.group_of, judged, {"development": tests}, {"development": rows}, {})


def _rows(path: Path) -> Iterator[dict]:
    yield from pq.read_table(path).to_pylist() if path.suffix == ".parquet" else _lines(path)


def _lines(path: Path) -> Iterator[dict]:
    with path.open("rb") as stored, gzip.open(stored) if path.suffix == ".gz" else stored as lines:
        for line in lines:
            yield json.loads(line)
