"""The only module that prints.

`Output` holds the four words every command takes: with --json one object goes to stdout and all else to
stderr; --quiet leaves the answer, warnings and errors; --verbose adds detail; colour is for terminals only.
Text is cleaned of terminal control sequences and of secrets, and never read as markup. A reader that closes the pipe
(`| head`) ends the printing, not the work.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from rlp_cli.streams import clean_streams, own
from rlp_cli.text import table_lines
from rlp_engine.errors import ResourceError
from rlp_engine.safe_text import clean, redact

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from rlp_engine.errors import RlpError

_STYLES = {"error": "1;31", "warning": "33", "good": "32", "pending": "33", "dim": "2", "head": "1"}
_MOST_SHOWN = 4000  # characters of each part of an error; --json has the whole
_NOT_ERRORS = {10, 129, 130, 143}  # work is pending; somebody stopped the run: what was asked for, not a failure
_STATUS_STYLES = {"done": "good", "failed": "error", "stale": "pending", "interrupted": "pending", "running": "pending"}


class Output:
    """Where a command's words go."""

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False, color: bool = True
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self._color = color
        self._out: TextIO = sys.stderr if as_json else sys.stdout
        self._no_color = not color or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    @property
    def on_terminal(self) -> bool:
        """May progress bars be drawn?"""
        return self._out.isatty() and os.environ.get("TERM") != "dumb"

    def words(self) -> list[str]:
        """The command-line words that make another process's Output like this one."""
        given = {
            "--json": self.as_json,
            "--quiet": self.quiet,
            "--verbose": self.verbose,
            "--no-color": not self._color,
        }
        return [word for word, is_given in given.items() if is_given]

    def say(self, text: str = "", style: str = "") -> None:
        """A line about the work; --quiet drops it."""
        if not self.quiet:
            self._write(self._out, text, style)

    def show(self, text: str = "", style: str = "") -> None:
        """A line of the answer. With --json the answer is the object, so the line is dropped."""
        if not self.as_json:
            self._write(self._out, text, style)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], *, say: bool = False) -> None:
        """A table as part of the answer, or (`say`) as a remark. A cell that is a status gets its colour."""
        write = self.say if say else self.show
        head, *lines = table_lines(headers, rows)
        write(head, "dim")
        for line, row in zip(lines, rows, strict=True):
            status = next((cell for cell in row if cell in _STATUS_STYLES), "")
            write(line, _STATUS_STYLES.get(status, ""))

    def result(self, value: Any) -> None:
        """With --json: the one object on stdout; an error after the answer goes to stderr alone.

        ASCII, so that no terminal sees a raw control character.
        """
        if self.as_json and not _answered:
            _answered.append(True)
            self._raw(_answer_stream(), redact(json.dumps(value, indent=2, allow_nan=False, default=str)) + "\n")

    def text(self, text: str) -> None:
        """A file's worth of text on stdout (CSV)."""
        self._raw(sys.stdout, clean(redact(text)))

    def warn(self, text: str) -> None:
        """Shown with --quiet too."""
        first, *rest = text.splitlines() or [""]
        self._write(sys.stderr, "\n".join([f"warning: {first}", *(f"         {line}" for line in rest)]), "warning")

    def error(self, error: RlpError) -> None:
        """The three-part message on stderr; with --json the same as an object on stdout."""
        problems: Sequence[RlpError] = getattr(error, "problems", ())
        self.stop_progress()
        told = {**_error_object(error), "exit_code": error.exit_code, "problems": [*map(_error_object, problems)]}
        self._result_of_failure(told)
        label = "" if error.exit_code in _NOT_ERRORS else "error: "
        for one in problems or [error]:
            self._error_parts(one.what, one.lines(), label)
        if problems:
            self._write(sys.stderr, f"{error.what}; nothing was started", "error")

    def usage_error(self, what: str, mend: str) -> None:
        """A wrong command line."""
        self._result_of_failure({"kind": "UsageError", "what": what, "mend": mend, "exit_code": 2, "problems": []})
        self._error_parts(what, [("mend", mend)])

    def bug(self, what: str, traceback: str) -> None:
        """An exception that no one foresaw: our fault, and said so."""
        self.stop_progress()
        self._result_of_failure({"kind": "bug", "what": what, "exit_code": 1, "problems": []})
        self._write(sys.stderr, traceback.rstrip())
        mend = "this is a bug in rlp: please report it with the lines above and the output of rlp --version"
        self._error_parts(what, [("mend", mend)])

    def traceback(self, text: str) -> None:
        """Detail for --verbose."""
        self._write(sys.stderr, text.rstrip(), "dim")

    def _result_of_failure(self, told: Mapping[str, Any]) -> None:
        with suppress(ResourceError):  # no room for the object; the words on stderr and the exit code still come
            self.result({"error": told})

    def _error_parts(self, what: str, parts: Sequence[tuple[str, str]], label: str = "error: ") -> None:
        self._write(sys.stderr, f"{label}{_bounded(what)}", "error" if label else "warning")
        labels = dict(parts)
        if "found" in labels and "want" in labels and len(labels["found"] + labels["want"]) < 100:
            parts = [(k, f"{v}      want: {labels['want']}" if k == "found" else v) for k, v in parts if k != "want"]
        for label, text in parts:
            self._write(sys.stderr, f"  {label + ':':<6} {_bounded(text)}")

    # --- progress

    def progress(self, label: str, done: int, total: int, detail: str) -> None:
        """Draw or move the bar at the bottom of a terminal. Anywhere else nothing happens."""
        if self.quiet or not self.on_terminal:
            return
        if self._progress is None or self._task is None:
            self._progress, self._task = _new_progress(own(self._out), no_color=self._no_color)
            self._progress.start()
            clean_streams()  # rich puts its own streams in place of the cleaned ones
        self._progress.update(self._task, description=clean(label), completed=done, total=total, detail=clean(detail))

    def stop_progress(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None

    def restore_cursor(self) -> None:
        """After another process drew a bar on our terminal, and may have been killed before it took it away."""
        if self.on_terminal:
            self._raw(self._out, "\x1b[?25h\x1b[2K\r")

    # --- writing

    def _write(self, stream: TextIO, text: str, style: str = "") -> None:
        text = clean(redact(text))
        if self._progress is not None:  # lines go above the bar
            from rich.text import Text

            # Text, not str: what looks like markup in a model's answer is printed, not obeyed.
            self._progress.console.print(Text(text, style=_RICH.get(style, "")), soft_wrap=True)
            return
        if style and stream.isatty() and not self._no_color:
            text = f"\x1b[{_STYLES[style]}m{text}\x1b[0m"
        self._raw(stream, text + "\n")

    def _raw(self, stream: TextIO, text: str) -> None:
        stream = own(stream)
        try:
            stream.write(text)
            stream.flush()
        except BrokenPipeError:
            hush(stream)
        except OSError as error:
            from rlp_engine.run.disk import is_full

            if not is_full(error):
                raise
            hush(stream)  # what is left in its buffer would fail again at the end
            if stream is not own(sys.stderr):  # remarks and errors are in the run's log too, and the exit code tells
                needed = f"{len(text.encode()):,} bytes"
                raise ResourceError(
                    "no space left on the disk for what rlp prints",
                    where=f"standard output: it needs {needed} for the next line",
                    mend="free some space, or send the output elsewhere, and run again: it continues",
                ) from error


_RICH = {"error": "bold red", "warning": "yellow", "good": "green", "pending": "yellow", "dim": "dim", "head": "bold"}


_answers: list[TextIO] = []  # stdout as the caller gave it, once --json has claimed it
_answered: list[bool] = []  # whether the one object is out: of the process, as stdout is


def claim_stdout() -> None:
    """With --json: keep stdout for the object, and point its descriptor at stderr for everyone else.

    Libraries log to stdout, some of them from C; a reader of the JSON must never meet that.
    """
    _answers.append(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def _answer_stream() -> TextIO:
    return _answers[-1] if _answers else sys.stdout


def hush(stream: TextIO) -> None:
    """Send what still comes to nowhere: the reader is gone, and Python would complain at exit otherwise."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def prepare_streams() -> None:
    """A terminal that knows only ASCII gets \\u escapes instead of an exception; libraries get cleaned streams.

    A closed stream (`>&-`, some daemons) must be open before anything else is: a file would get its number, and
    hold what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))  # noqa: SIM115  to the end
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    clean_streams()


def _bounded(text: str) -> str:
    """A part of a message that quotes what somebody wrote, or a file: never a screen full of it."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(text):,} characters)"


def _error_object(error: RlpError) -> Mapping[str, str]:
    parts = dict(error.lines())
    return {"kind": type(error).__name__, "what": error.what, **parts}


def _new_progress(stream: TextIO, *, no_color: bool) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=Console(file=stream, no_color=no_color),
        transient=True,
    )
    return progress, progress.add_task("", total=None, detail="")
