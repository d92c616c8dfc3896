"""What a WSGI server such as waitress serves."""

import _thread
import logging
import os
from threading import Thread

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fer_site.settings")

application = get_wsgi_application()


def warm_up() -> None:
    """Load the model while nobody waits for it; without one there is nothing to serve, so end the server."""
    from recognition.services import PredictorError, get_predictor

    try:
        get_predictor()
    except PredictorError as error:
        logging.getLogger(__name__).critical("%s", error)
        _thread.interrupt_main()


Thread(target=warm_up, daemon=True).start()
