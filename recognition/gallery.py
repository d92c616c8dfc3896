"""The faces of a batch as somebody wants to see them: which ones, in what order, and what all of them show.

All is counted, filtered and sorted by the database, so a page of a large batch costs no more memory than one
of a small batch.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from django.db.models import Avg, Count, F, FloatField, Q, QuerySet
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Greatest
from django.http import QueryDict
from django.utils.http import urlencode

from ml.expressions import EXPRESSIONS
from recognition.models import Analysis, Face, Photo

A_PAGE: Final = 60
SHOWN: Final = ("faces", "without", "unused")
SORTS: Final = ("order", "name", *EXPRESSIONS)
LEAST: Final = (0, 50, 60, 70, 80, 90)  # percent
MOST_FACES: Final = 5  # photos of so many and more are counted together
PROBLEMS: Final = tuple(Face.Problem.values)


@dataclass(frozen=True)
class Choice:
    """What is to be seen: the page's GET parameters, those that make no sense left out.

    show: faces, photos `without` one, or files that could not be used. expressions: only faces that show one
    of these (or have one of these problems); none: all. least: how probable that has to be, in percent. sort:
    order, name, or an expression, the most probable first.
    """

    show: str = "faces"
    expressions: tuple[str, ...] = field(default=())
    least: int = 0
    sort: str = "order"
    page: int = 1

    @classmethod
    def of(cls, query: QueryDict) -> "Choice":
        def one(name: str, allowed: tuple[str, ...]) -> str:
            value = query.get(name, "")
            return value if value in allowed else allowed[0]

        least = _number(query.get("least", ""))
        return cls(
            show=one("show", SHOWN),
            expressions=tuple(
                name for name in (*EXPRESSIONS, *PROBLEMS) if name in query.getlist("expression")
            ),
            least=least if 0 < least < 100 else 0,
            sort=one("sort", SORTS),
            page=max(1, _number(query.get("page", ""))),
        )

    def query(self, **changes: object) -> str:
        """These parameters, some of them changed, as they stand in an address: "?sort=fear&page=2"."""
        changed = replace(self, **changes)  # type: ignore[arg-type]
        pairs: list[tuple[str, str]] = [("expression", name) for name in changed.expressions]
        pairs += [
            (name, str(value))
            for name in ("show", "least", "sort", "page")
            if (value := getattr(changed, name)) != getattr(Choice(), name)
        ]
        return f"?{urlencode(pairs)}"

    @property
    def filtered(self) -> bool:
        return bool(self.expressions or self.least)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def faces_of(analysis: Analysis) -> QuerySet[Face]:
    """Its faces, each with its eight probabilities as columns p_NAME, and the greatest of them as `top`."""
    columns = {
        f"p_{name}": Cast(KeyTextTransform(name, "probabilities"), FloatField()) for name in EXPRESSIONS
    }
    faces = Face.objects.filter(photo__analysis=analysis).annotate(**columns)
    return faces.annotate(top=Greatest(*columns))


def shows(name: str) -> Q:
    """Faces that show this expression, or have this problem."""
    return Q(problem=name) if name in PROBLEMS else Q(**{f"p_{name}": F("top")})


def chosen_faces(analysis: Analysis, choice: Choice) -> QuerySet[Face]:
    """The faces to be seen, in order. Where that is by an expression, `sorted_by` is its probability."""
    faces = faces_of(analysis).select_related("photo")
    if choice.expressions:
        wanted = Q()
        for name in choice.expressions:
            wanted |= shows(name)
        faces = faces.filter(wanted)
    if choice.least:
        faces = faces.filter(Q(top__gte=choice.least / 100))
    order = ("photo__number", "number")
    if choice.sort in EXPRESSIONS:
        faces = faces.annotate(sorted_by=F(f"p_{choice.sort}"))
        return faces.order_by(F("sorted_by").desc(nulls_last=True), *order)
    return faces.order_by("photo__name", *order) if choice.sort == "name" else faces.order_by(*order)


def photos_without_faces(analysis: Analysis, choice: Choice) -> QuerySet[Photo]:
    photos = analysis.photos.filter(faces=None)
    return photos.order_by("name", "number") if choice.sort == "name" else photos.order_by("number")


@dataclass(frozen=True)
class Counted:
    """A bar of a chart: how many there are, and its length as a share of the longest, "64.00%"."""

    name: str
    count: int
    width: str


@dataclass(frozen=True)
class Mean:
    """A bar of a chart: the mean probability of an expression, 0 to 1, and the same as the bar's length."""

    name: str
    share: float
    width: str


@dataclass(frozen=True)
class Summary:
    """What all of a batch shows. shown: faces by expression, and by problem where there are such. means: the
    mean probability of each expression over all faces that were read. crowds: photos by how many faces are
    in them, 0 to `MOST_FACES` or more."""

    photos: int
    faces: int
    read: int
    without: int
    unused: int
    shown: list[Counted]
    means: list[Mean]
    crowds: list[Counted]


def summarise(analysis: Analysis) -> Summary:
    names = (*EXPRESSIONS, *PROBLEMS)
    found = faces_of(analysis).aggregate(
        faces=Count("pk"),
        **{f"count_{name.replace(' ', '_')}": Count("pk", filter=shows(name)) for name in names},
        **{f"mean_{name}": Avg(f"p_{name}") for name in EXPRESSIONS},
    )
    counts = {name: found[f"count_{name.replace(' ', '_')}"] for name in names}
    crowds = dict.fromkeys(range(MOST_FACES + 1), 0)
    photos = analysis.photos.annotate(crowd=Count("faces")).order_by().values_list("crowd", flat=True)
    for crowd in photos.iterator(chunk_size=2000):
        crowds[min(crowd, MOST_FACES)] += 1
    read = sum(counts[name] for name in EXPRESSIONS)
    return Summary(
        photos=sum(crowds.values()),
        faces=found["faces"],
        read=read,
        without=crowds[0],
        unused=analysis.rejections.count(),
        shown=_bars({name: count for name, count in counts.items() if count or name in EXPRESSIONS}),
        means=[_mean(name, found[f"mean_{name}"]) for name in EXPRESSIONS] if read else [],
        crowds=_bars({str(crowd): count for crowd, count in crowds.items()}),
    )


def _mean(name: str, share: float) -> Mean:
    return Mean(name, share, f"{share:.2%}")


def _bars(counts: dict[str, int]) -> list[Counted]:
    most = max(counts.values(), default=0) or 1
    return [Counted(name, count, f"{count / most:.2%}") for name, count in counts.items()]
