"""The first thing a reader wants: which policy wins, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlp_engine.report import figures, names
from rlp_engine.report.figures import Mark
from rlp_engine.report.html import Markup, number, tag

Z95 = 1.96  # standard errors to a 95% interval of a mean
MOST_DIFFERENCES = 14  # rows of the figure; all of them are in the table below it
KL_RATIO = 1.25  # policies whose KL differ by more than this factor get a warning


def section(results: Mapping[str, Any], colours: Mapping[str, int]) -> Markup:
    """Findings, the table of policies, paired differences, and win-rate against KL."""
    policies = [row for row in results.get("policies") or [] if isinstance(row, Mapping)]
    paired = [row for row in results.get("paired") or [] if _is_difference(row)]
    judge, reference = str(results.get("judge", "unknown")), str(results.get("reference", "the reference"))
    return tag(
        "section",
        tag("h2", "Results"),
        tag(
            "p",
            f"Held-out instructions; “{judge}” judges each answer against “{reference}”. A draw is half a win.",
            class_="muted",
        ),
        tag("div", _findings(policies, paired, results), class_="cards"),
        _table(policies, paired, colours),
        _caveats(policies),
        _parts(policies, colours),
        _differences(paired, colours),
        _against_kl(policies, colours),
        id="results",
    )


def _findings(
    policies: Sequence[Mapping[str, Any]], paired: Sequence[Mapping[str, Any]], results: Mapping[str, Any]
) -> list[Markup]:
    ranked = sorted((row for row in policies if _finite(row.get("win_rate"))), key=lambda row: -row["win_rate"])
    if not ranked:
        return []
    best = ranked[0]
    cards = [
        _card(
            f"{number(best['win_rate'], 1)} ± {number(best.get('standard_error'), 1)} %",
            f"best win-rate: {_label(best)} (one standard error, {number(best.get('n'))} instructions)",
        )
    ]
    refined = next((row for row in ranked if _method(row) not in ("sft", "ppo", "reseed") and "/" in _name(row)), None)
    if refined is not None:
        for other in ("ppo", "reseed"):
            difference = _difference(
                paired, _name(refined), lambda name, other=other: names.parse(name).method == other
            )
            if difference is not None:
                value, low, high, rival = difference
                verdict = "interval clear of 0" if low > 0 or high < 0 else "interval holds 0: not told apart"
                cards.append(
                    _card(
                        number(value, 1, sign=True, unit=" points"),
                        f"{_label(refined)} over {names.parse(rival).label}, same instructions "
                        f"(95 % interval {number(low, 1, sign=True)} to {number(high, 1, sign=True)}; {verdict})",
                        "good" if low > 0 else "bad" if high < 0 else "",
                    )
                )
    return cards + _accuracy_card(results, refined)


def _accuracy_card(results: Mapping[str, Any], refined: Mapping[str, Any] | None) -> list[Markup]:
    """How well the first and the refined reward model order the PPO policy's own answers."""
    on_ppo = {}
    for model in results.get("reward_models") or []:
        cell = (model.get("accuracy") or {}).get("ppo") or {}
        if _finite(cell.get("accuracy")):
            on_ppo[str(model.get("name"))] = cell["accuracy"]
    after = next((value for name, value in on_ppo.items() if refined and _same_branch(name, _name(refined))), None)
    if "train-rm" not in on_ppo or after is None:
        return []
    return [
        _card(
            f"{number(100 * on_ppo['train-rm'], 1)} → {number(100 * after, 1)} %",
            f"of pairs of PPO's own answers ordered rightly: first reward model → {_label(refined)}'s",
        )
    ]


def _same_branch(a: str, b: str) -> bool:
    """A reward model and a policy of the same round and method: "round-1/spg/refine-rm" and "round-1/spg"."""
    one, two = names.parse(a), names.parse(b)
    return (one.round, one.method) == (two.round, two.method)


def _card(big: str, what: str, tone: str = "") -> Markup:
    return tag("div", tag("div", big, class_=f"big {tone}".strip()), tag("div", what, class_="what"), class_="card")


def _table(
    policies: Sequence[Mapping[str, Any]], paired: Sequence[Mapping[str, Any]], colours: Mapping[str, int]
) -> Markup:
    rates = [row["win_rate"] for row in policies if _finite(row.get("win_rate"))]
    head = ["Policy", "Win-rate", "v PPO", "Won · drawn · lost", "Score", "KL", "Tokens", "Characters", "EOS"]
    titles = {
        "v PPO": "difference in percentage points on the same instructions, with its 95 % interval",
        "Score": "the judge's mean score",
        "EOS": "share of the answers that end by themselves",
        "KL": "nats a sequence from the SFT policy",
    }
    head_row = [tag("th", text, scope="col", title=titles.get(text)) for text in head]
    rows = []
    for row in policies:
        name = names.parse(_name(row))
        is_best = _finite(row.get("win_rate")) and row["win_rate"] == max(rates)
        cells = [
            tag("td", _dot(colours.get(name.method, 0)), name.label, _sub(name)),
            tag("td", _rate(row, colours.get(name.method, 0))),
            tag("td", _against_ppo(paired, name.full)),
            tag("td", " · ".join(number(row.get(key)) for key in ("wins", "draws", "losses"))),
            *(tag("td", number(row.get(key), digits)) for key, digits in (("mean_score", 2), ("kl", 2))),
            *(tag("td", number(row.get(key), 1)) for key in ("mean_tokens", "mean_characters")),
            tag("td", number(_percent(row.get("eos_share")), 1, unit=" %")),
        ]
        rows.append(tag("tr", cells, class_="best" if is_best else None))
    table = tag("table", tag("thead", tag("tr", head_row)), tag("tbody", rows))
    return tag("div", table, class_="scroll")


def _sub(name: names.Name) -> Markup | None:
    text = name.note or (name.full if "/" in name.full else "")
    return tag("span", text, class_="sub") if text else None


def _rate(row: Mapping[str, Any], colour: int) -> Markup:
    """A bar from 0 to 100 with a line at 50 and one standard error either side, and the number."""
    rate, error = row.get("win_rate"), row.get("standard_error")
    if not _finite(rate):
        return tag("span", "–")
    low, high = (max(0.0, rate - error), min(100.0, rate + error)) if _finite(error) else (rate, rate)
    drawn = tag(
        "svg",
        tag("rect", x=0, y=4, width=100, height=14, rx=1, class_="track"),
        tag("rect", x=0, y=4, width=f"{rate:.2f}", height=14, rx=1, class_=f"c{colour}"),
        tag("line", x1=50, x2=50, y1=1, y2=21, class_="half", vector_effect="non-scaling-stroke"),
        tag(
            "line", x1=f"{low:.2f}", x2=f"{high:.2f}", y1=11, y2=11, class_="error", vector_effect="non-scaling-stroke"
        ),
        class_="bar",
        viewBox="0 0 100 22",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    return tag("span", drawn, tag("span", f"{number(rate, 1)} ± {number(error, 1)}", class_="value"), class_="rate")


def _against_ppo(paired: Sequence[Mapping[str, Any]], name: str) -> list[Markup | str]:
    difference = _difference(paired, name, lambda other: other == "ppo")
    if difference is None:
        return ["–"]
    value, low, high, _ = difference
    tone = "good" if low > 0 else "bad" if high < 0 else None
    interval = tag("span", f"{number(low, 1, sign=True)} to {number(high, 1, sign=True)}", class_="sub")
    return [tag("span", number(value, 1, sign=True), class_=tone), interval]


def _caveats(policies: Sequence[Mapping[str, Any]]) -> Markup:
    seeds = tag(
        "p",
        "Errors and intervals are over instructions of this one run. A new seed alone moves a win-rate too: run "
        "several seeds before calling one method better.",
        class_="note",
    )
    kls = [row["kl"] for row in policies if _method(row) != "sft" and _finite(row.get("kl")) and row["kl"] > 0]
    if not kls or max(kls) <= KL_RATIO * min(kls):
        return seeds
    scale = tag(
        "p",
        f"The policies stand at different KL, {number(min(kls))} to {number(max(kls))} nats, since reward models "
        "differ in scale. Compare them at equal KL (ppo.kl_coefficient) before calling one better.",
        class_="note",
    )
    return tag("div", seeds, scale)


def _parts(policies: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> Markup | None:
    """Where a score comes from: correctness, or style alone?"""
    parts = list(dict.fromkeys(part for row in policies for part in row.get("parts") or {}))
    if not parts:
        return None
    head = [tag("th", text.replace("_", " "), scope="col") for text in ("Policy", *parts)]
    rows = [
        tag(
            "tr",
            tag("td", _dot(colours.get(_method(row), 0)), _label(row)),
            [tag("td", number((row.get("parts") or {}).get(part), 3)) for part in parts],
        )
        for row in policies
    ]
    return tag(
        "div",
        tag("h3", "What the score is made of"),
        tag("p", "Mean of each part of the judge's score.", class_="muted"),
        tag("div", tag("table", tag("thead", tag("tr", head)), tag("tbody", rows)), class_="scroll"),
    )


def _differences(paired: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> Markup | None:
    if not paired:
        return None
    marks = [
        Mark(
            f"{names.parse(str(row['a'])).label} − {names.parse(str(row['b'])).label}",
            row["difference"],
            row["low"],
            row["high"],
            colours.get(names.parse(str(row["a"])).method, 0),
        )
        for row in paired
    ]
    cells = [
        tag(
            "tr",
            tag("td", mark.label),
            tag("td", number(mark.value, 2, sign=True)),
            tag("td", f"{number(mark.low, 2, sign=True)} to {number(mark.high, 2, sign=True)}"),
        )
        for mark in marks
    ]
    head = tag("tr", tag("th", "Difference"), tag("th", "Points"), tag("th", "95 % interval"))
    figure = figures.forest(
        marks[:MOST_DIFFERENCES],
        name="paired",
        title="Paired differences of win-rates with 95 % intervals",
        x_label="difference in win-rate, percentage points",
        zero=0.0,
    )
    return tag(
        "div",
        tag("h3", "Paired differences"),
        tag("p", "Same instructions for both policies; bootstrap over instructions, 95 % intervals.", class_="muted"),
        tag("figure", figure, class_="wide"),
        tag(
            "details",
            tag("summary", "Numbers"),
            tag("div", tag("table", tag("thead", head), tag("tbody", cells)), class_="scroll"),
        ),
    )


def _against_kl(policies: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> Markup | None:
    """Where on the over-optimisation curve each policy stands."""
    placed = []
    for row in policies:
        x = 0.0 if _name(row) == "sft" and row.get("kl") is None else row.get("kl")
        if _finite(x) and _finite(row.get("win_rate")):
            half = Z95 * row["standard_error"] if _finite(row.get("standard_error")) else 0.0
            rate = row["win_rate"]
            mark = Mark(_label(row), rate, rate - half, rate + half, colours.get(_method(row), 0))
            placed.append((mark, float(x)))
    if len(placed) < 2:
        return None
    figure = figures.scatter(
        placed,
        name="kl",
        title="Win-rate against KL from the SFT policy",
        x_label="KL from the SFT policy, nats a sequence",
        y_label="win-rate, %",
    )
    return tag(
        "div",
        tag("h3", "What was gained, and how far the policy went for it"),
        tag("p", "Up and to the left is better; bars are 95 % intervals over instructions.", class_="muted"),
        tag("figure", figure, class_="wide"),
    )


def _difference(
    paired: Sequence[Mapping[str, Any]], name: str, is_other: Any
) -> tuple[float, float, float, str] | None:
    """(name - other, low, high, other) of the first pair of `name` with a policy that `is_other`, either way round."""
    for row in paired:
        a, b = str(row["a"]), str(row["b"])
        if a == name and b != name and is_other(b):
            return row["difference"], row["low"], row["high"], b
        if b == name and a != name and is_other(a):
            return -row["difference"], -row["high"], -row["low"], a
    return None


def _is_difference(row: Any) -> bool:
    return (
        isinstance(row, Mapping)
        and {"a", "b"} <= row.keys()
        and all(_finite(row.get(key)) for key in ("difference", "low", "high"))
    )


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _percent(value: object) -> float | None:
    return 100 * value if _finite(value) else None  # type: ignore[operator]


def _name(row: Mapping[str, Any]) -> str:
    return str(row.get("name", "unnamed"))


def _method(row: Mapping[str, Any]) -> str:
    return names.parse(_name(row)).method


def _label(row: Mapping[str, Any]) -> str:
    return names.parse(_name(row)).label


def _dot(colour: int) -> Markup:
    return tag("span", class_=f"dot c{colour}")
