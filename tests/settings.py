"""The site's own settings in surroundings of their own: nobody's `.env`, database or photos come into it."""

import atexit
import os
import shutil
import tempfile

var = tempfile.mkdtemp(prefix="fmpn-fer-tests-")
atexit.register(shutil.rmtree, var, ignore_errors=True)
for name in ("FER_ENV_FILE", "DATABASE_URL", "FER_BROKER_URL", "FER_CACHE_URL", "FER_CHECKPOINT"):
    os.environ.pop(name, None)
os.environ |= {
    "SECRET_KEY": "for tests alone",
    "FER_VAR_DIR": var,
    "FER_ENV_FILE": os.devnull,
    # Playwright keeps an event loop in the thread of the tests, which is not one that Django need fear.
    "DJANGO_ALLOW_ASYNC_UNSAFE": "true",
}

from fer_site.settings import *  # noqa: E402, F403

# The real one is slow on purpose.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# No server, and emptied before every test (tests/conftest.py).
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
