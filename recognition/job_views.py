"""How far a batch or a video is, and its end before its time."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from recognition import background
from recognition.access import own_analysis
from recognition.answers import private
from recognition.jobs import report_job


@private
@require_safe
def progress(request: HttpRequest, token: str) -> JsonResponse:
    """`jobs.JobReport`, for static/js/job.js."""
    return JsonResponse(report_job(own_analysis(request, token)))


@private
@require_POST
def cancel(request: HttpRequest, token: str) -> HttpResponse:
    analysis = own_analysis(request, token)
    background.cancel(analysis)
    if not analysis.ended:
        messages.success(request, _("Cancelled. What was read until then is kept."))
    return redirect(analysis)
