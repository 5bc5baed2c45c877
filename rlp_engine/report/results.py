"""The first thing a reader wants: which policy wins, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlp_engine.report import names
from rlp_engine.report.comparisons import against_kl, differences
from rlp_engine.report.html import Markup, number, tag
from rlp_engine.report.rows import difference_to, dot, finite, is_difference, label_of, method_of, name_of, percent
from rlp_engine.report.score_parts import gains, parts
from rlp_engine.report.subsets import by_subset

KL_RATIO = 1.25  # policies whose KL differ by more than this factor get a warning


def section(results: Mapping[str, Any], colours: Mapping[str, int]) -> Markup:
    """Findings, the table of policies, paired differences, and win-rate against KL."""
    policies = [row for row in results.get("policies") or [] if isinstance(row, Mapping)]
    base = [row for row in policies if not names.parse(name_of(row)).kl_coefficient]
    paired = [row for row in results.get("paired") or [] if is_difference(row)]
    judge, reference = str(results.get("judge", "unknown")), str(results.get("reference", "the reference"))
    return tag(
        "section",
        tag("h2", "Results"),
        tag(
            "p",
            f"Held-out instructions; “{judge}” judges each answer against “{reference}”. A draw is half a win.",
            class_="muted",
        ),
        tag("div", _findings(base, paired, results), class_="cards"),
        _table(base, paired, colours),
        _caveats(base),
        parts(base, colours),
        gains(base, colours),
        by_subset(results, colours),
        differences(paired, colours),
        against_kl(policies, colours),
        _curve(policies, paired, colours),
        id="results",
    )


def _findings(
    policies: Sequence[Mapping[str, Any]], paired: Sequence[Mapping[str, Any]], results: Mapping[str, Any]
) -> list[Markup]:
    ranked = sorted((row for row in policies if finite(row.get("win_rate"))), key=lambda row: -row["win_rate"])
    if not ranked:
        return []
    best = ranked[0]
    cards = [
        _card(
            f"{number(best['win_rate'], 1)} ± {number(best.get('standard_error'), 1)} %",
            f"best win-rate: {label_of(best)} (one standard error, {number(best.get('n'))} instructions)",
        )
    ]
    refined = next(
        (row for row in ranked if method_of(row) not in ("sft", "ppo", "reseed") and "/" in name_of(row)), None
    )
    if refined is not None:
        for other in ("ppo", "reseed"):
            difference = difference_to(
                paired, name_of(refined), lambda name, other=other: names.parse(name).method == other
            )
            if difference is not None:
                value, low, high, rival = difference
                verdict = "interval clear of 0" if low > 0 or high < 0 else "interval holds 0: not told apart"
                cards.append(
                    _card(
                        number(value, 1, sign=True, unit=" points"),
                        f"{label_of(refined)} over {names.parse(rival).label}, same instructions "
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
        if finite(cell.get("accuracy")):
            on_ppo[str(model.get("name"))] = cell["accuracy"]
    after = next((value for name, value in on_ppo.items() if refined and _same_branch(name, name_of(refined))), None)
    if "train-rm" not in on_ppo or after is None:
        return []
    return [
        _card(
            f"{number(100 * on_ppo['train-rm'], 1)} → {number(100 * after, 1)} %",
            f"of pairs of PPO's own answers ordered rightly: first reward model → {label_of(refined)}'s",
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
    rates = [row["win_rate"] for row in policies if finite(row.get("win_rate"))]
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
        name = names.parse(name_of(row))
        is_best = finite(row.get("win_rate")) and row["win_rate"] == max(rates)
        cells = [
            tag("td", dot(colours.get(name.method, 0)), name.label, _sub(name)),
            tag("td", _rate(row, colours.get(name.method, 0))),
            tag("td", _against_ppo(paired, name.full)),
            tag("td", " · ".join(number(row.get(key)) for key in ("wins", "draws", "losses"))),
            *(tag("td", number(row.get(key), digits)) for key, digits in (("mean_score", 2), ("kl", 2))),
            *(tag("td", number(row.get(key), 1)) for key in ("mean_tokens", "mean_characters")),
            tag("td", number(percent(row.get("eos_share")), 1, unit=" %")),
        ]
        rows.append(tag("tr", cells, class_="best" if is_best else None))
    table = tag("table", tag("thead", tag("tr", head_row)), tag("tbody", rows))
    return tag("div", table, class_="scroll")


def _curve(
    policies: Sequence[Mapping[str, Any]], paired: Sequence[Mapping[str, Any]], colours: Mapping[str, int]
) -> Markup | None:
    """The policies trained at other weights of the KL penalty, folded away: the figure shows them all."""
    points = [row for row in policies if names.parse(name_of(row)).kl_coefficient]
    if not points:
        return None
    return tag(
        "details", tag("summary", f"Policies at other KL coefficients ({len(points)})"), _table(points, paired, colours)
    )


def _sub(name: names.Name) -> Markup | None:
    text = name.note or (name.full if "/" in name.full else "")
    return tag("span", text, class_="sub") if text else None


def _rate(row: Mapping[str, Any], colour: int) -> Markup:
    """A bar from 0 to 100 with a line at 50 and one standard error either side, and the number."""
    rate, error = row.get("win_rate"), row.get("standard_error")
    if not finite(rate):
        return tag("span", "–")
    low, high = (max(0.0, rate - error), min(100.0, rate + error)) if finite(error) else (rate, rate)
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
    difference = difference_to(paired, name, lambda other: other == "ppo")
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
    kls = [row["kl"] for row in policies if method_of(row) != "sft" and finite(row.get("kl")) and row["kl"] > 0]
    if not kls or max(kls) <= KL_RATIO * min(kls):
        return seeds
    scale = tag(
        "p",
        f"The policies stand at different KL, {number(min(kls))} to {number(max(kls))} nats, since reward models "
        "differ in scale. Compare them at equal KL (ppo.kl_coefficient) before calling one better.",
        class_="note",
    )
    return tag("div", seeds, scale)
