"""Whether this process can read photos yet, and what it waits for."""

from typing import Final

from django.db import Error as DatabaseError
from django.db import connection

from recognition.services import predictor_is_loaded

READY: Final = "ready"


def readiness() -> dict[str, str]:
    """{"database", "model"}: READY, or in a few words what is not. A dead database is not waited for."""
    return {
        "database": READY if _database_answers() else "does not answer, or is not migrated",
        "model": READY if predictor_is_loaded() else "is being loaded",
    }


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            # A table and not just "1": SQLite makes an empty database where there is none.
            cursor.execute("SELECT 1 FROM django_migrations")
            return cursor.fetchone() is not None
    except DatabaseError:
        return False
