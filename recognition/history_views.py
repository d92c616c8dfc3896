"""What somebody with an account analysed and noted, by day."""

from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_safe

from ml.expressions import EXPRESSIONS
from recognition import history
from recognition.access import Owner, own_analysis
from recognition.answers import private
from recognition.models import Analysis, AnalysisQuerySet, DayNote
from recognition.templatetags.video import of_time
from recognition.words import word_for

RANGE_WORDS: Final = {
    30: gettext_lazy("30 days"),
    90: gettext_lazy("90 days"),
    365: gettext_lazy("1 year"),
}

A_PAGE: Final = 30  # analyses of a day

_WEEK: Final = [date(2024, 1, number) for number in range(1, 8)]  # a Monday and the days after it


class _NoteField(forms.CharField):
    """Text of several lines. Browsers send two characters for a line's end, and count one."""

    widget = forms.Textarea

    def to_python(self, value: object) -> str:
        return str(super().to_python(value) or "").replace("\r\n", "\n")


class NoteForm(forms.Form):
    """The note of one analysis."""

    note = _NoteField(label=gettext_lazy("Note"), required=False, max_length=2000)


class DayNoteForm(forms.Form):
    """The note about a day; without a text it is deleted."""

    text = _NoteField(label=gettext_lazy("Your note about this day"), required=False, max_length=4000)


@private
@require_safe
def today(request: HttpRequest) -> HttpResponse:
    if Owner.of(request).user is None:
        return render(request, "recognition/history_without_account.html")
    return _page(request, timezone.localdate())


@private
@login_required
@require_safe
def month(request: HttpRequest, year: int, month: int) -> HttpResponse:
    return _page(request, None, _date(year, month, 1))


@private
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def day(request: HttpRequest, year: int, month: int, day: int) -> HttpResponse:
    """A day; POST writes its note."""
    chosen = _date(year, month, day)
    if request.method != "POST":
        return _page(request, chosen)
    form = DayNoteForm(request.POST)
    if not form.is_valid():
        return _page(request, chosen, day_form=form)
    notes = DayNote.objects.filter(user=Owner.of(request).user, day=chosen)
    text = form.cleaned_data["text"]
    if text:
        notes.update_or_create(defaults={"text": text}, user=Owner.of(request).user, day=chosen)
        messages.success(request, _("Your note is saved."))
    else:
        notes.delete()
        messages.success(request, _("There is no note about this day any more."))
    return redirect("history_day", year, month, day)


@private
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def note(request: HttpRequest, token: str) -> HttpResponse:
    """Write the note of one analysis, and go back to its day."""
    analysis = own_analysis(request, token)
    chosen = timezone.localdate(analysis.created)
    if request.method != "POST":  # who had to log in first comes by GET
        return redirect("history_day", chosen.year, chosen.month, chosen.day)
    form = NoteForm(request.POST, auto_id=f"id_{token}_%s")
    if not form.is_valid():
        return _page(request, chosen, note_form=(analysis, form))
    analysis.note = form.cleaned_data["note"]
    analysis.save(update_fields=["note"])
    messages.success(request, _("Your note is saved."))
    day = reverse("history_day", args=(chosen.year, chosen.month, chosen.day))
    page = _page_of(analysis, history.between(Owner.of(request).analyses(), chosen, chosen))
    return redirect(f"{day}?page={page.number}#analysis-{token}")


def _page_of(analysis: Analysis, day: "QuerySet[Analysis]") -> "Page[Analysis]":
    return next(page for page in Paginator(day, A_PAGE) if analysis in page)


def _date(year: int, month: int, day: int) -> date:
    """A day that has been, else Http404."""
    try:
        chosen = date(year, month, day)
    except (ValueError, OverflowError) as error:
        raise Http404 from error
    if not history.EARLIEST <= chosen <= timezone.localdate():
        raise Http404
    return chosen


def _page(
    request: HttpRequest,
    chosen: date | None,
    first: date | None = None,
    day_form: DayNoteForm | None = None,
    note_form: tuple[Analysis, NoteForm] | None = None,
) -> HttpResponse:
    """The page of a day; without one, of the last day of the month with something in it.

    `day_form` or `note_form` is one that was sent and could not be saved.
    """
    owner = Owner.of(request)
    analyses, notes = owner.analyses(), DayNote.objects.filter(user=owner.user)
    first = first or (chosen or timezone.localdate()).replace(day=1)
    shown = history.month_of(first, analyses, notes)
    chosen = chosen or shown.latest
    context: dict[str, Any] = {
        "month": shown,
        "weekdays": _WEEK,
        "chosen": chosen,
        "today": timezone.localdate(),
        **_chart(request, analyses),
    }
    if chosen:
        own = history.between(analyses, chosen, chosen)
        if note_form:  # a note that could not be saved is shown with its reason
            page = _page_of(note_form[0], own)
        else:
            page = Paginator(own, A_PAGE).get_page(request.GET.get("page"))
        context["page"] = page
        context["entries"] = [(analysis, _note_form(analysis, note_form)) for analysis in page]
        written = notes.filter(day=chosen).first()
        context["day_form"] = day_form or DayNoteForm(initial={"text": written.text if written else ""})
        context["day_note"] = written
    status = 400 if day_form or note_form else 200
    return render(request, "recognition/history.html", context, status=status)


def _note_form(analysis: Analysis, sent: tuple[Analysis, NoteForm] | None) -> NoteForm:
    if sent and sent[0] == analysis:
        return sent[1]
    return NoteForm(initial={"note": analysis.note}, auto_id=f"id_{analysis.token}_%s")


@dataclass(frozen=True)
class _Drawn:
    """A bar of the chart: where it stands, as shares of the drawing, and its row of the table."""

    first: date
    x: str
    width: str
    parts: list[dict[str, str]]
    shares: list[float]
    total: int
    words: str


def _chart(request: HttpRequest, analyses: AnalysisQuerySet) -> dict[str, Any]:
    wanted = request.GET.get("range", "")
    days = int(wanted) if wanted in map(str, history.RANGES) else next(iter(history.RANGES))
    bars = history.chart_of(analyses, days, timezone.localdate())
    drawn = [_draw(bar, place, len(bars)) for place, bar in enumerate(bars)]
    return {
        "expressions": EXPRESSIONS,
        "bars": drawn,
        "anything": any(bar.total for bar in bars),
        "range": days,
        "ranges": RANGE_WORDS.items(),
        "by_week": history.RANGES[days] > 1,
    }


def _draw(bar: history.Bar, place: int, bars: int) -> _Drawn:
    said = [f"{word_for(part.expression)} {of_time(part.share)}" for part in reversed(bar.segments)]
    return _Drawn(
        first=bar.first,
        x=f"{(place + 0.1) / bars:.3%}",
        width=f"{0.8 / bars:.3%}",
        parts=[
            {
                "expression": part.expression,
                "y": f"{1 - part.below - part.share:.3%}",
                "height": f"{part.share:.3%}",
            }
            for part in bar.segments
        ],
        shares=[bar.counts[name] / bar.total if bar.total else 0.0 for name in EXPRESSIONS],
        total=bar.total,
        words=f"{date_format(bar.first, 'MONTH_DAY_FORMAT')}: {', '.join(said)}",
    )
