from rlp_engine.run.reporting import LogReporter, TeeReporter


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
        "sft step 3 of 10   loss 0.1235   tokens 12345   0.2 s",
        "sft: done in 1.2 s   loss 0.5",
    ]
    assert lines(tmp_path / "b.log") == lines(tmp_path / "a.log")


def test_a_log_file_shows_progress_now_and_then_and_always_the_end(tmp_path):
    log = LogReporter(tmp_path / "a.log", interval_seconds=3600)
    for done in range(1, 101):
        log.progress("sample", done, 100, "prompts")
    log.close()
    assert lines(tmp_path / "a.log") == ["sample: 1 of 100 prompts", "sample: 100 of 100 prompts"]


def test_a_line_is_in_the_file_at_once(tmp_path):
    log = LogReporter(tmp_path / "a.log")
    log.line("here")
    assert lines(tmp_path / "a.log") == ["here"]
    log.close()
