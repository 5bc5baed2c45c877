"""A run directory for the small stages of small_pipeline.py, and the file that they read."""

from __future__ import annotations

import os

import pytest
from small_pipeline import pipeline


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch):
    """No test here cuts the power, and a killed process's writes are safe with the kernel."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("b a c")
    return file


@pytest.fixture
def stages(data):
    return pipeline(data)


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder
