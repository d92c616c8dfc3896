"""The pages around the API: its description, and the keys to it that a person makes and revokes."""

from typing import Final

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.http import require_http_methods, require_safe

from recognition.answers import private
from recognition.api_docs import documentation
from recognition.models import ApiToken

MOST_TOKENS: Final = 20


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    context = {
        "documentation": documentation(),
        "site": request.build_absolute_uri("/").rstrip("/"),
        "per_minute": f"{settings.FER_API_PER_MINUTE:g}",
        "schema_url": reverse("api:openapi-json"),
    }
    return render(request, "recognition/api_docs.html", context)


@private
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def create_token(request: HttpRequest) -> HttpResponse:
    """Make a key and show it, this once: it is in no address and no session, so nobody reads it again."""
    assert isinstance(request.user, User)
    if request.method != "POST":  # who had to log in first comes by GET
        return _to_profile()
    if request.user.api_tokens.count() >= MOST_TOKENS:
        messages.error(request, gettext("You have as many keys as one may have. Revoke one first."))
        return _to_profile()
    printable = "".join(filter(str.isprintable, request.POST.get("name", "")))
    name = printable.strip()[:50] or gettext("A key without a name")
    token, key = ApiToken.create_for(request.user, name)
    return render(request, "recognition/api_token.html", {"token": token, "key": key}, status=201)


@private
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def revoke_token(request: HttpRequest, pk: int) -> HttpResponse:
    assert isinstance(request.user, User)
    if request.method != "POST":
        return _to_profile()
    token = get_object_or_404(ApiToken, pk=pk, user=request.user)
    token.delete()
    messages.success(
        request, gettext("“%(name)s” is revoked: nobody gets in with it any more.") % {"name": token.name}
    )
    return _to_profile()


def _to_profile() -> HttpResponse:
    return redirect(reverse("profile") + "#keys")
