"""Installs the locked requirements into `.venv`: what `make install` and `make run` do first.

python3 install.py [--dev]

Runs on any Python 3 without a package of anybody's, so that it can say when that Python is too old. It is
done in a moment where the lock has not changed since the last time.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
# TensorFlow, the reference face detector, has no release for Python 3.14 yet.
OLDEST, NEWEST = (3, 11), (3, 13)
GIGABYTES = 12  # 8 to stay, the rest while pip unpacks


class InstallError(Exception):
    """What is missing, in a sentence for whoever installs."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Install what this project needs into .venv.")
    parser.add_argument("--dev", action="store_true", help="also what its tests need")
    names = ["requirements.txt", "requirements-dev.txt"] if parser.parse_args().dev else ["requirements.txt"]
    missing = [name for name in names if not is_installed(name)]
    if missing:
        require_python()
        if not works(PYTHON):
            require_disk()
            make_venv()
    for name in missing:
        install(name)
    if not (ROOT / ".env").exists():
        subprocess.run([str(PYTHON), "-m", "fer_site.dotenv"], cwd=ROOT, check=True)


def is_installed(name: str) -> bool:
    stamp = VENV / f"{name}.sha256"
    return stamp.exists() and stamp.read_text() == checksum(name) and works(PYTHON)


def checksum(name: str) -> str:
    return hashlib.sha256((ROOT / name).read_bytes()).hexdigest()


def works(python: Path) -> bool:
    """Whether the virtual environment's Python is one of ours, runs and finds its packages.

    It does not once its origin has gone, or has become another version by an update of the system.
    """
    try:
        test = f"import sys, pip; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
        tried = subprocess.run([str(python), "-c", test], stderr=subprocess.DEVNULL, check=False)
        return tried.returncode == 0
    except OSError:
        return False


def require_python() -> None:
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise InstallError(
            f"Python 3.11, 3.12 or 3.13 is needed, and {sys.executable} is Python {sys.version.split()[0]}. "
            "Install one of them (Debian and Ubuntu: apt-get install python3 python3-venv) and run this "
            "again, or name it: make install PYTHON=/path/to/python3.12"
        )


def require_disk() -> None:
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < GIGABYTES:
        raise InstallError(
            f"About {GIGABYTES} GB of disk are needed, most of it for PyTorch and TensorFlow, "
            f"and {free:.1f} GB are free in {ROOT}. Make room and run this again."
        )


def make_venv() -> None:
    say(f"Making a virtual environment in {VENV} ...")
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", VENV], stdout=subprocess.DEVNULL, check=False
    )
    if made.returncode:
        raise InstallError(
            "The virtual environment could not be made; the reason is above. "
            "On Debian and Ubuntu it often is: apt-get install python3-venv"
        )


def install(name: str) -> None:
    packages = sum(line[0].isalpha() for line in (ROOT / name).read_text().splitlines() if line)
    say(f"Installing {packages} packages of {name}: the first time this takes some minutes ...")
    options = ["--disable-pip-version-check", "--require-hashes", "-r", str(ROOT / name)]
    if subprocess.run([str(PYTHON), "-m", "pip", "install", *options], check=False).returncode:
        raise InstallError(
            f"Not everything of {name} could be installed; the reason is above. Without an internet "
            "connection or with a full disk, mend that and run this again: it goes on where it was."
        )
    require_opencv_libraries()
    (VENV / f"{name}.sha256").write_text(checksum(name))


def require_opencv_libraries() -> None:
    tried = subprocess.run([str(PYTHON), "-c", "import cv2"], capture_output=True, text=True, check=False)
    if tried.returncode:
        # One that is killed, as on a processor without what it needs, says nothing.
        reason = (tried.stderr.strip().splitlines() or [f"Python ended with {tried.returncode}"])[-1]
        raise InstallError(
            f"OpenCV does not load: {reason}. On Debian and Ubuntu its "
            "libraries come with: apt-get install libgl1 libglib2.0-0. Then run this again."
        )


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except InstallError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run this again: it goes on where it was.")
