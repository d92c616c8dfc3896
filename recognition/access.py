"""To whom an analysis belongs: the person who is logged in, or a browser session without an account.

Every view, download and API call reaches analyses through here, and what is not one's own is not found.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.contrib.auth.signals import user_logged_in
from django.db.models import Q
from django.dispatch import receiver
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone

from recognition.models import Analysis, AnalysisQuerySet, Profile, new_token, retention


@dataclass(frozen=True)
class Owner:
    """Who asks. user: the one logged in, or None; word: the browser session's own, "" before an upload.

    The word is not the session's key: that changes when somebody logs in, and is a secret no row should
    hold.
    """

    user: User | None = None
    word: str = ""

    @classmethod
    def of(cls, request: HttpRequest) -> "Owner":
        return cls(_user(request), request.session.get("owner", ""))

    @classmethod
    def of_upload(cls, request: HttpRequest) -> "Owner":
        """The same for somebody who is about to own something: a session without a word gets one."""
        owner = cls(_user(request), request.session.setdefault("owner", new_token()))
        if owner.user is None:
            request.session.modified = True  # its two weeks begin anew: they must outlast what is sent now
        return owner

    def analyses(self) -> AnalysisQuerySet:
        """Those that are theirs and whose time has not passed."""
        own = Q(pk__in=())
        if self.user:
            own |= Q(user=self.user)
        if self.word:
            own |= Q(owner=self.word, user=None)
        return Analysis.objects.live().filter(own)

    def analysis(self, token: str) -> Analysis:
        """Theirs of that token; for anybody else's, Http404."""
        if "\0" in token:  # PostgreSQL refuses even to look for it
            raise Http404
        return get_object_or_404(self.analyses(), pk=token)

    def new_analysis(self, **fields: Any) -> Analysis:
        """An unsaved analysis of theirs, which lives as long as they chose."""
        word = "" if self.user else self.word
        return Analysis(user=self.user, owner=word, expires=self._expires(), **fields)

    def _expires(self) -> datetime | None:
        now = timezone.now()
        return kept_until(self.user, now) if self.user else now + retention()


def kept_until(user: User, created: datetime) -> datetime | None:
    """When an analysis that `user` made then ends; None for never."""
    profile, _ = Profile.objects.get_or_create(user=user)
    return None if profile.keep_days is None else created + timedelta(days=profile.keep_days)


def own_analysis(request: HttpRequest, token: str) -> Analysis:
    """The asker's analysis of that token; for anybody else's, Http404."""
    return Owner.of(request).analysis(token)


def _user(request: HttpRequest) -> User | None:
    user: AbstractBaseUser | AnonymousUser = request.user
    return user if isinstance(user, User) else None


@receiver(user_logged_in)
def adopt_analyses(request: HttpRequest, user: User, **_: object) -> None:
    """What somebody uploaded before logging in becomes the account's, to be kept as it says."""
    word = request.session.get("owner")
    if not word:
        return
    for analysis in Analysis.objects.live().filter(owner=word, user=None):
        analysis.user, analysis.owner = user, ""
        analysis.expires = kept_until(user, analysis.created)
        analysis.save(update_fields=["user", "owner", "expires"])
