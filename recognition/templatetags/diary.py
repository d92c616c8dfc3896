"""What the calendar says in words."""

from django import template
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from recognition.history import Day
from recognition.words import word_for

register = template.Library()


@register.filter
def in_a_day(day: Day) -> str:
    """What lies in a day: "3 analyses, mostly happiness, neutral, with a note"."""
    count = ngettext("%(count)d analysis", "%(count)d analyses", day.analyses) % {"count": day.analyses}
    parts = [count if day.analyses else _("nothing analysed")]
    if day.marks:
        parts.append(_("mostly %(words)s") % {"words": ", ".join(map(word_for, day.marks[:2]))})
    if day.has_note:
        parts.append(_("with a note"))
    return ", ".join(parts)
