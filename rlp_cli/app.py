"""The `rlp` command: builds the Typer app, and turns what goes wrong into a message and an exit code.

Nothing that is imported here may import torch, transformers or pydantic: `rlp --help` must be quick
(tests/cli/test_startup.py). Commands import the engine inside their functions.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer
import typer.main

from rlp_cli.commands import (
    clean,
    compare,
    config,
    data,
    doctor,
    export,
    init,
    launch_script,
    metrics,
    presets,
    report,
    run,
    score_pairs,
    stage,
    status,
    study,
    winrate,
)
from rlp_cli.options import with_output
from rlp_cli.render import Output, claim_stdout, hush, prepare_streams
from rlp_cli.text import one_line
from rlp_engine.errors import ConfigError, Interrupted, ResourceError, RlpError

# Typer carries its own copy of click since 0.2x; its public BadParameter leads to the classes of whichever it uses.
_UsageError, _ClickException = typer.BadParameter.__mro__[1:3]

_HELP = ["-h", "--help"]

app = typer.Typer(
    name="rlp",
    help="Align a language model by Reward Learning on Policy. Start with: rlp run --preset quickstart",
    context_settings={"help_option_names": _HELP},
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from rlp_engine import __version__

        Output().show(f"rlp {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _add(to: typer.Typer, name: str, function: Callable[..., None]) -> None:
    to.command(name)(with_output(function))


_add(app, "run", run.run)
_add(app, "init", init.init)
for _kind in stage.KINDS:
    _add(app, _kind, stage.command_for(_kind))
_add(app, "status", status.status)
_add(app, "metrics", metrics.metrics)
_add(app, "report", report.report)
_add(app, "study", study.study)
_add(app, "compare", compare.compare)
_add(app, "winrate", winrate.winrate)
_add(app, "score-pairs", score_pairs.score_pairs)
_add(app, "presets", presets.presets)

_config = typer.Typer(help="Show, check or compare configs.", rich_markup_mode=None)
_add(_config, "show", config.show)
_add(_config, "check", config.check)
_add(_config, "diff", config.diff)
app.add_typer(_config, name="config")

_data = typer.Typer(help="Look into data files.", rich_markup_mode=None)
_data.callback()(lambda: None)  # keeps `check` a sub-command though it is the only one
_add(_data, "check", data.check)
app.add_typer(_data, name="data")

_add(app, "launch-script", launch_script.launch_script)
_add(app, "export", export.export)
_add(app, "clean", clean.clean)
_add(app, "doctor", doctor.doctor)


def help_text(words: Sequence[str]) -> str | None:
    """The help that these words ask for; None when they ask for none, or for a command that is not there.

    Typer parses before it helps, and loads pydantic for that: 0.13 s of the 0.3 s that help may take.
    """
    if not set(_HELP) & set(words):
        return None
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="rlp", help_option_names=_HELP)
    for word in words:
        if word in _HELP or not hasattr(command, "commands"):
            break
        if word not in command.commands:
            return None
        command = command.commands[word]
        context = typer.Context(command, info_name=word, parent=context)
    return context.get_help()


def hear_ctrl_c_again(ignored: sys.UnraisableHookArgs) -> None:
    """Python can raise nothing in a destructor or a weak reference's callback: a Ctrl-C that came just there would be a
    traceback on the screen, and forgotten. So it is sent once more, a moment later."""
    if isinstance(ignored.exc_value, KeyboardInterrupt):
        main_thread = threading.main_thread().ident
        threading.Timer(0.01, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(ignored)


def _obeyed_ctrl_c() -> None:
    """The work has stopped: another Ctrl-C could only end us while we say so, or by its signal and not with 130."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line; never returns. Exit codes: see rlp_engine/errors.py."""
    prepare_streams()
    sys.unraisablehook = hear_ctrl_c_again
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "RANK" in os.environ:  # `deepspeed` and `torch.distributed.launch` put it before the words of their command
        arguments = [word for word in arguments if not word.startswith(("--local_rank=", "--local-rank="))]
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    output = Output(
        as_json="--json" in words,
        verbose="--verbose" in words or "-v" in words,
        color="--no-color" not in words,
    )
    if output.as_json:
        claim_stdout()
    try:
        is_completion = "_RLP_COMPLETE" in os.environ  # the shell asks, in the environment, with no words
        helped = help_text(words if arguments or is_completion else _HELP)
        if helped is not None:
            Output().show(helped)
            sys.exit(0)
        code = app(args=arguments, prog_name="rlp", standalone_mode=False) or 0
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "rlp"
        output.usage_error(one_line(error.format_message()), f"{command} --help")
        code = error.exit_code
    except _ClickException as error:
        output.usage_error(one_line(error.format_message()), "rlp --help")
        code = error.exit_code
    except typer.Abort:
        output.warn("stopped; nothing was changed")
        code = 130
    except KeyboardInterrupt:
        _obeyed_ctrl_c()
        code = 130
    except BrokenPipeError:
        hush(sys.stdout)
        code = 0
    except RlpError as error:
        if isinstance(error, Interrupted):
            _obeyed_ctrl_c()
        if output.verbose:
            output.traceback(traceback.format_exc())
        output.error(error)
        code = error.exit_code
    except MemoryError as error:  # of a command that only reads; a run says which keys to lower
        if output.verbose:
            output.traceback(traceback.format_exc())
        mend = "give it more memory, or a smaller file or model"
        output.error(ResourceError("out of memory", where=f"rlp {arguments[0]}", found=str(error), mend=mend))
        code = ResourceError.exit_code
    except Exception as error:  # the one place that may: what nobody foresaw is our bug, told as one
        code = _unforeseen(output, error)
    sys.exit(code)


def _unforeseen(output: Output, error: Exception) -> int:
    """Say what no command has a word for; the exit code."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # any path of the words or of the config
        told = ConfigError("a path is too long for the file system", where=str(error.filename), mend="shorten it")
        output.error(told)
        return told.exit_code
    output.bug(f"{type(error).__name__}: {error}", traceback.format_exc())
    return 1
