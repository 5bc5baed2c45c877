"""The HTML writer, and numbers and texts for people."""

from __future__ import annotations

from rlp_engine.report.html import Markup, clean, clip, number, tag


def test_tags_escape_text_and_attributes_and_keep_markup() -> None:
    assert tag("p", "<b>", Markup("<i></i>"), title='"x" & <y>') == (
        '<p title="&quot;x&quot; &amp; &lt;y&gt;">&lt;b&gt;<i></i></p>'
    )
    assert (
        tag("p", ["a", ["b", None]], class_="c", aria_hidden="true", style=None)
        == '<p class="c" aria-hidden="true">ab</p>'
    )
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_text_that_cannot_be_written_or_runs_backwards_is_replaced() -> None:
    assert clean("a\x00b\ud800c\u202ed\n\te") == "a\ufffdb\ufffdc\ufffdd\n\te"
    assert clean("čeština 日本語 🙂 עברית") == "čeština 日本語 🙂 עברית"


def test_numbers_for_people() -> None:
    assert number(1234567) == "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"
    assert number(-1.25, 1) == "−1.2"
    assert number(1.25, 2, sign=True, unit=" points") == "+1.25 points"
    assert number(-0.001, 1, sign=True) == "0.0"
    assert number(-1234.5, 1) == "−1\N{NARROW NO-BREAK SPACE}234.5"
    assert [number(x) for x in (None, float("nan"), float("inf"), "x", True)] == ["–"] * 5


def test_long_texts_say_how_much_is_left_out() -> None:
    assert clip("x" * 10, 4) == "xxxx … [6 more characters]"
    assert clip("short") == "short"
