"""Two small stages for many ranks, and a bare launcher for them: as torchrun does it, without its seconds.

python launched.py spawn RUN_DIR    start two ranks of the next line; when one fails end the other
python launched.py rank RUN_DIR     a rank
python launched.py run RUN_DIR      the real `rlp run RUN_DIR` in two ranks of the bare launcher, and their parent
python launched.py parent RUN_DIR bare|deepspeed|accelerate [NODE_RANK MASTER]
                                    the parent of all that, or of a real launcher
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rlp_engine.config.schema import RunConfig
from rlp_engine.distributed.launch_environment import find_place, free_port
from rlp_engine.distributed.launchers import LaunchRequest, command_line
from rlp_engine.distributed.parent import REASONS
from rlp_engine.distributed.world import world
from rlp_engine.errors import DataError, RlpError
from rlp_engine.run import faults
from rlp_engine.run.atomic import write_json
from rlp_engine.stages.spec import StageContext, StageInput, StageSpec

STEPS = 6
RANKS = 2
# "data-error:1": rank 1 raises at step 3; "full:1": its disk is full there; "kill:1": it kills itself there;
# "pause": slow steps; "hang": in step 2; "elsewhere:1": rank 1 has another folder under the name of the run;
# "no-launcher": the launcher is killed before its ranks begin
FAULT = "TEST_FAULT"


def prepare(context: StageContext) -> dict[str, Any]:
    write_json(context.out / "rows.json", [1, 2, 3])
    return {"ranks_here": 1, "rank": world().rank}


def train(context: StageContext) -> dict[str, Any]:
    """A checkpoint a step by rank 0; every step needs every rank."""
    state_file = context.out / "checkpoints" / "state.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {"step": 0, "sum": 0}
    fault, _, rank = os.environ.get(FAULT, "").partition(":")
    for step in range(state["step"] + 1, STEPS + 1):
        state = {"step": step, "sum": state["sum"] + sum(world().gather(step))}
        if step == 1:
            context.reporter.warn(f"seen by rank {world().rank}")
        if world().is_leader:
            state_file.parent.mkdir(exist_ok=True)
            write_json(state_file, state)
        if step == 3 and rank == str(world().rank):
            if fault == "data-error":
                raise DataError("row 3 is not a row", where="rows.json, line 3", mend="mend it")
            if fault == "full":
                faults.arm("full:1")
                write_json(context.out / "rank_1.json", [step])
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        if fault == "pause" or (fault == "hang" and step == 2):
            time.sleep(0.3 if fault == "pause" else 600)
        context.reporter.step("sft", step, STEPS, {"sum": state["sum"]}, 0.1)
        if number := world().largest(context.stop.signal_number):
            context.stop.request(number)
            context.stop.check(f"after step {step}")
    if world().is_leader:
        write_json(context.out / "model.json", state)
    return {"sum": state["sum"]}


def pipeline(_: RunConfig) -> list[StageSpec]:
    rows = StageInput("rows", stage="prepare", path="rows.json")
    return [
        StageSpec("prepare", "prepare", 1, (), ("seed",), "launched:prepare"),
        StageSpec("sft", "sft", 1, (rows,), ("seed",), "launched:train", ranks="all"),
    ]


def rank(run_dir: Path) -> None:
    import typer

    from rlp_cli.launching import Part, as_rank
    from rlp_cli.render import Output
    from rlp_cli.reporter import ConsoleReporter
    from rlp_engine.stages.runner import execute

    def lead(_: Part) -> None:
        execute(run_dir, pipeline(RunConfig()), RunConfig(), reporter=ConsoleReporter(Output()))

    place = find_place(os.environ)
    assert place is not None
    if os.environ.get(FAULT) == f"elsewhere:{place.rank}":
        run_dir = run_dir / "elsewhere"
    try:
        as_rank(run_dir, place, lead, pipeline)
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except RlpError as error:
        Output().error(error)
        sys.exit(error.exit_code)


def spawn(run_dir: Path, program: str = "") -> None:
    shared = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = ["-m", "rlp_cli", "run"] if program == "rlp" else [__file__, "rank"]
    command = [sys.executable, *words, str(run_dir)]
    os.write(1, b"\x1b[36m a launcher in colour \x1b[0m\x1b]0;title\x07\xff\n")
    if os.environ.get(FAULT) == "no-launcher":  # and before that a rank, in the middle of a write
        (Path(os.environ[REASONS]) / ".rank_0.exit.json.1-0.tmp").write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)
    ranks = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(number), "LOCAL_RANK": str(number)})
        for number in range(RANKS)
    ]
    while any(process.poll() is None for process in ranks):
        time.sleep(0.05)
        if code := next(filter(None, (process.poll() for process in ranks)), 0):
            for process in ranks:
                process.terminate()
            sys.exit(f"a rank ended with exit code = {code}")


def run(run_dir: Path) -> None:
    from rlp_cli.app import main
    from rlp_cli.render import Output
    from rlp_engine.run.launch import launch
    from rlp_engine.run.signals import StopSignal

    output = Output()
    output.say("starting 2 ranks with the bare launcher")
    command = [sys.executable, __file__, "spawn", str(run_dir), "rlp"]
    with StopSignal("to continue: again") as stop:
        request, words = LaunchRequest("deepspeed", nproc=RANKS), ["run", str(run_dir)]
        outcome = launch(request, run_dir, words, stop=stop, said=lambda text: None, build=lambda *_, **__: command)
    assert outcome.bug is None, outcome.bug
    if outcome.error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as rlp_cli/app.py
        output.error(outcome.error)
        sys.exit(outcome.error.exit_code)
    main(words)  # nothing is left to do but the page


def parent(run_dir: Path, launcher: str, node_rank: str = "", master: str = "") -> None:
    from rlp_cli.render import Output
    from rlp_engine.run.launch import launch
    from rlp_engine.run.signals import StopSignal

    def build(*arguments: Any, **more: Any) -> list[str]:
        if launcher == "bare":
            return [sys.executable, __file__, "spawn", str(run_dir)]
        command = command_line(*arguments, **more)
        return [*command[: command.index("--module")], __file__, "rank", str(run_dir)]

    request = LaunchRequest("deepspeed" if launcher == "bare" else launcher, nproc=RANKS)
    if master:
        request = LaunchRequest(launcher, nproc=1, nnodes=RANKS, node_rank=int(node_rank), master=master)
    with StopSignal("to continue: again") as stop:
        outcome = launch(request, run_dir, [], stop=stop, said=lambda text: None, build=build)
    assert outcome.bug is None, outcome.bug
    if outcome.error:
        Output().error(outcome.error)
        sys.exit(outcome.error.exit_code)


if __name__ == "__main__":
    {"rank": rank, "spawn": spawn, "run": run, "parent": parent}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
