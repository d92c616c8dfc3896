from collections.abc import Iterator
from itertools import groupby
from typing import Any

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def sum_up(apps: StateApps, _editor: BaseDatabaseSchemaEditor) -> None:
    """Give the people of videos that were read before their means, which the history reads from now on."""
    Track, Sighting = apps.get_model("recognition", "Track"), apps.get_model("recognition", "Sighting")
    read = Sighting.objects.filter(probabilities__isnull=False).order_by("track")
    rows: Iterator[tuple[int, dict[str, float]]] = read.values_list("track", "probabilities").iterator()
    for track, moments in groupby(rows, key=lambda row: row[0]):
        shares: list[dict[str, Any]] = [probabilities for _, probabilities in moments]
        means = {name: sum(one[name] for one in shares) / len(shares) for name in shares[0]}
        Track.objects.filter(pk=track).update(probabilities=means)


class Migration(migrations.Migration):
    dependencies = [("recognition", "0006_api_key_words")]

    operations = [
        migrations.AddField("track", "probabilities", models.JSONField(null=True)),
        migrations.RunPython(sum_up, migrations.RunPython.noop),
    ]
