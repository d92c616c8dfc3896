"""install.py in a folder of its own, with this environment's Python standing in for an installed one."""

import hashlib
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

FULL_DISK = "usage = shutil.disk_usage('.'); shutil.disk_usage = lambda _: usage._replace(free=2_000_000_000)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("install.py", "requirements.txt"):
        shutil.copy(settings.BASE_DIR / name, tmp_path)
    (tmp_path / ".env").touch()
    return tmp_path


def install(folder: Path, *, under: str = "") -> subprocess.CompletedProcess[str]:
    """Run install.py there, after the statements `under`."""
    program = f"import runpy, shutil, sys; {under}\nsys.argv = ['install.py']\n"
    program += "runpy.run_path('install.py', run_name='__main__')"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def installed(folder: Path) -> Path:
    """The folder with a virtual environment, whose packages are those of the one that runs this."""
    venv, ours = folder / ".venv", Path(sys.prefix)
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    shutil.copy(ours / "pyvenv.cfg", venv)
    (venv / "lib").symlink_to(ours / "lib")
    lock = (folder / "requirements.txt").read_bytes()
    (venv / "requirements.txt.sha256").write_text(hashlib.sha256(lock).hexdigest())
    return folder


def test_an_opencv_that_ends_python_without_a_word_is_said(folder: Path) -> None:
    python = folder / "python"
    python.write_text("#!/bin/sh\nkill -ILL $$\n")
    python.chmod(0o700)
    require = runpy.run_path(str(folder / "install.py"))["require_opencv_libraries"]
    require.__globals__["PYTHON"] = python

    with pytest.raises(Exception, match="OpenCV does not load: Python ended with -4"):
        require()


def test_an_unchanged_lock_is_nothing_to_do(installed: Path) -> None:
    done = install(installed)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_python_that_no_longer_finds_its_packages_is_made_anew(installed: Path) -> None:
    (installed / ".venv" / "lib").unlink()  # after an update of the system they lie under another version
    refused = install(installed, under=FULL_DISK)

    assert refused.returncode == 1
    assert "About 12 GB of disk are needed" in refused.stderr


@pytest.mark.parametrize("version", ["(3, 10, 13)", "(3, 14, 0)"])
def test_a_python_that_does_not_fit_is_said_and_nothing_is_made(folder: Path, version: str) -> None:
    refused = install(folder, under=f"sys.version_info = {version}")

    assert refused.returncode == 1
    assert "Python 3.11, 3.12 or 3.13 is needed" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (folder / ".venv").exists()


def test_a_disk_without_room_is_said_before_anything_is_downloaded(folder: Path) -> None:
    refused = install(folder, under=FULL_DISK)

    assert refused.returncode == 1
    assert "About 12 GB of disk are needed" in refused.stderr
    assert "2.0 GB are free" in refused.stderr
    assert not (folder / ".venv").exists()
