"""What a WSGI server such as waitress serves."""

import os
import sys

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fer_site.settings")

application = get_wsgi_application()

from recognition.services import PredictorError, get_predictor  # noqa: E402  (needs Django set up)

# Loaded before the first request, so that nobody's photo waits for it and a broken model is noticed at once.
try:
    get_predictor()
except PredictorError as error:
    sys.exit(str(error))
