"""Accounts, on Django's own auth: sign up, log in, the profile, everything taken along or deleted."""

from math import ceil
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView, PasswordChangeView, RedirectURLMixin
from django.forms import BaseForm
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe
from django.views.generic import FormView

from recognition.access import Owner
from recognition.account_forms import (
    ChangePasswordForm,
    LoginForm,
    PasswordForm,
    Patience,
    ProfileForm,
    SignUpForm,
)
from recognition.accounts import delete_account, delete_everything, export_everything, keep_for
from recognition.answers import private
from recognition.models import Profile


def _user(request: HttpRequest) -> User:
    """Who is logged in, where somebody has to be."""
    user = Owner.of(request).user
    assert user is not None
    return user


class _AccountView(FormView):  # type: ignore[type-arg]  # not subscriptable when it runs
    """A form about an account: kept out of caches and error reports, 429 where it has to wait."""

    @method_decorator((private, sensitive_post_parameters()))
    def dispatch(self, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(*args, **kwargs)

    def form_invalid(self, form: BaseForm) -> HttpResponse:
        response = super().form_invalid(form)
        response.status_code = 400
        if isinstance(form, Patience) and form.wait is not None:
            response.status_code = 429
            response["Retry-After"] = str(ceil(form.wait))
        return response

    @property
    def user(self) -> User:
        return _user(self.request)

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"label_suffix": ""}


class LogIn(_AccountView, LoginView):
    form_class = LoginForm
    redirect_authenticated_user = True

    def get_redirect_url(self) -> str:  # type: ignore[override]  # the stubs are of a later Django
        """Where `next` leads, save to here: Django calls that a loop and breaks."""
        url = super().get_redirect_url()
        return "" if url.partition("?")[0] == self.request.path else url


class SignUp(RedirectURLMixin, _AccountView):
    form_class = SignUpForm
    template_name = "registration/signup.html"
    next_page = "history"

    def dispatch(self, *args: Any, **kwargs: Any) -> Any:
        if not settings.FER_SIGNUP:  # accounts are made in the admin
            raise Http404
        return super().dispatch(*args, **kwargs)

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"request": self.request}

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**kwargs) | {"next": self.get_redirect_url()}

    def form_valid(self, form: SignUpForm) -> HttpResponse:
        user = form.save()
        login(self.request, user)
        sentence = _("Welcome, %(name)s. What you analyse from now on is kept in your account.")
        messages.success(self.request, sentence % {"name": user.username})
        return super().form_valid(form)


@method_decorator(login_required, name="dispatch")
class ChangePassword(_AccountView, PasswordChangeView):
    form_class = ChangePasswordForm
    template_name = "registration/password.html"
    success_url = reverse_lazy("profile")

    def form_valid(self, form: ChangePasswordForm) -> HttpResponse:
        messages.success(self.request, _("Your password is changed. Other browsers are logged out."))
        return super().form_valid(form)


@method_decorator(login_required, name="dispatch")
class ProfilePage(_AccountView):
    form_class = ProfileForm
    template_name = "recognition/profile.html"
    success_url = reverse_lazy("profile")

    def get_initial(self) -> dict[str, Any]:
        profile, _created = Profile.objects.get_or_create(user=self.user)
        return {"keep": profile.keep_days or "never", "email": self.user.email}

    def form_valid(self, form: ProfileForm) -> HttpResponse:
        user = self.user
        user.email = form.cleaned_data["email"]
        user.save(update_fields=["email"])
        messages.success(self.request, _("Saved."))
        deleted = keep_for(user, form.cleaned_data["keep"])
        if deleted:
            sentence = ngettext(
                "%(count)d analysis was older than that and is deleted.",
                "%(count)d analyses were older than that and are deleted.",
                deleted,
            )
            messages.success(self.request, sentence % {"count": deleted})
        return super().form_valid(form)


@private
@login_required
@require_safe
def export(request: HttpRequest) -> StreamingHttpResponse:
    """Everything as one ZIP, made while it is sent."""
    user = _user(request)
    response = StreamingHttpResponse(export_everything(user), content_type="application/zip")
    name = f"fmpn-fer-{timezone.localdate():%Y-%m-%d}.zip"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@private
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def delete_all(request: HttpRequest) -> HttpResponse:
    """Ask once, then delete every analysis and note."""
    user = _user(request)
    if request.method == "POST":
        delete_everything(user)
        messages.success(
            request, _("Deleted. All photos, videos, everything read in them and all notes are gone.")
        )
        return redirect("profile")
    counts = {"analyses": user.analyses.live().count(), "notes": user.day_notes.count()}
    return render(request, "registration/delete_everything.html", counts)


@method_decorator(login_required, name="dispatch")
class DeleteAccount(_AccountView):
    form_class = PasswordForm
    template_name = "registration/delete_account.html"
    success_url = reverse_lazy("home")

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"user": self.user}

    def form_valid(self, form: PasswordForm) -> HttpResponse:
        user = self.user
        logout(self.request)
        delete_account(user)
        messages.success(self.request, _("Your account and everything in it are deleted."))
        return super().form_valid(form)
