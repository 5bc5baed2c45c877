"""The folder of a launch's log files, and what is written when it ends."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rlp_engine.distributed.rank import RankProcess
from rlp_engine.errors import RlpError
from rlp_engine.run.atomic import remove_temporaries, temporary_name
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.reporting import LogReporter


@contextmanager
def log_files(layout: RunLayout, rank: RankProcess | None) -> Iterator[tuple[int, LogReporter]]:
    """A new folder for this launch, or the one that its launcher's parent made, and `latest` pointing to it."""
    number = rank.attempt if rank and rank.attempt else layout.new_attempt()
    folder = layout.attempt_logs(number)
    if rank:
        rank.logs_are_in(folder)
    remove_temporaries(layout.logs)
    with suppress(OSError):  # only for people, and some file systems have no links
        latest = layout.logs / "latest"
        if latest.is_dir() and not latest.is_symlink():  # the run was copied by something that follows links
            latest.rename(layout.logs / f"latest-before-{number}")
        link = temporary_name(latest)
        link.symlink_to(folder.name)
        link.replace(latest)
    log = LogReporter(folder / "rank_0.log")
    try:
        yield number, log
    except BaseException as error:  # for whoever reads the file later; the error itself goes on
        text = str(error) if isinstance(error, RlpError) else traceback.format_exc()
        with suppress(OSError):
            log.line(f"ended: {text}")
        raise
    finally:
        with suppress(OSError):  # what a full disk did not take at the last line
            log.close()
