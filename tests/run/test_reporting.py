from rlp_engine.run.reporting import LINE_WIDTH, LogReporter, TeeReporter, step_line


def lines(path):
    """Without the time of day."""
    return [line.split(" ", 1)[1] for line in path.read_text().splitlines()]


def test_a_tee_hands_everything_to_all_in_a_log_file_as_lines(tmp_path):
    logs = [LogReporter(tmp_path / name) for name in ("a.log", "b.log")]
    tee = TeeReporter(*logs)
    tee.line("two\nlines")
    tee.warn("length grew")
    tee.stage_started("sft", "run", "not done yet")
    tee.step("sft", 3, 10, {"loss": 0.123456, "tokens": 12345}, 0.25)
    tee.stage_finished("sft", 1.25, {"loss": 0.5, "note": "text is left out"})
    for log in logs:
        log.close()
    assert lines(tmp_path / "a.log") == [
        "two",
        "lines",
        "warning: length grew",
        "sft: run (not done yet)",
        "sft step 3 of 10   loss 0.123   0.2 s",
        "sft: done in 1.2 s   loss 0.5",
    ]
    assert lines(tmp_path / "b.log") == lines(tmp_path / "a.log")


def test_a_log_file_shows_progress_now_and_then_and_always_the_end(tmp_path):
    log = LogReporter(tmp_path / "a.log", interval_seconds=3600)
    for done in range(1, 101):
        log.progress("sample", done, 100, "prompts")
    log.close()
    assert lines(tmp_path / "a.log") == ["sample: 1 of 100 prompts", "sample: 100 of 100 prompts"]


PPO = {"score": 1.9, "loss": 0.1, "kl_k1": 4.1, "entropy": 0.35543, "eos_share": 0.9722, "length": 212.34, "kl": 12.53}


def test_a_ppo_step_shows_what_tells_most_in_one_order():
    line = step_line("round-1/spg/ppo", 12, 60, PPO | {"reward": 1.8412}, 3.21)
    want = "round-1/spg/ppo step 12 of 60   reward 1.84   kl 12.5   length 212   eos 97%   entropy 0.355   3.2 s"
    assert line == want
    warm_up = {"loss": 1.39, "grad_norm_heads": 1.0, "learning_rate_heads": 0.003, "warmup": 1, "multi_view": 1.39}
    assert step_line("refine-rm", 1, 9, warm_up, 0.1) == "refine-rm step 1 of 9   loss 1.39   multi view 1.39   0.1 s"
    assert step_line("mine", 1, 9, {"tokens": 12345}, 0.1) == "mine step 1 of 9   tokens 12345   0.1 s"


def test_metrics_that_do_not_fit_are_left_out_of_the_line():
    values = {"loss": -0.00012345, "accuracy": 0.65625, "multi_view": -0.00012345, "grad_norm": 0.00012345}
    line = step_line("round-1/select-all/refine-rm", 100000, 100000, values, 1234.5)
    assert len(line) <= LINE_WIDTH
    assert "accuracy 0.656" in line
    assert "grad norm" not in line


def test_a_line_is_in_the_file_at_once(tmp_path):
    log = LogReporter(tmp_path / "a.log")
    log.line("here")
    assert lines(tmp_path / "a.log") == ["here"]
    log.close()
