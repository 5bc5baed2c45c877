"""Printing: nothing drives a terminal, nothing is markup, a closed pipe is no failure."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import unicodedata

import pytest
from cli_process import RLP, environment
from hypothesis import example, given
from hypothesis import strategies as st

from rlp_cli.render import Output
from rlp_cli.reporter import LINES_PER_STAGE, ConsoleReporter
from rlp_cli.results import show_results
from rlp_cli.text import duration, number, one_line, size, table_lines, toml_value
from rlp_engine.safe_text import clean, redact

ATTACKS = [
    ("\x1b[2J\x1b[31mred", "red"),
    ("\x1b]0;title\x07text", "text"),
    ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x9b31mred", "red"),
    ("back\x08\x08space", "backspace"),
    ("over\rwrite", "overwrite"),
    ("\u202egnp.exe", "gnp.exe"),
    ("tab\tand\nline", "tab\tand\nline"),
    ("unfinished \x1b]0;never ends", "unfinished 0;never ends"),
    ("a name\x1b] is on\nline 3 of a file\x07", "a name is on\nline 3 of a file"),
    ("\x1bP+q\x1b\\x", "x"),
    ("日本語 é 🙂", "日本語 é 🙂"),
]


@pytest.mark.parametrize(("text", "want"), ATTACKS)
def test_control_sequences_are_taken_out(text, want):
    assert clean(text) == want


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=40))
@example("\x1b\x1b[[31mm")
def test_no_control_character_gets_through(text):
    left = clean(text)
    assert not [c for c in left if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert not set(left) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert clean(left) == left


def test_a_table_is_aligned_with_numbers_on_the_right():
    rows = [["sft", "1.5", "a\nb"], ["round-1/spg", "120", ""]]
    assert table_lines(["name", "value", "text"], rows) == [
        "  name          value   text",
        "  sft             1.5   a b",
        "  round-1/spg     120",
    ]
    assert table_lines(["name"], []) == ["  name"]


def test_words_for_numbers_times_and_sizes():
    assert [number(v) for v in (1, 1.23456, None, True, 1e-5)] == ["1", "1.235", "-", "yes", "1e-05"]
    assert [duration(s) for s in (3.21, 59.94, 245, 7810)] == ["3.2 s", "59.9 s", "4 min 05 s", "2 h 10 min"]
    assert [size(b) for b in (0, 1023, 1536, 3 << 30)] == ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]
    assert one_line("a\n\nb  c", 4) == "a b…"
    assert toml_value({"a": [True, 'x"y']}) == '{a = [true, "x\\"y"]}'
    assert toml_value("one\ntwo") == '"one\\ntwo"'


def test_secrets_are_redacted(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    text = "key 0123456789abcdef token hf_ABCDEFGHIJKLMNOPQRST end"
    assert redact(text) == "key *** token *** end"


def test_results_are_tables_of_policies_and_reward_models(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    parts = {"gold": 1.0, "correct": 0.5, "style": -0.1, "length": 0.0, "hedge": 0.0}
    row = {"name": "sft", "win_rate": 47.26, "standard_error": 1.5, "mean_score": 1.0, "kl": None, "mean_tokens": 8.0}
    other = row | {"name": "round-1/[b]spg[/b]", "kl": 3.21456, "parts": parts}
    accuracy = {"sft": {"accuracy": 0.625, "n": 8}, "ppo": {"accuracy": None, "n": 0}}
    results = {
        "policies": [row | {"parts": parts}, other],
        "reward_models": [{"name": "train-rm", "accuracy": accuracy}],
    }
    show_results(Output(), results)
    assert stream.getvalue().splitlines() == [
        "  policy               win-rate %     ±   score     kl   tokens   correct    style",
        "  sft                        47.3   1.5   1.000      -      8.0     0.500   -0.100",
        "  round-1/[b]spg[/b]         47.3   1.5   1.000   3.21      8.0     0.500   -0.100",
        "",
        "  accuracy % on samples of    sft   ppo",
        "  train-rm                   62.5     -",
    ]


def test_results_of_a_gold_judge_tell_gains_right_answers_curves_and_synthetic_pairs(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    row = {"win_rate": 50.0, "standard_error": 2.0, "mean_score": 1.5, "kl": 1.25, "mean_tokens": 8.0}
    gain = {"score": 0.5, "standard_error": 0.05, "correct": 0.125, "style": 0.375}
    policies = [
        row | {"name": "sft", "kl": None, "gain": None},
        row | {"name": "ppo", "gain": gain},
        row | {"name": "ppo-kl0.5", "gain": gain},
        row | {"name": "round-1/spg", "gain": gain | {"score": 0.25, "correct": -0.125}},
    ]
    accuracies = [0.75, 0.625, 0.5]
    accuracy = {
        name: {"accuracy": value, "n": 8, "differing": {"accuracy": value - 0.25, "n": 4}}
        for name, value in zip(("sft", "ppo", "round-1/spg"), accuracies, strict=True)
    }
    models = [{"name": name, "accuracy": accuracy} for name in ("train-rm", "round-1/spg")]
    pairs = [{"name": "round-1/spg", "method": "spg", "accuracy": 0.926, "standard_error": 0.0106, "n": 605}]
    show_results(Output(), {"policies": policies, "reward_models": models, "synthetic_pairs": pairs})
    assert stream.getvalue().splitlines() == [
        "  policy        win-rate %     ±   score     kl   tokens",
        "  sft                 50.0   2.0   1.500      -      8.0",
        "  ppo                 50.0   2.0   1.500   1.25      8.0",
        "  round-1/spg         50.0   2.0   1.500   1.25      8.0",
        "",
        "  at other KL coefficients   win-rate %     ±   score     kl   tokens",
        "  ppo-kl0.5                        50.0   2.0   1.500   1.25      8.0",
        "",
        "  gain over sft   score       ±   correct   style   correct %",
        "  ppo             0.500   0.050     0.125   0.375          25",
        "  round-1/spg     0.250   0.050    -0.125   0.375           -",
        "",
        "  accuracy % on samples of    sft    ppo   its policy",
        "  train-rm                   75.0   62.5         62.5",
        "  round-1/spg                75.0   62.5         50.0",
        "",
        "  accuracy % of pairs of which one is right on samples of    sft    ppo   its policy",
        "  train-rm                                                  50.0   37.5         37.5",
        "  round-1/spg                                               50.0   37.5         25.0",
        "",
        "  synthetic pairs that the judge confirms      %     ±   pairs",
        "  round-1/spg                               92.6   1.1     605",
    ]
    stream.truncate(0)
    show_results(Output(verbose=True), {"policies": policies, "reward_models": models})
    assert "  accuracy % on samples of    sft    ppo   round-1/spg" in stream.getvalue().splitlines()


def test_a_part_that_equals_the_score_by_chance_is_shown(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    row = {"name": "sft", "win_rate": 4.2, "standard_error": 4.2, "mean_score": -1.5, "kl": -1e-5, "mean_tokens": 8.0}
    show_results(
        Output(), {"policies": [row | {"parts": {"gold": -1.5, "correct": 0.0, "style": -1.5, "polite": 0.0}}]}
    )
    head, line = stream.getvalue().splitlines()
    assert head.split()[-3:] == ["tokens", "correct", "style"]
    assert line.split() == ["sft", "4.2", "4.2", "-1.500", "0.00", "8.0", "0.000", "-1.500"]


def test_results_of_many_branches_fit_into_100_columns(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    names = ["sft", "ppo", "round-1/spg", "round-1/uml", "round-1/reward-pair"]
    row = {"win_rate": 47.26, "standard_error": 1.5, "mean_score": 1.0, "kl": 12.3, "mean_tokens": 123.4}
    parts = {"gold": 1.0, "correct": 0.5, "style": -0.1, "sentence": 0.1, "polite": 0.2}
    accuracy = {name: {"accuracy": 0.625} for name in names}
    policies = [row | {"name": name, "parts": parts} for name in [*names, "round-1/reseed"]]
    models = [{"name": name, "accuracy": accuracy} for name in ["train-rm", *names[2:]]]
    show_results(Output(), {"policies": policies, "reward_models": models})
    assert max(map(len, stream.getvalue().splitlines())) <= 100


class Lines(ConsoleReporter):
    """A reporter and what it wrote, without a terminal."""

    def __init__(self, monkeypatch, **words):
        self.stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", self.stream)
        super().__init__(Output(**words))

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def test_a_long_stage_has_a_line_at_intervals_and_at_both_ends(monkeypatch):
    reporter = Lines(monkeypatch)
    reporter.stage_started("ppo", "run", "not done yet")
    for step in range(1, 1001):
        reporter.step("ppo", step, 1000, {"clip_fraction": 0.1, "reward": step / 7}, 0.5)
    reporter.stage_finished("ppo", 500.0, {"reward": 1.0, "name": "not a number"})
    assert reporter.lines[0] == "ppo: run (not done yet)"
    assert reporter.lines[1] == "  step    1 of 1000   reward 0.143   0.5 s"
    assert reporter.lines[-2].startswith("  step 1000 of 1000")
    assert reporter.lines[-1] == "ppo: done in 8 min 20 s   reward 1"
    assert len(reporter.lines) == LINES_PER_STAGE + 1 + 2


def test_the_first_step_after_a_resume_has_a_line(monkeypatch):
    reporter = Lines(monkeypatch)
    reporter.step("ppo", 121, 600, {"reward": 1.0}, 0.5)
    assert reporter.lines == ["  step 121 of 600   reward 1   0.5 s"]


def test_progress_without_a_terminal_names_its_stage(monkeypatch):
    reporter = Lines(monkeypatch)
    monkeypatch.setattr("rlp_cli.reporter.SECONDS_BETWEEN_LINES", -1.0)
    reporter.progress("round-1/sample", 12, 388, "prompts")
    assert reporter.lines == ["  round-1/sample: 12 of 388 prompts"]


def test_verbose_shows_every_step_and_quiet_none(monkeypatch):
    verbose, quiet = Lines(monkeypatch, verbose=True), Lines(monkeypatch, quiet=True)
    for reporter in (verbose, quiet):
        for step in range(1, 101):
            reporter.step("sft", step, 100, {f"metric_{i}": 1.0 for i in range(12)}, 0.5)
    assert quiet.lines == []
    assert len(verbose.lines) == 100
    assert "metric_11" in verbose.lines[0]


def test_a_closed_pipe_is_quiet_and_no_failure(new_run):
    reader, writer = os.pipe()
    os.close(reader)
    for words in (["config", "show", new_run], ["config", "show", new_run, "--json"], ["run", "--help"]):
        done = subprocess.run(
            [RLP, *map(str, words)], stdout=writer, stderr=subprocess.PIPE, env=environment(), text=True, check=False
        )
        assert done.stderr == ""
        assert done.returncode == 0, words
    os.close(writer)


@pytest.mark.parametrize("words", [["config", "show"], ["config", "show", "--json"], ["metrics", "--csv"]])
def test_standard_output_on_a_full_disk_is_named(new_run, words):
    (new_run / "sft.partial").mkdir()
    (new_run / "sft.partial" / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    stage = ["sft"] if words[0] == "metrics" else []
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [RLP, *words, new_run, *stage],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
            check=False,
        )
    assert done.returncode == 6
    assert done.stderr.startswith("error: no space left on the disk for what rlp prints\n  where: standard output: it ")


def test_an_error_is_told_where_standard_output_has_no_room(new_run):
    with open("/dev/full", "w") as full:
        words = [RLP, "status", new_run / "none", "--json"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=environment(), text=True, check=False)
    assert done.returncode == 3
    assert "is not a run directory" in done.stderr


@pytest.mark.parametrize(
    ("words", "closed", "code"),
    [
        ("config show DIR", ">&-", 0),
        ("config show DIR --json", ">&-", 0),
        ("config show DIR", "<&- >&- 2>&-", 0),
        ("run DIR --only prepare", "<&- >&- 2>&-", 0),
        ("status DIR/none", "2>&-", 3),
    ],
)
def test_streams_that_were_closed_are_no_failure(new_run, words, closed, code):
    line = f"exec {RLP} {words.replace('DIR', str(new_run))} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stdout if ">&-" in closed else "", done.stderr) == (code, "", "")
    if "prepare" in words:  # what was printed went to nowhere, and not into a file that got the number of a stream
        assert {path.name for path in new_run.iterdir()} == {
            "run.toml",
            "prepare",
            "events.jsonl",
            "logs",
            "report.html",
        }


def on_terminal(*words: object, **more: str) -> str:
    """What a terminal would be sent."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [RLP, *map(str, words)], stdout=terminal, stderr=terminal, stdin=terminal, env=environment(TERM="xterm", **more)
    )
    os.close(terminal)
    parts = []
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:  # the other end is closed
            break
        parts.append(part)
    process.wait()
    os.close(controller)
    return b"".join(parts).decode()


def test_colour_is_for_terminals_and_can_be_refused(rlp, sft_run):
    assert "\x1b[" in on_terminal("status", sft_run)
    assert "\x1b[" not in on_terminal("status", sft_run, "--no-color")
    assert "\x1b[" not in on_terminal("status", sft_run, NO_COLOR="1")
    assert "\x1b[" not in rlp("status", sft_run).stdout


BAR = """
import sys
from rlp_cli.render import Output
from rlp_cli.reporter import ConsoleReporter
reporter = ConsoleReporter(Output())
reporter.stage_started("ppo", "run", "[red]why[/red]")
for step in range(1, 4):
    values = {"reward": 1.5, "kl": 0.0012345, "length": 212.5, "eos_share": 0.97, "entropy": 0.12345, "loss": 0.1}
    reporter.step("round-1/spg/ppo", step, 3, values, 0.1)
    reporter.line("[bold]model[/bold] says \\x1b[2J[/oops] hello")
reporter.stage_finished("ppo", 1.0, {})
"""


def test_beside_a_progress_bar_markup_and_escapes_are_only_text():
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", BAR], stdout=terminal, stderr=terminal, env=environment(TERM="xterm")
    )
    os.close(terminal)
    text = b""
    while True:
        try:
            text += os.read(controller, 65536)
        except OSError:
            break
    os.close(controller)
    assert process.wait() == 0
    assert text.count(b"[bold]model[/bold] says [/oops] hello") == 3
    assert b"\x1b[2J" not in text
    assert "━".encode() in text, "no bar was drawn"
    assert b"3/3" in text


def test_json_stdout_is_kept_from_everyone_else():
    code = (
        "import sys, os\n"
        "from rlp_cli import app\n"
        "def noisy(output):\n"
        "    sys.stdout.write('a library\\n')\n"
        "    os.write(1, b'and one in C\\n')\n"
        "    output.say('progress')\n"
        "    output.result({'answer': '\\x1b[31m'})\n"
        "app._add(app.app, 'noisy', noisy)\n"
        "app.main(['noisy', '--json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"answer": "\x1b[31m"}
    assert "\x1b" not in done.stdout
    assert {"a library", "and one in C", "progress"} <= set(done.stderr.splitlines())
