"""Checks that need more than the record itself: ids that repeat, misspelt splits, mixed generators."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping

from rlp_engine.data.columns import Columns, kind_of, shown
from rlp_engine.data.pair_shapes import pair_id
from rlp_engine.data.raw_rows import Place, Row
from rlp_engine.data.records import Demonstration, ModelOutput, PreferencePair, Prompt, Record
from rlp_engine.errors import DataError

SPLITS = (
    "train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation",
    "sft", "preference", "preferences", "unlabeled", "unlabelled", "extra", "heldout",
)  # fmt: skip


class CrossChecks:
    """Sees every row of a file once, in order. It keeps ids and digests, never texts."""

    def __init__(self, where: Mapping[str, str | int | bool]) -> None:
        self.where = where
        self.ids: dict[str, str] = {}  # id -> where it was first seen
        self.texts: dict[str, bytes] = {}  # prompt id -> digest of its instruction and input
        self.instructions: set[bytes] = set()
        self.generators: dict[str, None] = {}
        self.without_generator: list[Place] = []

    def split(self, row: Row) -> None:
        """Raise DataError for a split name that looks like a slip: rows would vanish from every split unseen."""
        if "split" not in row.values or ("split" in self.where and row.values["split"] == self.where["split"]):
            return
        name = row.values["split"]
        if not isinstance(name, str) or not name.strip():
            found = kind_of(name) if not isinstance(name, str) else "empty"
            raise DataError(f"`split` is {found}, want the name of a split")
        if name.startswith(SPLITS) and name == name.strip():
            return
        near = difflib.get_close_matches(name[:60].strip().lower(), SPLITS, n=1, cutoff=0.8)
        if near:
            raise DataError(f"`split` is {shown(name)}; is {near[0]!r} meant?", mend="correct the name")

    def identity(self, row: Row, columns: Columns, record: Record) -> None:
        """Raise DataError when an id that should be one row's is another's as well."""
        if isinstance(record, Prompt):
            self._unique(record.prompt_id, row)
        elif isinstance(record, PreferencePair | Demonstration):  # an instruction may have several
            if identifier := pair_id(columns):
                self._unique(identifier, row)
            self._same_text(record.prompt)

    def warnings(self, row: Row, record: Record) -> list[str]:
        """What is odd about a row that is kept."""
        if not isinstance(record, ModelOutput):
            return []
        digest = _digest(record.prompt)
        repeated = digest in self.instructions
        self.instructions.add(digest)
        if record.generator:
            self.generators[record.generator] = None
        elif not repeated:  # a row is counted as odd once
            self.without_generator.append(row.place)
        return ["the instruction stands in the file a second time: AlpacaEval joins files on it"] if repeated else []

    def odd_rows_at_the_end(self) -> Iterator[tuple[Place, str]]:
        """Rows that turn out odd once the whole file is known."""
        if self.generators:
            for place in self.without_generator:
                yield place, "no generator, while other rows name theirs"

    def notes_at_the_end(self) -> Iterator[str]:
        """What the whole file shows and no single row."""
        if len(self.generators) > 1:
            names = ", ".join(shown(name) for name in list(self.generators)[:5])
            yield f"{len(self.generators)} generators in one file: {names}"

    def _unique(self, identifier: str, row: Row) -> None:
        if identifier in self.ids:
            what = f"the id {shown(identifier)} stands at {self.ids[identifier]} already"
            raise DataError(what, mend="make ids unique")
        self.ids[identifier] = row.where

    def _same_text(self, prompt: Prompt) -> None:
        digest = _digest(prompt)
        if self.texts.setdefault(prompt.prompt_id, digest) != digest:
            raise DataError(
                f"the prompt id {shown(prompt.prompt_id)} stands for two different instructions", mend="make ids unique"
            )


def _digest(prompt: Prompt) -> bytes:
    return hashlib.blake2b(f"{prompt.instruction}\x00{prompt.input}".encode(), digest_size=12).digest()
