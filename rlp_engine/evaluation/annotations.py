"""Win-rates and paired differences of judgements that exist: AlpacaEval's files, and those of our runs (METHOD 6.1)."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from rlp_engine.data.judgements import Judgement
from rlp_engine.errors import DataError
from rlp_engine.evaluation.winrate import paired_bootstrap, win_rate


class Contest(NamedTuple):
    """A generator against a reference before an annotator: what one win-rate is of."""

    generator: str
    reference: str
    annotator: str


@dataclass(frozen=True)
class Comparison:
    """a - b on the instructions that both were judged on; rates and differences in per cent, lengths in characters."""

    a: str
    b: str
    win_rate_a: float
    win_rate_b: float
    difference: float
    standard_error: float | None  # paired; None for a single instruction
    low: float  # 95% bootstrap interval over instructions
    high: float
    n: int  # instructions judged for both
    dropped: int  # in both, but one judgement could not be read
    unmatched: int  # instructions of only one of the two
    mean_characters_a: float | None
    mean_characters_b: float | None


def by_contest(judgements: Iterable[Judgement]) -> dict[Contest, list[Judgement]]:
    """The judgements of each contest, in the order of the file."""
    contests: dict[Contest, list[Judgement]] = {}
    for judgement in judgements:
        contest = Contest(judgement.generator, judgement.reference, judgement.annotator)
        contests.setdefault(contest, []).append(judgement)
    return contests


def summary(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """The fields of `WinRate`, and mean lengths in characters; null where no judgement, or no text, is left.

    Lengths are means over all rows, the dropped ones included, as AlpacaEval's `avg_length` is.
    """
    preferences = [judgement.preference for judgement in judgements]
    if all(preference is None for preference in preferences):
        rates: dict[str, Any] = {"win_rate": None, "standard_error": None, "wins": 0, "losses": 0, "draws": 0}
        rates |= {"n": 0, "dropped": len(preferences)}
    else:
        rates = asdict(win_rate(preferences))
    return {
        **rates,
        "mean_characters": _mean(judgement.characters for judgement in judgements),
        "mean_reference_characters": _mean(judgement.reference_characters for judgement in judgements),
    }


def by_subset(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    """The judgements of each subset, in the order in which they first appear."""
    subsets: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        subsets.setdefault(judgement.subset, []).append(judgement)
    return subsets


def compare(a: Sequence[Judgement], b: Sequence[Judgement], *, names: tuple[str, str], force: bool) -> Comparison:
    """Paired difference of two generators' win-rates, matched by the text of the instruction.

    An instruction that stands k times in a file is matched k-th with k-th.

    Args:
        a, b: judgements of one contest each.
        names: what the two are called.
        force: compare although judges or references differ: then the difference is not one of the generators alone.

    Raises:
        DataError: nothing in common, or another judge or reference without `force`.
    """
    of_a, of_b = _numbered(a), _numbered(b)
    common = [key for key in of_a if key in of_b]
    if not common:
        raise DataError(
            f"{names[0]} and {names[1]} have no instruction in common",
            found=f"{len(a)} and {len(b)} instructions",
            mend="compare what was judged on the same test set",
        )
    rows_a, rows_b = [of_a[key] for key in common], [of_b[key] for key in common]
    if not force:
        _require_same_terms(rows_a, rows_b, names)
    preferences_a, preferences_b = [row.preference for row in rows_a], [row.preference for row in rows_b]
    difference = paired_bootstrap(preferences_a, preferences_b, key=("compare",))
    both = [i for i in range(len(common)) if preferences_a[i] is not None and preferences_b[i] is not None]
    return Comparison(
        *names,
        win_rate_a=win_rate([preferences_a[i] for i in both]).win_rate,
        win_rate_b=win_rate([preferences_b[i] for i in both]).win_rate,
        difference=difference.difference,
        standard_error=difference.standard_error,
        low=difference.low,
        high=difference.high,
        n=difference.n,
        dropped=len(common) - difference.n,
        unmatched=len(of_a) + len(of_b) - 2 * len(common),
        mean_characters_a=_mean(row.characters for row in rows_a),
        mean_characters_b=_mean(row.characters for row in rows_b),
    )


def _require_same_terms(rows_a: Sequence[Judgement], rows_b: Sequence[Judgement], names: tuple[str, str]) -> None:
    mend = "judge both alike, or --force to compare all the same"
    judges_a, judges_b = ({row.annotator for row in rows} for rows in (rows_a, rows_b))
    if judges_a != judges_b:
        raise DataError(
            f"{names[0]} and {names[1]} were judged by different annotators",
            found=f"{_listed(judges_a)} and {_listed(judges_b)}",
            mend=mend,
        )
    differ = [(x, y) for x, y in zip(rows_a, rows_b, strict=True) if not _same_reference(x, y)]
    if differ:
        x, y = differ[0]
        raise DataError(
            f"{names[0]} and {names[1]} were judged against different references",
            where=f"{len(differ)} of the {len(rows_a)} instructions in common",
            found=f"{x.reference or 'a reference without a name'} and {y.reference or 'one without a name'}"
            + (", whose answers differ" if x.reference == y.reference else ""),
            mend=mend,
        )


def _same_reference(x: Judgement, y: Judgement) -> bool:
    """Equal texts where both files have them; else equal names and lengths."""
    if x.reference_digest and y.reference_digest:
        return x.reference_digest == y.reference_digest
    lengths = (x.reference_characters, y.reference_characters)
    return x.reference == y.reference and (None in lengths or lengths[0] == lengths[1])


def _numbered(rows: Sequence[Judgement]) -> dict[tuple[str, int], Judgement]:
    seen: Counter[str] = Counter()
    numbered = {}
    for row in rows:
        numbered[row.instruction, seen[row.instruction]] = row
        seen[row.instruction] += 1
    return numbered


def _mean(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(name or "one without a name" for name in names))
