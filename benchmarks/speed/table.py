"""Tables of docs/BENCHMARKS.md from the JSON lines: medians, spreads, paired ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.speed.run import Line, read_lines, results_file
from benchmarks.speed.shapes import ASKED_SHARES, PEERS, SHAPES, UNITS, Case, cases
from rlp_engine.errors import ConfigError

BEGIN, END = "<!-- speed tables: begin -->", "<!-- speed tables: end -->"
MIB = 2**20
LIMITS = {  # benchmark: (key of its lines, what it is a share of)
    "sampling": ("roofline_share", "reading weights and cache"),
    "ppo": ("utilisation", "matrix speed, optimisation"),
    "reward": ("utilisation", "matrix speed"),
    "sft": ("utilisation", "matrix speed"),
}


def write_tables(out: Path, page: Path) -> None:
    """Put the tables of the results in `out` between the page's markers.

    Raises:
        ConfigError: the page lacks a marker.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(
            "the page has no place for the tables", where=str(page), mend=f"write {BEGIN} and {END} in it"
        )
    page.write_text(f"{before}{BEGIN}\n\n{tables(read_all(out))}\n{END}{after}")


def read_all(out: Path) -> dict[str, list[Line]]:
    """Lines of each benchmark whose file is there."""
    names = [*PEERS, "startup"]
    files = {name: results_file(out, name) for name in names}
    return {name: list(read_lines(path)) for name, path in files.items() if path.exists()}


def tables(results: dict[str, list[Line]]) -> str:
    """All tables, one below the other; a case without pairs of both sides has no row."""
    known = {case.key: case for name in PEERS for case in cases(name, tuple(SHAPES))}
    pairs = {
        key: (case, *sides)
        for key, case in known.items()
        if (sides := _sides(results.get(case.benchmark, []), case)) is not None
    }
    parts = [_speed_table(pairs.values())] if pairs else []
    ppo = [row for (benchmark, _), row in pairs.items() if benchmark == "ppo"]
    parts += [_phase_table(ppo)] if ppo else []
    clusters = [row for (benchmark, _), row in pairs.items() if benchmark == "clustering"]
    parts += [_cluster_table(clusters)] if clusters else []
    limited = [
        row for row in pairs.values() if all(LIMITS.get(row[0].benchmark, ("",))[0] in x for x in row[1] + row[2])
    ]
    parts += [_limit_table(limited)] if limited else []
    parts += [_startup_table(results["startup"])] if results.get("startup") else []
    parts += [_machine(results)] if parts else []
    return "\n".join(parts) if parts else "No measurement is on file yet.\n"


def _sides(lines: Sequence[Line], case: Case) -> tuple[list[Line], list[Line]] | None:
    """(ours, peer) of the same pairs, in order; None without a whole pair."""
    of_case = [line for line in lines if line["case"] == case.name and line["role"] == "pair"]
    ours, peer = ({line["pair"]: line for line in of_case if line["side"] == side} for side in ("ours", "peer"))
    both = sorted(ours.keys() & peer.keys())
    return ([ours[i] for i in both], [peer[i] for i in both]) if both else None


def spread(values: Iterable[float], form: Callable[[float], str]) -> str:
    """Median, and the smallest and the largest of several."""
    values = list(values)
    middle = form(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({form(min(values))} to {form(max(values))})"


def ratios(ours: Sequence[Line], peer: Sequence[Line]) -> list[float]:
    """Rate over the peer's rate, pair by pair."""
    return [a["rate"] / b["rate"] for a, b in zip(ours, peer, strict=True)]


def _digits(value: float) -> str:
    """Three significant digits, thousands apart: 1,234 or 12.3 or 0.123."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _batches(ours: Sequence[Line], peer: Sequence[Line]) -> str:
    return f"{ours[0]['batch']} / {peer[0]['batch']}"


def _memory(lines: Sequence[Line]) -> float:
    return statistics.median(line["peak_bytes"] for line in lines)


def _speed_table(rows: Iterable[tuple[Case, list[Line], list[Line]]]) -> str:
    head = "| work | case | a second | rlp | peer | ratio | asked | batch | peak MiB, rlp / peer (share) |"
    lines = [head, "|---|---|---|---:|---:|---:|---:|---|---:|"]
    for case, ours, peer in rows:
        own, other = _memory(ours), _memory(peer)
        cells = [
            f"{case.benchmark}, against {PEERS[case.benchmark]}",
            case.name,
            UNITS[case.benchmark],
            spread((line["rate"] for line in ours), _digits),
            spread((line["rate"] for line in peer), _digits),
            f"**{spread(ratios(ours, peer), _ratio)}**",
            "-" if case.asked is None else f">= {_ratio(case.asked)}",
            _batches(ours, peer),
            f"{own / MIB:,.0f} / {other / MIB:,.0f} ({100 * own / other:.0f}%)",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _phase_table(rows: Iterable[tuple[Case, list[Line], list[Line]]]) -> str:
    """CPU-seconds of one PPO update by phase."""
    lines = ["CPU-seconds of one PPO update:", "", "| | generate | score | optimise | total | tokens an answer |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for case, ours, peer in rows:
        for name, side in (("rlp", ours), (PEERS["ppo"], peer)):
            phases = [
                spread((line["phases_cpu_seconds"][phase] / line["updates"] for line in side), _ratio)
                for phase in ("generate", "score", "optimise")
            ]
            total = spread((line["cpu_seconds"] / line["updates"] for line in side), _ratio)
            length = statistics.median(line["mean_answer"] for line in side)
            lines.append(f"| {name}, {case.name} | {' | '.join(phases)} | {total} | {length:.1f} |")
    return "\n".join(lines) + "\n"


def _limit_table(rows: Iterable[tuple[Case, list[Line], list[Line]]]) -> str:
    """Shares of the machine's limits: bandwidth in sampling, matrix speed in the optimisation of training."""
    lines = ["Share of what this machine could give (measured by a large copy and a large matrix product):", ""]
    lines += ["| work | case | limit | rlp | peer | asked |", "|---|---|---|---:|---:|---:|"]
    for case, ours, peer in rows:
        key, limit = LIMITS[case.benchmark]
        shares = [spread((100 * line[key] for line in side), "{:.1f}%".format) for side in (ours, peer)]
        asked = ASKED_SHARES.get((case.benchmark, case.size))
        wanted = "-" if asked is None else f">= {100 * asked:.0f}%"
        lines.append(f"| {case.benchmark} | {case.name} | {limit} | {' | '.join(shares)} | {wanted} |")
    return "\n".join(lines) + "\n"


def _cluster_table(rows: Iterable[tuple[Case, list[Line], list[Line]]]) -> str:
    lines = ["Clustering against the naive walk, identical clusters:", ""]
    lines += ["| encoder | forwards, rlp | naive | share | asked | CPU time, share | asked |", "|---|" + "---:|" * 6]
    for case, ours, peer in rows:
        own, other = ours[0]["forwards"], peer[0]["forwards"]
        times = [100 / ratio for ratio in ratios(ours, peer)]
        lines.append(
            f"| {case.name} | {own:,} | {other:,} | {100 * own / other:.0f}% | <= 57% "
            f"| {spread(times, '{:.0f}%'.format)} | <= 55% |"
        )
    return "\n".join(lines) + "\n"


def _startup_table(measured: Sequence[Line]) -> str:
    """The slowest help of each program, and quickstart's overhead."""
    lines = [
        "Start-up, the slowest of each:",
        "",
        "| command | CPU-seconds | wall seconds | asked |",
        "|---|---:|---:|---:|",
    ]
    for name, asked in (("rlp", "<= 0.3"), ("trl", "-")):
        commands: dict[str, list[Line]] = {}
        for line in measured:
            if line["side"] == name and line["role"] == "help":
                commands.setdefault(line["command"], []).append(line)
        for command, of_command in _slowest(commands, first=1 if name == "rlp" else len(commands)):
            seconds = [spread((line[key] for line in of_command), _ratio) for key in ("cpu_seconds", "wall_seconds")]
            note = f" (slowest of {len(commands)})" if name == "rlp" else ""
            lines.append(f"| `{command}`{note} | {' | '.join(seconds)} | {asked} |")
    heavy = [line for line in measured if line["role"] == "imports"]
    for line in heavy:
        lines.append(f"\nHeavy modules that any help of rlp imports: {', '.join(line['heavy']) or 'none'}.")
    for line in (line for line in measured if line["role"] == "quickstart"):
        share = 100 * line["outside_seconds"] / line["wall_seconds"]
        lines.append(
            f"\n`rlp run --preset quickstart`: {line['wall_seconds']:.1f} s, {line['outside_seconds']:.1f} s of them "
            f"({share:.1f}%) outside the stages' own work; asked: under 10%."
        )
    return "\n".join(lines) + "\n"


def _slowest(commands: dict[str, list[Line]], first: int) -> list[tuple[str, list[Line]]]:
    def cost(item: tuple[str, list[Line]]) -> float:
        return statistics.median(line["cpu_seconds"] for line in item[1])

    return sorted(commands.items(), key=cost, reverse=True)[:first]


def _machine(results: dict[str, list[Line]]) -> str:
    """Versions of both sides, from the lines themselves."""
    found: dict[str, set[str]] = {}
    for line in (line for lines in results.values() for line in lines):
        for name, version in line.get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    text = "; ".join(f"{name} {', '.join(sorted(versions))}" for name, versions in sorted(found.items()))
    return f"Median (smallest to largest). Versions, the same on both sides unless two are named: {text}.\n"
