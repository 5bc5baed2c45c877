"""The batch script: its words, its grammar, and its body under a Slurm made of two shell scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import launched
import pytest

from rlp_cli.commands.launch_script import slurm_script
from rlp_engine.errors import ConfigError

SETTINGS = {"name": "rlp-a", "nodes": 2, "tasks_per_node": 1, "stop_before_seconds": 300, "options": {}}
# As srun does it: a task a node, SIGTERM passed on, the largest exit code returned.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for rank in 0 1; do
  SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=$rank SLURM_LOCALID=0 SLURM_STEP_NODELIST=127.0.0.1 "$@" &
  tasks+=($!)
done
trap 'kill -TERM "${tasks[@]}"' TERM
largest=0
for task in "${tasks[@]}"; do
  wait "$task"; code=$?
  while kill -0 "$task" 2> /dev/null; do wait "$task"; code=$?; done
  (( code > largest )) && largest=$code
done
exit "$largest"
"""


def test_the_script_is_bash_that_sbatch_reads(rlp, new_run):
    words = ["--nodes", 2, "--gpus-per-node", 8, "--time", "24:00:00", "--partition", "gpu", "--output", "job-%j.log"]
    text = rlp("launch-script", new_run, "--scheduler", "slurm", *words).stdout
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    head = text[: text.index("\n\n")].splitlines()
    assert head[0] == "#!/bin/bash"
    assert {line.removeprefix("#SBATCH ") for line in head[1:]} == {
        f"--job-name=rlp-{new_run.name}",
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--signal=B:USR1@300",
        "--open-mode=append",
        "--requeue",
        "--time=24:00:00",
        "--partition=gpu",
        "--output=job-%j.log",
    }
    assert f"srun --kill-on-bad-exit=1 {sys.executable} -m rlp_cli run {new_run} &" in text


def test_what_a_batch_script_cannot_say_is_refused(rlp, new_run):
    with pytest.raises(ConfigError, match="no spaces in --job-name"):
        slurm_script(["true"], **SETTINGS | {"name": "a\n#SBATCH --uid=0"})
    assert (
        "no scheduler"
        in rlp("launch-script", new_run, "--scheduler=pbs", "--nodes=1", "--gpus-per-node=1", code=3).stderr
    )
    assert "launch-script" in rlp("launch-script", new_run, code=2).stderr


@pytest.mark.slow
def test_before_the_limit_it_stops_requeues_itself_and_resumes(tmp_path):
    run_dir, tools = tmp_path / "run", tmp_path / "tools"
    for folder in (run_dir, tools):
        folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": f'#!/bin/bash\necho "$@" >> {tmp_path}/scontrol\n'}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(slurm_script([sys.executable, launched.__file__, "rank", str(run_dir)], **SETTINGS))

    def job(fault: str) -> subprocess.Popen:
        paths = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
        slurm = {"SLURM_JOB_ID": str(os.getpid()), "OMP_NUM_THREADS": "1", launched.FAULT: fault}
        return subprocess.Popen(["bash", script], env={**os.environ, **paths, **slurm})

    first = job("pause")
    checkpoint = run_dir / "sft.partial" / "checkpoints" / "state.json"
    deadline = time.monotonic() + 60
    while not checkpoint.exists():
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(60) == 143
    assert (tmp_path / "scontrol").read_text() == f"requeue {os.getpid()}\n"
    done = json.loads(checkpoint.read_text())["step"]
    assert 1 <= done < launched.STEPS

    assert job("none").wait(60) == 0
    stage = json.loads((run_dir / "sft" / "stage.json").read_text())
    assert stage["summary"]["sum"] == 2 * sum(range(1, launched.STEPS + 1))
    assert (stage["attempts"], stage["platform"]["launcher"]) == (2, "srun")
    assert len((tmp_path / "scontrol").read_text().splitlines()) == 1, "what is done is not requeued"
