"""Django's settings, read from the environment or `.env`: docs/settings.md explains every variable."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _
from environ.fileaware_mapping import FileAwareMapping

from fer_site.broker import cache_settings, socket_path
from ml.runtime import available_cores

BASE_DIR = Path(__file__).resolve().parent.parent


class Variables(FileAwareMapping):  # type: ignore[misc]
    """The environment. NAME_FILE holds the path of a file with NAME's value: how container platforms hand
    over secrets. Such a file mostly ends with a newline, which is no part of it."""

    def __getitem__(self, key: str) -> str:
        try:
            value: str = super().__getitem__(key)
        except OSError as error:
            reason = f"{error.filename} cannot be read ({error.strerror})."
            raise ImproperlyConfigured(f"{key}_FILE: {reason}") from None
        return value.strip()


class Environment(environ.FileAwareEnv):  # type: ignore[misc]
    ENVIRON = Variables()


env = Environment()
env.read_env(os.environ.get("FER_ENV_FILE", BASE_DIR / ".env"))


MOST = 10_000_000.0  # of anything: that many hours are a thousand years
MOST_PHOTOS = 2**15 - 1  # in a batch: more than that PostgreSQL cannot number in a photo's row
ON = ("on", "true", "yes", "y", "ok", "1")
OFF = ("off", "false", "no", "n", "0", "")


def positive(name: str, default: float, least: float = 0.0, most: float = MOST) -> float:
    """Read a number above zero, and from `least` to `most`."""
    text = env.str(name, default=str(default))
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ImproperlyConfigured(f"{name}={text} is not a number above zero.")
    if not least <= number <= most:
        raise ImproperlyConfigured(f"{name}={text} is not between {least:g} and {most:.0f}.")
    return number


def switch(name: str, default: bool) -> bool:
    """Read on or off. Any other word is refused: FER_HTTPS=enabled must not mean that it is off."""
    text = env.str(name, default="on" if default else "off")
    if text.lower() not in ON + OFF:
        raise ImproperlyConfigured(f"{name}={text} is neither on nor off.")
    return text.lower() in ON


def words(name: str, default: str = "") -> list[str]:
    """Read what stands between commas, without the spaces after them."""
    return [word for word in map(str.strip, env.str(name, default=default).split(",")) if word]


def time_zone(name: str) -> str:
    """Read the name of a time zone; Django's own check ends in a traceback."""
    text: str = env.str(name, default="UTC")
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ImproperlyConfigured(f"{name}={text} is no time zone such as Asia/Ho_Chi_Minh.") from None
    return text


# Django itself asks for one only where it is used, and a worker would do without.
SECRET_KEY = env.str("SECRET_KEY", default="")
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set. `make install` and `make run` write a .env file with a random one; "
        "elsewhere set the environment variable SECRET_KEY, or SECRET_KEY_FILE, to a long random string."
    )

DEBUG = switch("DEBUG", default=False)
ALLOWED_HOSTS = words("ALLOWED_HOSTS", default="localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = words("CSRF_TRUSTED_ORIGINS")

# What the application does ---------------------------------------------------------------------------------

# Relative paths start at the project's folder, wherever a command was called.
FER_VAR_DIR = (BASE_DIR / env.str("FER_VAR_DIR", default="var")).resolve()
FER_DATA_ROOT = (BASE_DIR / env.str("FER_DATA_ROOT", default=str(FER_VAR_DIR / "data"))).resolve()
FER_HOST = env.str("FER_HOST", default="127.0.0.1")
FER_CHECKPOINT = (BASE_DIR / env.str("FER_CHECKPOINT", default="ml/weights/compact.safetensors")).resolve()
FER_DETECTOR = env.str("FER_DETECTOR", default="mtcnn")
FER_DEVICE = env.str("FER_DEVICE", default="auto")
FER_RETENTION_HOURS = positive("FER_RETENTION_HOURS", 24.0)
FER_MAX_UPLOAD_MB = positive("FER_MAX_UPLOAD_MB", 15.0)
FER_MAX_MEGAPIXELS = positive("FER_MAX_MEGAPIXELS", 40.0)
FER_MAX_FILES = int(positive("FER_MAX_FILES", 20, least=1))
FER_MAX_BATCH_PHOTOS = int(positive("FER_MAX_BATCH_PHOTOS", 2000, least=1, most=MOST_PHOTOS))
FER_MAX_BATCH_MB = positive("FER_MAX_BATCH_MB", 500.0)
FER_MAX_VIDEO_MB = positive("FER_MAX_VIDEO_MB", 500.0)
FER_MAX_VIDEO_MINUTES = positive("FER_MAX_VIDEO_MINUTES", 10.0)
FER_VIDEO_RATE = positive("FER_VIDEO_RATE", 5.0)
FER_UPLOADS_PER_MINUTE = positive("FER_UPLOADS_PER_MINUTE", 60)
FER_API_PER_MINUTE = positive("FER_API_PER_MINUTE", 60)
# Each takes a core: more at once would only be slower each. Some of a server's eight threads stay free to say
# so, and for all that is no photo.
FER_PHOTOS_AT_ONCE = int(positive("FER_PHOTOS_AT_ONCE", min(available_cores(), 6), least=1))
FER_SIGNUP = switch("FER_SIGNUP", default=True)
FER_CONTACT = env.str("FER_CONTACT", default="")
if FER_CONTACT and not FER_CONTACT.startswith(("https://", "http://", "mailto:")):
    raise ImproperlyConfigured(f"FER_CONTACT={FER_CONTACT} is no address: write https://… or mailto:….")
FER_METRICS_TOKEN = env.str("FER_METRICS_TOKEN", default="")

# Django ----------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "fer_site.apps.SiteAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "csp",
    "ml.apps.MlConfig",
    "recognition.apps.RecognitionConfig",
    "training.apps.TrainingConfig",
]

MIDDLEWARE = [
    "fer_site.logs.RequestLogMiddleware",
    "fer_site.health.HealthMiddleware",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "fer_site.middleware.permissions_policy",
    "fer_site.middleware.take_in_what_is_refused",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]

ROOT_URLCONF = "fer_site.urls"
WSGI_APPLICATION = "fer_site.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "fer_site.context.site",
            ],
        },
    }
]

try:
    database: dict[str, Any] = env.db_url(
        "DATABASE_URL", default=f"sqlite:///{quote(str(FER_VAR_DIR / 'db.sqlite3'))}"
    )
except ValueError:  # as of a port that is no number; the address itself holds the password
    database = {}
if "ENGINE" not in database:
    raise ImproperlyConfigured("DATABASE_URL is not an address such as postgres://user:password@host/name.")
if database["ENGINE"] == "django.db.backends.sqlite3":
    # Site and worker write the same file: readers never wait (WAL), and a writer asks for the lock when its
    # transaction begins, where SQLite waits for its turn instead of failing with "database is locked".
    database["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        # And what is deleted is written over (recognition.purging.purge_expired empties the log as well).
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA secure_delete=ON;",
    }
elif database["ENGINE"] == "django.db.backends.postgresql":
    # One that is there and does not answer is not waited for until the browser gives up.
    database["OPTIONS"] = {"connect_timeout": 5, **database.get("OPTIONS", {})}
DATABASES = {"default": database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "history"
LOGOUT_REDIRECT_URL = "home"

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("vi", _("Vietnamese"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
FORMAT_MODULE_PATH = "fer_site.formats"
TIME_ZONE = time_zone("TIME_ZONE")
USE_TZ = True

# WhiteNoise serves every file from where it stands: nothing to collect, nothing to forget.
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True

# Photos and crops; views hand them out to the session they belong to, the web server never does.
MEDIA_ROOT = FER_VAR_DIR / "media"

# An upload is as many files as allowed, each as large as allowed; Django spools the large ones to disk.
FILE_UPLOAD_PERMISSIONS = 0o600
# The most of any form, a batch's; the others are held to FER_MAX_FILES by their first handler.
DATA_UPLOAD_MAX_NUMBER_FILES = max(FER_MAX_FILES, FER_MAX_BATCH_PHOTOS)
FILE_UPLOAD_HANDLERS = [
    "recognition.upload_handlers.CountingHandler",
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]
DATA_UPLOAD_MAX_NUMBER_FIELDS = 1000
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000  # the form's fields, without its files

# Security --------------------------------------------------------------------------------------------------

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        # blob: the preview of a chosen photo; data: the small drawings inside style sheets.
        "img-src": [SELF, "blob:", "data:"],
        "media-src": [SELF, "blob:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
# A browser without an account reaches what it sent by its session alone.
SESSION_COOKIE_AGE = max(14 * 24 * 3600, int(FER_RETENTION_HOURS * 3600) + 3600)
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"

FER_HTTPS = switch("FER_HTTPS", default=False)
if FER_HTTPS:
    # Behind a proxy that speaks HTTPS and sets X-Forwarded-Proto itself.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 31_536_000
    # Whether other names under the same domain speak HTTPS is not for this site to promise.
    SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

# Celery ----------------------------------------------------------------------------------------------------

FER_BROKER_URL = env.str("FER_BROKER_URL", default="")  # empty: the one that `make run` embeds
CELERY_BROKER_URL = FER_BROKER_URL or f"redis+socket://{quote(str(socket_path(FER_VAR_DIR)))}"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_TASK_IGNORE_RESULT = True  # rows are the truth of a task, not a result store
CELERY_TASK_ACKS_LATE = True  # a task whose worker dies is delivered again
# A worker takes a task when it has time for it, so that the folds of a run go to whoever is free.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_DISABLE_PREFETCH = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # a worker waits for its broker as long as it takes
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # What no worker has acknowledged for so long is delivered again. It may be a fold that trains still: the
    # row says so, and the second message is dropped (training.services.claim). A dead worker's fold does not
    # wait for this: watch_workers queues it again.
    "visibility_timeout": 12 * 3600,
    "socket_connect_timeout": 5,
}
CELERY_BEAT_SCHEDULER = "fer_site.clock.Clock"
CELERY_BEAT_SCHEDULE_FILENAME = str(FER_VAR_DIR / "celerybeat-schedule")
CELERY_BEAT_SCHEDULE = {
    "purge expired analyses": {"task": "recognition.tasks.purge_expired", "schedule": 15 * 60},
    # One that comes late is not needed: the next one is there.
    "watch analyses": {
        "task": "recognition.tasks.watch_analyses",
        "schedule": 10,
        "options": {"expires": 10},
    },
    "watch workers": {"task": "training.tasks.watch_workers", "schedule": 5, "options": {"expires": 5}},
}

# Cache -----------------------------------------------------------------------------------------------------

CACHES = cache_settings(env.str("FER_CACHE_URL", default=""), FER_BROKER_URL, FER_VAR_DIR)

# Log -------------------------------------------------------------------------------------------------------

FER_LOG_FORMAT = env.str("FER_LOG_FORMAT", default="plain")
if FER_LOG_FORMAT not in ("plain", "json"):
    raise ImproperlyConfigured(f"FER_LOG_FORMAT={FER_LOG_FORMAT} is neither plain nor json.")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request": {"()": "fer_site.logs.WithRequest"}},
    "formatters": {
        "plain": {"()": "fer_site.logs.PlainFormatter"},
        "json": {"()": "fer_site.logs.JsonFormatter"},
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "filters": ["request"], "formatter": FER_LOG_FORMAT},
        "recent": {"class": "fer_site.logs.RecentErrors", "filters": ["request"], "level": "ERROR"},
    },
    "root": {"handlers": ["stderr", "recent"], "level": "INFO"},
    "loggers": {
        # What it refuses stands in our own line of the request; its errors bring their traceback.
        "django.request": {"level": "ERROR"},
        # Scanners ask for foreign names all day; that would push what is really wrong out of the last errors.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        # Its lines of requests, under `manage.py runserver`, hold addresses.
        "django.server": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
        "celery": {"level": "WARNING"},
    },
}
