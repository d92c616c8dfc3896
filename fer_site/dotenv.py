"""Writes the `.env` of a new clone: one random SECRET_KEY. An existing file is never touched.

python -m fer_site.dotenv
"""

import os
import secrets
from pathlib import Path
from typing import Final

DOTENV: Final = Path(os.environ.get("FER_ENV_FILE", Path(__file__).resolve().parent.parent / ".env"))

TEXT: Final = """\
# Settings of this site; docs/settings.md lists them all. Keep this file to yourself.
SECRET_KEY={key}
"""


def ensure_dotenv(path: Path = DOTENV) -> bool:
    """Write `path` with a new key, readable by its owner alone; return False where it stood already.

    Raises OSError where the folder cannot be written.
    """
    try:
        # Made exclusively, with its mode: two starts at once cannot both write, nobody reads it early.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(TEXT.format(key=secrets.token_urlsafe(50)))
    return True


if __name__ == "__main__":
    ensure_dotenv()
