import pytest
from small_pipeline import mounted


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 256 KiB."""
    with mounted(tmp_path / "small_disk", "size=256k") as folder:
        yield folder


@pytest.fixture
def read_only_folder(tmp_path):
    """A real file system on which every write fails, for root too."""
    with mounted(tmp_path / "read_only", "ro") as folder:
        yield folder
