"""`python -m tests.reliability.fuzzing NAME FLAG…` gives one of the parsers what atheris thinks of.

The flags are libFuzzer's. It ends with an error at the first input that breaks the parser.
"""

import os
import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

with atheris.instrument_imports(include=["ml", "recognition"]):
    import django

    django.setup()
    from tests.reliability.parsers import PARSERS, place

check, samples = PARSERS[sys.argv[1]]
seeds = place() / "seeds"
seeds.mkdir()
for number, sample in enumerate(samples()):
    (seeds / str(number)).write_bytes(sample)
atheris.Setup([sys.argv[0], *sys.argv[2:], str(seeds)], check)
atheris.Fuzz()
