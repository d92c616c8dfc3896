"""The history: what was analysed day by day, its notes, and the shares of expressions over time."""

import re
from datetime import UTC, date, datetime, timedelta
from html import unescape
from importlib import import_module

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from ml.expressions import EXPRESSIONS
from recognition import history
from recognition.models import Analysis, DayNote, Sighting, Track
from tests.recognition.conftest import Keep

pytestmark = pytest.mark.django_db

TODAY = date(2026, 3, 18)  # a Wednesday


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noon of the same day in every test."""
    monkeypatch.setattr(timezone, "now", lambda: noon(TODAY))


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def page(client: Client, ada: User) -> Client:
    client.force_login(ada)
    return client


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def words(response: object) -> str:
    text = re.sub(r"<[^>]+>", " ", response.content.decode())  # type: ignore[attr-defined]
    return " ".join(unescape(text).split())


def address(day: date) -> str:
    return reverse("history_day", args=[day.year, day.month, day.day])


def cells(response: object) -> dict[int, str]:
    """What the calendar says of each day to who cannot see it."""
    html = response.content.decode()  # type: ignore[attr-defined]
    said = re.findall(
        r'<span class="visually-hidden">(\d+) \w+: ([^<]+)</span>|<span class="day">(\d+)<', html
    )
    return {int(day or future): unescape(text) for day, text, future in said}


def video(user: User, seen: list[dict[str, float]], **fields: object) -> Analysis:
    """A video with one person, who showed one thing after the other."""
    analysis = Analysis.objects.create(user=user, kind="video", model_name="a model", **fields)
    means = {name: sum(one.get(name, 0) for one in seen) / len(seen) for name in EXPRESSIONS}
    Track.objects.create(analysis=analysis, number=1, probabilities=means)
    return analysis


# The calendar and the day ----------------------------------------------------------------------------------


def test_the_people_of_videos_that_were_read_before_their_means_were_kept_are_counted_too(
    page: Client, ada: User
) -> None:
    track = video(ada, [{"fear": 1.0}], created=noon(TODAY)).tracks.get()
    other = video(ada, [{"fear": 1.0}], created=noon(TODAY)).tracks.get()
    Track.objects.update(probabilities=None)
    for milliseconds, shown in enumerate(({"happiness": 0.6, "fear": 0.4}, {"fear": 1.0}, None)):
        Sighting.objects.create(
            track=track,
            milliseconds=milliseconds,
            box=[0, 0, 9, 9],
            landmarks={},
            confidence=1,
            probabilities=shown and dict.fromkeys(EXPRESSIONS, 0.0) | shown,
            problem="" if shown else "too small",
        )

    import_module("recognition.migrations.0007_track_probabilities").sum_up(apps, None)

    track.refresh_from_db()
    other.refresh_from_db()
    means = dict.fromkeys(EXPRESSIONS, 0.0) | {"happiness": 0.3, "fear": 0.7}
    assert track.probabilities == pytest.approx(means)
    assert other.probabilities is None
    assert cells(page.get(reverse("history")))[TODAY.day] == "2 analyses, mostly fear"


def test_without_an_account_the_page_says_what_one_adds(client: Client) -> None:
    page = client.get(reverse("history"))

    assert "in a calendar" in words(page)
    assert f'href="{reverse("signup")}?next={reverse("history")}"' in page.content.decode()
    assert client.get(address(TODAY)).status_code == 302


def test_a_day_says_how_much_was_analysed_and_what_was_read_most(page: Client, ada: User, keep: Keep) -> None:
    keep(("happiness", "neutral", "happiness"), user=ada, created=noon(date(2026, 3, 5)))
    keep(("neutral", "happiness"), user=ada, created=noon(date(2026, 3, 5)))
    keep((), user=ada, created=noon(date(2026, 3, 6)))
    keep(("fear",), user=ada, created=noon(date(2026, 2, 28)))
    DayNote.objects.create(user=ada, day=date(2026, 3, 7), text="dear diary")

    said = cells(page.get(reverse("history")))

    assert said[5] == "2 analyses, mostly happiness, neutral"
    assert said[6] == "1 analysis"
    assert said[7] == "nothing analysed, with a note"
    assert said[18] == "nothing analysed"
    assert list(said) == list(range(1, 32))
    assert not any(said[day] for day in range(19, 32)), "days to come have nothing to open"
    assert cells(page.get(reverse("history_month", args=[2026, 2])))[28] == "1 analysis, mostly fear"


def test_weeks_begin_on_monday_and_months_have_all_their_days() -> None:
    month = history.month_of(date(2026, 3, 1), Analysis.objects.all(), DayNote.objects.all())

    assert [len(week) for week in month.weeks] == [7] * 6
    (first,) = [day for day in month.weeks[0] if day]
    assert month.weeks[0].index(first) == 6
    assert (month.before, month.after) == (date(2026, 2, 1), None)
    december = history.month_of(date(2025, 12, 1), Analysis.objects.all(), DayNote.objects.all())
    assert (december.before, december.after) == (date(2025, 11, 1), date(2026, 1, 1))
    assert history.month_of(history.EARLIEST, Analysis.objects.all(), DayNote.objects.all()).before is None


def test_days_are_those_of_the_sites_time_zone(
    page: Client, ada: User, keep: Keep, settings: Settings
) -> None:
    settings.TIME_ZONE = "Asia/Ho_Chi_Minh"  # seven hours ahead
    midnight = keep(user=ada, created=datetime(2026, 3, 9, 17, tzinfo=UTC))

    said = cells(page.get(reverse("history")))
    assert (said[9], said[10]) == ("nothing analysed", "1 analysis, mostly happiness")
    assert midnight.token in page.get(address(date(2026, 3, 10))).content.decode()
    assert midnight.token not in page.get(address(date(2026, 3, 9))).content.decode()
    (bar,) = [bar for bar in history.chart_of(Analysis.objects.all(), 30, TODAY) if bar.total]
    assert bar.first == date(2026, 3, 10)


def test_a_day_lists_its_analyses(page: Client, ada: User, keep: Keep) -> None:
    mine = keep(("happiness", "anger"), user=ada, created=noon(date(2026, 3, 5)), note="With Charles")
    other = keep(user=ada, created=noon(date(2026, 3, 6)))
    film = video(ada, [{"fear": 1}], created=noon(date(2026, 3, 5)))

    listed = page.get(address(date(2026, 3, 5)))

    html = listed.content.decode()
    assert f'href="{mine.get_absolute_url()}"' in html
    assert f'href="{film.get_absolute_url()}"' in html
    assert other.token not in html
    assert html.count(f"/a/{mine.token}/photo-1-face-") == 2
    assert "2 faces in 1 photo 12:00 · photos" in words(listed)
    assert "1 person in a video 12:00 · video" in words(listed)
    assert "With Charles" in html


def test_a_day_of_many_analyses_has_a_page_of_older_ones(page: Client, ada: User, keep: Keep) -> None:
    oldest = keep(user=ada, created=noon(TODAY) - timedelta(hours=1))
    for _ in range(30):
        keep(user=ada, created=noon(TODAY))

    newest = page.get(address(TODAY)).content.decode()

    assert oldest.token not in newest
    link = re.search(r'<a href="([^"]+)" rel="next">Older</a>', newest)
    assert link is not None
    assert oldest.token in page.get(link[1]).content.decode()
    too_long = page.post(reverse("note", args=[oldest.token]), {"note": "y" * 2001})
    assert "y" * 2001 in too_long.content.decode(), "it is given back, on the page of its analysis"
    assert "at most" in words(too_long)
    saved = page.post(reverse("note", args=[oldest.token]), {"note": "The first."}, follow=True)
    assert "The first." in saved.content.decode(), "its own page comes back"
    assert saved.redirect_chain[-1][0].endswith(f"?page=2#analysis-{oldest.token}")
    of_a_year = page.get(address(TODAY), {"range": 365}).content.decode()
    assert re.search(r'<a href="[^"]+\?range=365&amp;page=2[^"]*" rel="next">Older</a>', of_a_year)


def test_a_month_opens_on_its_last_day_with_something_in_it(page: Client, ada: User, keep: Keep) -> None:
    analysis = keep(user=ada, created=noon(date(2026, 2, 10)), expires=None)

    february = page.get(reverse("history_month", args=[2026, 2])).content.decode()
    january = page.get(reverse("history_month", args=[2026, 1]))

    assert analysis.token in february
    DayNote.objects.create(user=ada, day=date(2026, 2, 12), text="dear diary")
    assert "dear diary" in page.get(reverse("history_month", args=[2026, 2])).content.decode()
    assert reverse("history_month", args=[2026, 1]) in february
    assert "Nothing was analysed in this month" in words(january)


@pytest.mark.parametrize(
    "where", ["2026/2/30/", "2026/13/1/", "2026/13/", "2026/3/19/", "0/1/", "99999/1/1/", "9999999999/1/1/"]
)
def test_days_that_are_not_or_have_not_been_are_not_found(page: Client, where: str) -> None:
    assert page.get(f"/history/{where}").status_code == 404


def test_what_has_outlived_its_time_is_not_in_the_history(page: Client, ada: User, keep: Keep) -> None:
    keep(user=ada, created=noon(date(2026, 3, 5)), expires=noon(date(2026, 3, 6)))

    said = page.get(address(date(2026, 3, 5)))

    assert cells(said)[5] == "nothing analysed"
    assert "Nothing was analysed on this day" in words(said)
    assert "No face was read in this time" in words(said)


# Notes -----------------------------------------------------------------------------------------------------


def test_a_day_has_one_note_that_is_written_changed_and_emptied(page: Client, ada: User) -> None:
    hers = DayNote.objects.create(user=User.objects.create_user("grace"), day=TODAY, text="hers alone")
    for sent, kept in (("A long day.\r\n\r\nVery.", "A long day.\n\nVery."), ("Short.", "Short.")):
        response = page.post(address(TODAY), {"text": sent}, follow=True)
        assert DayNote.objects.get(user=ada).text == kept
        assert kept in response.content.decode()
        assert "with a note" in cells(response)[18]

    page.post(address(TODAY), {"text": "  \r\n"})
    assert list(DayNote.objects.values_list("pk", "text")) == [(hers.pk, "hers alone")]


def test_an_analysis_has_a_note_of_its_own(page: Client, ada: User, keep: Keep) -> None:
    analysis = keep(user=ada, created=noon(date(2026, 3, 5)))

    response = page.post(reverse("note", args=[analysis.token]), {"note": "With <Charles>"})

    assert response["Location"] == f"{address(date(2026, 3, 5))}?page=1#analysis-{analysis.token}"
    analysis.refresh_from_db()
    assert analysis.note == "With <Charles>"
    assert "With &lt;Charles&gt;" in page.get(response["Location"]).content.decode()


def test_who_had_to_log_in_to_save_a_note_comes_to_its_day(client: Client, ada: User, keep: Keep) -> None:
    analysis = keep(user=ada, created=noon(date(2026, 3, 5)))
    note = reverse("note", args=[analysis.token])
    assert note in client.post(note, {"note": "Sent too late"})["Location"]

    client.force_login(ada)

    assert client.get(note)["Location"] == address(date(2026, 3, 5))


def test_a_note_that_is_too_long_is_given_back_and_not_lost(page: Client, ada: User, keep: Keep) -> None:
    analysis = keep(user=ada)
    DayNote.objects.create(user=ada, day=TODAY, text="before")

    of_day = page.post(address(TODAY), {"text": "x" * 4001})
    of_analysis = page.post(reverse("note", args=[analysis.token]), {"note": "y" * 2001})

    for response, text in ((of_day, "x" * 4001), (of_analysis, "y" * 2001)):
        assert response.status_code == 400
        assert text in response.content.decode()
        assert "at most" in words(response)
    assert DayNote.objects.get().text == "before"
    analysis.refresh_from_db()
    assert analysis.note == ""
    assert page.post(address(TODAY), {"text": "z\r\n" * 1333 + "z"}).status_code == 302, "a line's end is one"


# The chart -------------------------------------------------------------------------------------------------


def shares(bar: history.Bar) -> dict[str, float]:
    return {part.expression: part.share for part in bar.segments}


def test_the_chart_shows_the_share_of_each_expression_day_by_day(ada: User, keep: Keep) -> None:
    keep(("happiness", "happiness", "anger"), user=ada, created=noon(TODAY))
    keep(("neutral",), user=ada, created=noon(TODAY))
    keep(("fear",), user=ada, created=noon(TODAY - timedelta(days=29)))
    keep(("fear",), user=ada, created=noon(TODAY - timedelta(days=30)), expires=None)

    bars = history.chart_of(ada.analyses.all(), 30, TODAY)

    assert [bar.first for bar in bars] == [TODAY - timedelta(days=back) for back in reversed(range(30))]
    assert shares(bars[-1]) == {"anger": 0.25, "happiness": 0.5, "neutral": 0.25}
    assert [part.below for part in bars[-1].segments] == [0, 0.25, 0.75]
    assert shares(bars[0]) == {"fear": 1}
    assert sum(bar.total for bar in bars) == 5


def test_over_months_a_bar_is_a_week_from_monday(ada: User, keep: Keep) -> None:
    monday = date(2026, 3, 16)
    keep(("happiness",), user=ada, created=noon(monday), expires=None)
    keep(("sadness",), user=ada, created=noon(monday - timedelta(days=1)), expires=None)
    keep(("fear",), user=ada, created=noon(date(2025, 3, 19)), expires=None)

    quarter, year = (history.chart_of(ada.analyses.all(), days, TODAY) for days in (90, 365))

    assert {bar.first.weekday() for bar in (*quarter, *year)} == {0}
    assert shares(quarter[-1]) == {"happiness": 1}
    assert shares(quarter[-2]) == {"sadness": 1}
    assert (quarter[-1].first, quarter[-1].last) == (monday, TODAY)
    assert len(quarter) == 14
    assert shares(year[0]) == {"fear": 1}
    assert sum(bar.total for bar in quarter) == 2


def test_a_person_in_a_video_counts_once_by_what_they_showed_most(ada: User) -> None:
    video(ada, [{"happiness": 0.9, "neutral": 0.1}, {"neutral": 0.6, "happiness": 0.4}], created=noon(TODAY))

    assert shares(history.chart_of(ada.analyses.all(), 30, TODAY)[-1]) == {"happiness": 1}


def test_the_page_draws_the_chart_and_says_its_numbers(page: Client, ada: User, keep: Keep) -> None:
    keep(("happiness", "happiness", "anger"), user=ada, created=noon(TODAY))

    for wanted, bars in (("30", 30), ("90", 14), ("365", 53), ("7", 30), ("x", 30)):
        response = page.get(reverse("history"), {"range": wanted})
        html = response.content.decode()
        assert html.count("<title>") == 1 + bars
        assert len(re.findall(r"<rect class=\"expression-", html)) == 2
        assert 'class="expression-happiness" x="' in html
        assert re.search(r'class="expression-anger"[^>]* y="66.667%" height="33.333%"', html)
        assert re.search(r"– 67\W% – – – 3$|33\W% – – – 67\W% – – – 3", words(response))
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\bsrc=)", html)


def test_what_all_faces_showed_is_all_of_it(page: Client, ada: User, keep: Keep) -> None:
    keep(("happiness", "happiness"), user=ada, created=noon(TODAY))

    said = words(page.get(reverse("history")))

    assert "happiness 100 %" in said, "of the bar"
    assert "– 100 % –" in said, "in the table"
    assert ">99" not in said


def test_a_history_costs_as_many_questions_for_a_year_as_for_a_day(
    page: Client, ada: User, keep: Keep, django_assert_max_num_queries: object
) -> None:
    for back in range(1, 40):
        keep(user=ada, created=noon(TODAY - timedelta(days=back)), expires=None)

    with django_assert_max_num_queries(20):  # type: ignore[operator]
        page.get(reverse("history"), {"range": "365"})


def test_it_speaks_vietnamese_dates(page: Client) -> None:
    page.cookies["django_language"] = "vi"

    assert "Tháng" in words(page.get(reverse("history")))
