"""Photos for whoever has none at hand: public domain, shipped in static/samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.contrib.staticfiles import finders
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True)
class Sample:
    slug: str
    title: Promise
    source: Promise

    @property
    def thumbnail(self) -> str:
        return f"samples/{self.slug}-small.jpg"

    @property
    def path(self) -> Path:
        found = finders.find(f"samples/{self.slug}.jpg")
        assert found is not None, "samples are part of the repository"
        return Path(found)


SAMPLES: Final = {
    sample.slug: sample
    for sample in (
        Sample("eileen-collins", _("Eileen Collins, astronaut"), _("NASA, public domain")),
        Sample("grace-hopper", _("Grace Hopper, computer scientist"), _("U.S. Navy, public domain")),
    )
}
