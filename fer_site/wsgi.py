"""What a WSGI server such as waitress serves."""

import logging
import os
from threading import Thread

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fer_site.settings")

application = get_wsgi_application()


def warm_up() -> None:
    """Load the model while nobody waits for it, or say in the log why it cannot be loaded."""
    from recognition.services import PredictorError, get_predictor

    try:
        get_predictor()
    except PredictorError as error:
        logging.getLogger(__name__).error("Photos cannot be analysed: %s", error)


Thread(target=warm_up, daemon=True).start()
