"""The page in a real Chromium: nothing in it runs, not even what would have got past the escaping."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

# In the body, after the policy: each would rename the page when it runs.
ATTACKS = (
    "<script>document.title = 'owned'</script>"
    "<img src=x onerror=\"document.title = 'owned'\">"
    "<svg onload=\"document.title = 'owned'\"></svg>"
    "<iframe srcdoc=\"<script>parent.document.title = 'owned'</script>\"></iframe>"
    "<script src='data:text/javascript,document.title = `owned`'></script>"
)


def title_after_loading(page: str, folder: Path) -> str:
    file = folder / "page.html"
    file.write_text(page)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    done = subprocess.run(
        [BROWSER, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert found, done.stdout[:500]
    return found[1]


def test_hostile_texts_do_nothing(page: str, tmp_path: Path) -> None:
    title = re.search(r"<title>(.*?)</title>", page, re.S)[1]
    assert title_after_loading(page, tmp_path) == title


def test_scripts_that_got_past_the_escaping_are_stopped_by_the_policy(page: str, tmp_path: Path) -> None:
    title = re.search(r"<title>(.*?)</title>", page, re.S)[1]
    attacked = page.replace("<main", ATTACKS + "<main", 1)
    assert attacked != page
    assert title_after_loading(attacked, tmp_path) == title
    without_policy = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", attacked)
    assert without_policy != attacked
    assert title_after_loading(without_policy, tmp_path) == "owned"
