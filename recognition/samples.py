"""Photos for whoever has none at hand: public domain, shipped in static/samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.contrib.staticfiles import finders


@dataclass(frozen=True)
class Sample:
    slug: str
    title: str
    source: str
    width: int
    height: int

    @property
    def static_name(self) -> str:
        return f"samples/{self.slug}.jpg"

    @property
    def path(self) -> Path:
        found = finders.find(self.static_name)
        assert found is not None, f"{self.static_name} is part of the repository"
        return Path(found)


SAMPLES: Final = {
    sample.slug: sample
    for sample in (
        Sample("eileen-collins", "Eileen Collins, astronaut", "NASA, public domain", 512, 512),
        Sample("grace-hopper", "Grace Hopper, computer scientist", "U.S. Navy, public domain", 512, 600),
    )
}
