"""Taking in what a worker reads: a batch of photos or a video, larger than anything that is read at once."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from django.core.exceptions import TooManyFilesSent
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_protect

from recognition import background
from recognition.access import Owner
from recognition.answers import content_length, prefers_json
from recognition.background import QueueError, TooManyWaitError
from recognition.limits import set_retry_after, upload_wait
from recognition.models import Analysis
from recognition.services import UploadError
from recognition.upload_handlers import FolderHandler

Show = Callable[[HttpRequest, str, int], HttpResponse]  # the form with a sentence, and its status


@dataclass(frozen=True)
class LargeUpload:
    """One kind of upload, and what is particular to it.

    field: of the form. most_bytes: of the whole request. too_large, too_many: what is said beyond that and
    beyond most_files. receiving: makes the folder that the files go to, and removes it where they are not
    taken. take: queues them, or raises UploadError or QueueError.
    """

    kind: Analysis.Kind
    field: str
    most_bytes: float
    most_files: int
    too_large: str
    too_many: str
    receiving: Callable[[Analysis], AbstractContextManager[Path]]
    take: Callable[[Analysis, Sequence["UploadedFile[bytes]"]], None]
    form: Show


def receive(request: HttpRequest, upload: LargeUpload) -> HttpResponse:
    """Answer what a form sent: the analysis's own page, or the form with the reason.

    In JSON to who prefers it: {"url"} or {"error"}. The view must be exempt from CSRF's check: it is made
    here, since nothing may read the body before its length was looked at.
    """
    length = content_length(request)
    if length > upload.most_bytes:
        return _refuse(request, upload, upload.too_large, 413)
    wait = upload_wait(request)
    if wait is not None:
        sentence = _("These are many uploads at once. Try again in a minute.")
        response = _refuse(request, upload, sentence, 429)
        set_retry_after(response, wait)
        return response
    owner = Owner.of_upload(request)
    try:
        background.require_room(owner, length)
    except QueueError as error:
        status = 429 if isinstance(error, TooManyWaitError) else 503
        return _refuse(request, upload, str(error), status)
    analysis = owner.new_analysis(kind=upload.kind, state=Analysis.State.QUEUED, model_name="")
    with upload.receiving(analysis) as folder:
        request.upload_handlers = [FolderHandler(upload.field, folder, upload.most_files)]
        try:
            return _take(request, upload, analysis)
        except TooManyFilesSent:
            return _refuse(request, upload, upload.too_many, 400)


@csrf_protect
def _take(request: HttpRequest, upload: LargeUpload, analysis: Analysis) -> HttpResponse:
    try:
        upload.take(analysis, request.FILES.getlist(upload.field))
    except UploadError as error:
        return _refuse(request, upload, str(error), 400)
    except QueueError as error:
        return _refuse(request, upload, str(error), 503)
    if prefers_json(request):
        return JsonResponse({"url": analysis.get_absolute_url()}, status=201)
    return redirect(analysis)


def _refuse(request: HttpRequest, upload: LargeUpload, sentence: str, status: int) -> HttpResponse:
    if prefers_json(request):
        return JsonResponse({"error": sentence}, status=status)
    return upload.form(request, sentence, status)
