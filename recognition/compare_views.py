"""Pages about a photo that was read: other models' opinions, and what led to a word."""

import logging
from http import HTTPStatus

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from ml.expressions import EXPRESSIONS
from recognition.access import own_analysis
from recognition.admission import Busy, places
from recognition.answers import private
from recognition.compare import Model, compare, find_models
from recognition.explain import explain_face
from recognition.limits import upload_wait
from recognition.models import Photo
from recognition.services import PredictorError
from recognition.views import refuse_busy, refuse_hasty

logger = logging.getLogger(__name__)

MOST_MODELS = 4  # side by side


@private
@require_safe
def compare_models(request: HttpRequest, token: str, number: int) -> HttpResponse:
    """`?model=KEY&model=KEY`; without, the model in service and the next one there is."""
    photo = _photo(request, token, number)
    wait = upload_wait(request, "comparison")
    if wait is not None:
        return refuse_hasty(request, wait)
    models = find_models()
    asked = request.GET.getlist("model")
    chosen = [model for model in models if model.key in asked] if asked else models[:2]
    try:
        with places.take():
            comparison = compare(photo, chosen[:MOST_MODELS])
    except Busy:
        return refuse_busy(request)
    except FileNotFoundError as error:  # deleted a moment ago
        raise Http404 from error
    context = {
        "analysis": photo.analysis,
        "photo": photo,
        "models": models,
        "chosen": chosen[:MOST_MODELS],
        "most_models": MOST_MODELS,
        "comparison": comparison,
    }
    return render(request, "recognition/compare.html", context)


@private
@require_safe
def explain(request: HttpRequest, token: str, number: int, face_number: int) -> HttpResponse:
    """`?expression=` of the eight, by default the read one; `?model=KEY`, by default the one that read it."""
    face = get_object_or_404(_photo(request, token, number).faces, number=face_number)
    expression = request.GET.get("expression") or None
    if face.problem or (expression and expression not in EXPRESSIONS):
        raise Http404
    wait = upload_wait(request, "explanation")
    if wait is not None:
        return refuse_hasty(request, wait)
    models = find_models()
    model = _choose(models, request.GET.get("model"), face.photo.analysis.model_name)
    context: dict[str, object] = {
        "analysis": face.photo.analysis,
        "photo": face.photo,
        "face": face,
        "model": model,
        "models": models,
        "expressions": EXPRESSIONS,
    }
    status = HTTPStatus.OK
    try:
        if model is None:
            raise PredictorError("There is no checkpoint that can be used.")
        context["explained"] = explain_face(face, model, expression)
    except Busy:
        return refuse_busy(request)
    except FileNotFoundError as error:  # deleted a moment ago
        raise Http404 from error
    except PredictorError as error:
        logger.error("A model cannot be explained: %s", error)
        status = HTTPStatus.SERVICE_UNAVAILABLE
    return render(request, "recognition/explain.html", context, status=status)


def _photo(request: HttpRequest, token: str, number: int) -> Photo:
    photo: Photo = get_object_or_404(
        own_analysis(request, token).photos.select_related("analysis").prefetch_related("faces"),
        number=number,
    )
    return photo


def _choose(models: list[Model], key: str | None, name: str) -> Model | None:
    """The model of that key, else the one of that name, else the one in service."""
    asked = (model for model in models if model.key == key)
    named = (model for model in models if model.name == name)
    return next(asked, None) or next(named, None) or next(iter(models), None)
