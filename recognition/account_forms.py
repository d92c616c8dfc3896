"""The forms of accounts. Those that ask for a password may be sent a few times a minute."""

from math import ceil
from typing import Any, Final

from django import forms
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm, UserCreationForm
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, ngettext_lazy

from recognition.accounts import KEEP_CHOICES
from recognition.limits import client_address, limited

ATTEMPTS: Final = 10  # a minute

# Django says it and translates it not into every language; here it is found to be translated.
_SAID_BY_DJANGO: Final = ngettext_lazy(
    "This password is too short. It must contain at least %d character.",
    "This password is too short. It must contain at least %d characters.",
)


class Patience(forms.BaseForm):
    """A form that may be sent ATTEMPTS times a minute; after that `wait` is how many seconds it takes."""

    wait: float | None = None

    def count(self, what: str) -> None:
        """Count one attempt at `what`. Raises ValidationError where that was one too many."""
        self.wait = limited(what, ATTEMPTS)
        if self.wait is not None:
            seconds = ceil(self.wait)
            sentence = ngettext(
                "That was tried too often. Wait %(seconds)d second and try again.",
                "That was tried too often. Wait %(seconds)d seconds and try again.",
                seconds,
            )
            raise ValidationError(sentence, code="limited", params={"seconds": seconds})


class LoginForm(Patience, AuthenticationForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].label = _("Name")

    def clean(self) -> dict[str, Any]:
        assert self.request is not None
        name = str(self.cleaned_data.get("username", "")).casefold()
        self.count(f"login {name} {client_address(self.request)}")
        return super().clean()


class AdminLoginForm(LoginForm, AdminAuthenticationForm):
    """The same for the administration's own door."""


class SignUpForm(Patience, UserCreationForm):  # type: ignore[type-arg]  # not subscriptable when it runs
    """A name and a password; an e-mail address for who likes to give one."""

    email = forms.EmailField(
        label=_("E-mail address (optional)"),
        required=False,
        help_text=_("So that whoever runs this site can help when you forgot your password."),
        widget=forms.EmailInput(attrs={"autocomplete": "email"}),
    )

    class Meta(UserCreationForm.Meta):
        model = User
        fields = ("username", "email")
        labels = {"username": _("Name")}  # noqa: RUF012

    field_order = ("username", "password1", "password2", "email")

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request
        self.order_fields(self.field_order)

    def clean_username(self) -> str:
        # Counted before it is looked whether there is somebody of that name: nobody shall ask for thousands.
        self.count(f"signup {client_address(self.request)}")
        name: str = super().clean_username()
        return name


class ChangePasswordForm(Patience, PasswordChangeForm):
    def clean_old_password(self) -> str:
        self.count(f"password {self.user.pk}")
        return super().clean_old_password()


class PasswordForm(Patience, forms.Form):
    """Asks whether it is really the person who logged in."""

    password = forms.CharField(
        label=_("Password"),
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user

    def clean_password(self) -> str:
        self.count(f"password {self.user.pk}")
        password: str = self.cleaned_data["password"]
        if not self.user.check_password(password):
            raise ValidationError(_("This is not your password."), code="password")
        return password


def _days(text: str) -> int | None:
    return None if text == "never" else int(text)


class ProfileForm(forms.Form):
    """What a person may change about their account; `keep` is days, or None for until they delete it."""

    keep = forms.TypedChoiceField(
        label=_("How long analyses are kept"),
        choices=[("never" if days is None else str(days), words) for days, words in KEEP_CHOICES],
        coerce=_days,
        widget=forms.RadioSelect,
    )
    email = forms.EmailField(
        label=_("E-mail address (optional)"),
        required=False,
        widget=forms.EmailInput(attrs={"autocomplete": "email"}),
    )
