"""The launcher options of `rlp run` and of single stages: refused, or checked, before anything is started."""

from __future__ import annotations


def test_what_is_wrong_is_said_before_anything_is_started(rlp, new_run):
    launcher = ["--launcher", "deepspeed", "--nproc", 2]
    for command in (["run", new_run], ["ppo", new_run]):
        assert "--nproc needs a launcher" in rlp(*command, "--nproc", 2, code=3).stderr
        assert "--nnodes needs --master" in rlp(*command, *launcher, "--nnodes", 2, code=3).stderr
        wrong = ["--set", "ppo.rollout_batch=100", "--yes"]
        dry, real = rlp(*command, *launcher, *wrong, "--dry-run", code=3), rlp(*command, *launcher, *wrong, code=3)
        assert dry.stderr == real.stderr != ""
    assert "host file" in rlp("run", new_run, "--launcher", "deepspeed", "--hostfile", "hosts", code=3).stderr
    assert [path.name for path in new_run.iterdir()] == ["run.toml"]


def test_a_dry_run_starts_no_launcher(rlp, new_run):
    done = rlp("run", new_run, "--launcher", "accelerate", "--nproc", 2, "--dry-run")
    assert "Nothing was written. To do this: rlp run" in done.stdout
    assert [path.name for path in new_run.iterdir()] == ["run.toml"]
