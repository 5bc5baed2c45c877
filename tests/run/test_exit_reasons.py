"""From what each rank leaves to one error and one exit code."""

from __future__ import annotations

import signal

import pytest

from rlp_engine import errors
from rlp_engine.errors import DataError, HealthError, Interrupted, LostRankError, RlpError
from rlp_engine.run.exit_reasons import ExitReason, LostRanksInWords, first_cause, read_reasons, reason_of

GONE = RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711")


def left(folder, rank, error):
    reason = reason_of(rank, error)
    reason.write(folder)
    return reason


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_every_error_comes_back_with_its_code_and_words(kind, tmp_path):
    if kind in (RlpError, LostRankError):
        return
    given = kind(*([signal.SIGINT] if kind is Interrupted else []), "what", where="where", mend="mend")
    left(tmp_path, 0, given)
    back = read_reasons(tmp_path)[0].error()
    assert (type(back), back.exit_code, str(back)) == (kind, given.exit_code, str(given))


def test_the_first_cause_is_neither_a_consequence_nor_the_stop_that_followed_it(tmp_path):
    left(tmp_path, 0, GONE)
    left(tmp_path, 1, Interrupted(signal.SIGTERM, "stopped by SIGTERM"))  # the launcher's, after rank 2 had failed
    left(tmp_path, 2, DataError("a row"))
    left(tmp_path, 3, HealthError("NaN"))
    left(tmp_path, 4, None)
    cause = first_cause(read_reasons(tmp_path))
    assert (cause.rank, cause.exit_code) == (2, 4)
    assert str(cause.error()) == "rank 2: a row"
    assert read_reasons(tmp_path)[3].error().what == "NaN", "every rank raises a HealthError"


def test_a_stop_that_was_asked_for_is_a_cause_when_nothing_else_is(tmp_path):
    reasons = [left(tmp_path, 0, Interrupted(signal.SIGTERM, "stopped")), left(tmp_path, 1, GONE)]
    assert first_cause(reasons).exit_code == 143
    assert first_cause(reasons[1:]) is None
    assert first_cause([left(tmp_path, 0, None)]) is None


def test_a_bug_keeps_its_traceback(tmp_path):
    try:
        raise KeyError("x")
    except KeyError as error:
        reason = left(tmp_path, 1, error)
    assert reason.is_bug
    assert "KeyError: 'x'" in reason.trace
    assert not reason_of(1, GONE).is_bug


def test_a_rank_that_lost_another_says_what_became_of_it(tmp_path):
    left(tmp_path, 2, DataError("a row", where="line 3"))
    with pytest.raises(LostRankError, match="rank 2: a row") as caught, LostRanksInWords(tmp_path, 0):
        raise GONE
    assert caught.value.exit_code == 4
    assert caught.value.where == "line 3"
    assert reason_of(0, caught.value).is_consequence


def test_other_errors_pass_as_they_are(tmp_path):
    for folder, error in [(tmp_path, RuntimeError("shape mismatch")), (None, GONE), (tmp_path, DataError("nccl"))]:
        with pytest.raises(type(error)) as caught, LostRanksInWords(folder, 0):
            raise error
        assert caught.value is error


def test_a_code_without_an_error():
    assert reason_of(0, SystemExit(3)) == ExitReason(
        0, 3, "SystemExit", "ended with code 3", time=pytest.approx(0, abs=1e12)
    )
    assert reason_of(0, SystemExit(None)).exit_code == 0
