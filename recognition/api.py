"""The API at /api/v1/: what the pages do, for programs. docs/api.md shows its use.

Who calls is who owns a token, or is logged in in a browser; both see what is theirs alone. Errors are
{"error": a sentence, …} with the right status.
"""

import base64
import logging
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

import pydantic
from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation, TooManyFilesSent
from django.core.files import File
from django.core.files.base import ContentFile
from django.db.models import Q
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.multipartparser import MultiPartParserError
from django.urls import reverse
from django.utils import timezone
from django.utils.log import log_response
from django.utils.translation import gettext
from django.utils.translation import gettext_noop as _
from ninja import NinjaAPI, Query
from ninja.errors import AuthenticationError, AuthorizationError, HttpError, ValidationError
from ninja.openapi.schema import OpenAPISchema
from ninja.renderers import JSONRenderer
from ninja.responses import Status
from ninja.security import HttpBearer
from ninja.utils import check_csrf

from recognition import limits, services
from recognition.access import Owner
from recognition.admission import SECONDS_TO_COME_AGAIN, Busy, places
from recognition.answers import content_length
from recognition.api_schemas import (
    AnalysisDetail,
    AnalysisPage,
    AnalysisSummary,
    Error,
    Health,
    Models,
    PhotoIn,
    PhotosIn,
    Picture,
    Pictures,
)
from recognition.model_cards import model_cards
from recognition.models import Analysis, ApiToken
from recognition.pictures import FILENAME
from recognition.readiness import READY, readiness
from recognition.reports import report_analysis
from recognition.services import PredictorError, UploadError
from recognition.video_reports import json_parts

logger = logging.getLogger(__name__)

BETWEEN_USES: Final = timedelta(minutes=1)  # how exactly a token's last use is known


class TooOften(Exception):  # noqa: N818 (it tells of a wish, not of an error)
    """More calls in a minute than allowed; `seconds` until the next may come."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class TooLarge(Exception):  # noqa: N818
    """A body that is not read; the text is a sentence."""


# Who calls --------------------------------------------------------------------------------------------------


class Caller(HttpBearer):
    """The person whose call it is. Its length is looked at, and it is counted, before anything is read."""

    def __call__(self, request: HttpRequest) -> User | None:
        _refuse_large(request)
        _count(f"address {limits.client_address(request)}")
        if "Authorization" in request.headers:
            return super().__call__(request)
        return self._of_session(request)

    def authenticate(self, request: HttpRequest, token: str) -> User | None:
        found = ApiToken.objects.select_related("user").filter(sha256=ApiToken.digest(token)).first()
        if found is None or not found.user.is_active:
            return None
        _count(f"token {found.pk}")
        now = timezone.now()
        unused = Q(used=None) | Q(used__lt=now - BETWEEN_USES)
        ApiToken.objects.filter(unused, pk=found.pk).update(used=now)
        return found.user

    def _of_session(self, request: HttpRequest) -> User | None:
        if not isinstance(request.user, User):
            return None
        _count(f"user {request.user.pk}")
        # A browser sends its session along from other sites too: a token is never sent by itself.
        if check_csrf(request):
            raise AuthorizationError(message=gettext("Send the page's token in X-CSRFToken, or use a key."))
        return request.user


def _count(who: str) -> None:
    seconds = limits.limited(f"api {who}", settings.FER_API_PER_MINUTE)
    if seconds is not None:
        raise TooOften(seconds)


def _refuse_large(request: HttpRequest) -> None:
    length = content_length(request)
    if request.content_type == "application/json":
        # All of it lies in memory at once, so less fits than in a form.
        if length > 3 * settings.FER_MAX_UPLOAD_MB * 1_000_000:
            most = gettext("JSON may be %(megabytes)g MB long at most: send photos as multipart/form-data.")
            raise TooLarge(most % {"megabytes": 3 * settings.FER_MAX_UPLOAD_MB})
    elif length > (settings.FER_MAX_FILES * settings.FER_MAX_UPLOAD_MB + 1) * 1_000_000:
        most = gettext("At most %(files)d photos of %(megabytes)g MB go into one call.")
        raise TooLarge(most % {"files": settings.FER_MAX_FILES, "megabytes": settings.FER_MAX_UPLOAD_MB})


# The API ----------------------------------------------------------------------------------------------------


class Renderer(JSONRenderer):
    json_dumps_params = {"ensure_ascii": False}  # noqa: RUF012 (as its base has it)


class Api(NinjaAPI):
    def create_response(self, request: HttpRequest, data: Any, **options: Any) -> HttpResponse:
        response = super().create_response(request, data, **options)
        response["Cache-Control"] = "private, no-store"
        return response

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        schema = super().get_openapi_schema(**options)
        # Its call reads the body by itself, so nothing else tells of it.
        schema["components"]["schemas"][PhotoIn.__name__] = PhotoIn.model_json_schema()
        return schema


ERRORS: Final = {(400, 401, 403, 404, 413, 429, 500, 503): Error}

api = Api(
    title="FMPN-FER",
    version="1",
    description=_(
        "Reads the expressions on the faces in photos. It reads expressions, not what somebody feels, and "
        "nothing about a person may be decided by them."
    ),
    docs_url=None,  # recognition.api_docs draws the page
    urls_namespace="api",
    auth=Caller(),
    renderer=Renderer(),
)

PHOTOS: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["photos"],
                    "properties": {
                        "photos": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": _("One part of the form for each photo."),
                        }
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["photos"],
                    "properties": {
                        "photos": {
                            "type": "array",
                            "items": {"$ref": "#/components/schemas/PhotoIn"},
                        }
                    },
                }
            },
        },
    }
}


@api.post(
    "/analyses",
    response={201: AnalysisDetail, **ERRORS},
    summary=_("Analyse photos"),
    description=_(
        "Reads every face in one or many photos (JPEG, PNG or WebP), sent as files named photos in "
        "multipart/form-data, or in Base64 inside JSON. Files that cannot be used are named with the reason, "
        "and the others go through; where none can be used, nothing is kept."
    ),
    openapi_extra=PHOTOS,
)
def create_analysis(request: HttpRequest, response: HttpResponse) -> Status[AnalysisDetail]:
    places.require()
    analysis = services.analyse_upload(_photos(request), _owner(request))
    response["Location"] = reverse("api:read_analysis", args=[analysis.token])
    return Status(201, _detail(request, analysis))


@api.get(
    "/analyses",
    response={200: AnalysisPage, **ERRORS},
    summary=_("List your analyses"),
    description=_("The newest first, those that were made in the pages too."),
)
def list_analyses(
    request: HttpRequest,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> AnalysisPage:
    own = _owner(request).analyses()
    page = own[offset : offset + limit]
    return AnalysisPage(
        count=own.count(), analyses=[AnalysisSummary(**_summary(request, one)) for one in page]
    )


@api.get(
    "/analyses/{token}",
    response={200: AnalysisDetail, **ERRORS},
    summary=_("Get an analysis"),
    description=_("With every face that was read, in the shape of the file expressions.json."),
)
def read_analysis(request: HttpRequest, token: str) -> AnalysisDetail:
    return _detail(request, _own(request, token))


@api.delete(
    "/analyses/{token}",
    response={204: None, **ERRORS},
    summary=_("Delete an analysis"),
    description=_("With all its photos, crops and masks, at once and for good."),
)
def delete_analysis(request: HttpRequest, token: str) -> Status[None]:
    _own(request, token).delete()
    return Status(204, None)


@api.get(
    "/analyses/{token}/pictures",
    response={200: Pictures, **ERRORS},
    summary=_("List an analysis's pictures"),
    description=_("The photos, and of each face its crop and its motion mask."),
)
def list_pictures(request: HttpRequest, token: str) -> Pictures:
    analysis = _own(request, token)
    names = [path.name for path in analysis.folder.glob("*") if FILENAME.fullmatch(path.name)]
    # photo-10 after photo-9, and a photo before its faces.
    names.sort(key=lambda name: ([int(number) for number in re.findall(r"\d+", name)], len(name)))
    return Pictures(
        pictures=[
            Picture(
                name=name,
                url=request.build_absolute_uri(reverse("api:read_picture", args=[token, name])),
            )
            for name in names
        ]
    )


@api.get(
    "/analyses/{token}/pictures/{name}",
    response={200: bytes, **ERRORS},
    summary=_("Get a picture"),
    description=_("A JPEG, or a PNG for a mask. Photos are our own copies, upright and without metadata."),
)
def read_picture(request: HttpRequest, token: str, name: str) -> FileResponse:
    path = _own(request, token).folder / name
    # The pattern is what keeps a name inside its folder.
    if not (FILENAME.fullmatch(name) and path.is_file()):
        raise Http404
    response = FileResponse(path.open("rb"))
    response["Cache-Control"] = "private, no-store"
    return response


@api.get(
    "/analyses/{token}/sightings",
    response={200: dict[str, Any], **ERRORS},
    summary=_("Get what was read in a video"),
    description=_("Every face in every frame that was read, with its second and its person's number."),
)
def read_sightings(request: HttpRequest, token: str) -> StreamingHttpResponse:
    analysis = _own(request, token)
    if analysis.kind != Analysis.Kind.VIDEO:
        raise Http404
    response = StreamingHttpResponse(json_parts(analysis), content_type="application/json; charset=utf-8")
    response["Cache-Control"] = "private, no-store"
    return response


@api.get(
    "/models",
    response={200: Models, **ERRORS},
    summary=_("List the models"),
    description=_("The one in service, and the one that came with the program."),
)
def list_models(request: HttpRequest) -> dict[str, object]:
    return {"models": model_cards()}


@api.get(
    "/health",
    auth=None,
    response={(200, 503): Health, 429: Error},
    summary=_("Ask whether it is ready"),
    description=_("200 when photos can be read, 503 until then. No key is needed."),
)
def health(request: HttpRequest, response: HttpResponse) -> Status[dict[str, object]]:
    _count(f"address {limits.client_address(request)}")
    response._has_been_logged = True  # type: ignore[attr-defined]  # a 503 while it starts is no error
    parts = readiness()
    ready = set(parts.values()) == {READY}
    return Status(200 if ready else 503, {"ready": ready, **parts})


@api.api_operation(
    ["GET", "POST", "PUT", "PATCH", "DELETE"], "/{path:rest}", auth=None, include_in_schema=False
)
def nothing(request: HttpRequest, rest: str) -> None:
    raise Http404


# In plain functions -----------------------------------------------------------------------------------------


def _owner(request: HttpRequest) -> Owner:
    return Owner(user=request.auth)  # type: ignore[attr-defined]


def _own(request: HttpRequest, token: str) -> Analysis:
    return _owner(request).analysis(token)


def _summary(request: HttpRequest, analysis: Analysis) -> dict[str, Any]:
    names = ("token", "kind", "state", "done", "total", "error", "created", "expires")
    page = request.build_absolute_uri(analysis.get_absolute_url())
    return {"page": page, **{name: getattr(analysis, name) for name in names}}


def _detail(request: HttpRequest, analysis: Analysis) -> AnalysisDetail:
    report = None if analysis.kind == Analysis.Kind.VIDEO else report_analysis(analysis)
    return AnalysisDetail(**_summary(request, analysis), report=report)


def _photos(request: HttpRequest) -> "Sequence[File[bytes]]":
    """The photos in a call's body, in either of its forms. Raises UploadError."""
    if request.content_type == "application/json":
        return _photos_in_json(request.read())
    try:
        return request.FILES.getlist("photos")
    except TooManyFilesSent:
        raise services.too_many_files() from None


def _photos_in_json(body: bytes) -> "list[File[bytes]]":
    # Each of these becomes an object in memory, a hundred times as large as its letter.
    if sum(map(body.count, (b",", b"{", b"["))) > 500 * (settings.FER_MAX_FILES + 20):
        raise services.too_many_files()
    try:
        sent = PhotosIn.model_validate_json(body)
        # Many programs break Base64 into lines.
        return [
            ContentFile(base64.b64decode("".join(photo.base64.split()), validate=True), photo.name or None)
            for photo in sent.photos
        ]
    except pydantic.ValidationError as error:
        shape = gettext('The body has to be {"photos": [{"name": …, "base64": …}]}: %(problems)s.')
        raise UploadError(shape % {"problems": _problems(error.errors())}) from None
    except ValueError:  # binascii.Error is one, and letters beyond ASCII are another
        raise UploadError(gettext("A photo's base64 is no Base64: nothing else belongs in it.")) from None


def _problems(errors: Sequence[Any]) -> str:
    named = [(".".join(str(part) for part in error["loc"]), error["msg"]) for error in errors[:3]]
    return "; ".join(f"{place}: {problem}" for place, problem in named)


# Errors -----------------------------------------------------------------------------------------------------


def _error(request: HttpRequest, status: int, sentence: str, /, **more: object) -> HttpResponse:
    return api.create_response(request, {"error": sentence, **more}, status=status)


@api.exception_handler(AuthenticationError)
def unknown_caller(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    sentence = gettext("Send your key as “Authorization: Bearer fer_…”; keys are made in your profile.")
    response = _error(request, 401, sentence)
    response["WWW-Authenticate"] = "Bearer"
    return response


@api.exception_handler(HttpError)
def refused(request: HttpRequest, error: HttpError) -> HttpResponse:
    return _error(request, error.status_code, str(error))


@api.exception_handler(Http404)
def not_found(request: HttpRequest, error: Http404) -> HttpResponse:
    return _error(request, 404, gettext("There is nothing of yours at this address."))


@api.exception_handler(TooOften)
def too_often(request: HttpRequest, error: TooOften) -> HttpResponse:
    sentence = gettext("That was too much for one minute. Wait %(seconds)d seconds and send it again.")
    response = _error(request, 429, sentence % {"seconds": limits.whole(error.seconds)})
    limits.set_retry_after(response, error.seconds)
    return response


@api.exception_handler(Busy)
def busy(request: HttpRequest, error: Busy) -> HttpResponse:
    sentence = gettext("Many photos are being read at this moment. Send it again in a second.")
    response = _error(request, 503, sentence)
    limits.set_retry_after(response, SECONDS_TO_COME_AGAIN)
    response._has_been_logged = True  # type: ignore[attr-defined]  # that many came at once is no error
    return response


@api.exception_handler(TooLarge)
def too_large(request: HttpRequest, error: TooLarge) -> HttpResponse:
    return _error(request, 413, str(error))


@api.exception_handler(RequestDataTooBig)
def no_form(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
    """Much that is no file of a form: a photo as the body itself, or as a field's text."""
    sentence = gettext(
        "Send each photo as a file named photos in multipart/form-data (with curl: -F photos=@photo.jpg), "
        "or in Base64 inside JSON."
    )
    return _error(request, 400, sentence)


@api.exception_handler(ValidationError)
def malformed(request: HttpRequest, error: ValidationError) -> HttpResponse:
    return _error(request, 400, _problems(error.errors))


@api.exception_handler(SuspiciousOperation)
@api.exception_handler(MultiPartParserError)
def broken(request: HttpRequest, error: Exception) -> HttpResponse:
    return _error(request, 400, gettext("The body could not be read as multipart/form-data."))


@api.exception_handler(UploadError)
def unusable(request: HttpRequest, error: UploadError) -> HttpResponse:
    rejections = [{"name": name, "reason": reason} for name, reason in error.rejections]
    return _error(request, 400, str(error), rejections=rejections)


@api.exception_handler(PredictorError)
def without_model(request: HttpRequest, error: PredictorError) -> HttpResponse:
    logger.error("The model cannot be loaded: %s", error)
    return _error(
        request,
        503,
        gettext("The model that reads expressions is missing or damaged on this server. Nothing was kept."),
    )


@api.exception_handler(Exception)
def unexpected(request: HttpRequest, error: Exception) -> HttpResponse:
    response = _error(
        request,
        500,
        gettext("Something broke on our side. Nothing of this call was kept, and trying again may work."),
        request=getattr(request, "request_id", ""),
    )
    # As Django logs what a page does not expect.
    log_response(
        "%s: %s", response.reason_phrase, request.path, response=response, request=request, exception=error
    )
    return response
