"""The page that Prometheus reads: requests by view, and what the site keeps, queues and trains.

No label names a person, a photo or an address.
"""

import os
from collections.abc import Iterator

from django.db import Error as DatabaseError
from django.db.models import Count
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from fer_site.queues import queue_lengths
from recognition.counters import faces_read
from recognition.models import Analysis
from recognition.services import predictor_is_loaded
from training.models import TrainingRun


def metrics_page() -> bytes:
    """In Prometheus' text format. Requests are those of this process; where PROMETHEUS_MULTIPROC_DIR names a
    folder, those of all processes."""
    requests = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        requests = CollectorRegistry()
        MultiProcessCollector(requests)  # type: ignore[no-untyped-call]
    return generate_latest(requests) + generate_latest(_site)


class SiteCollector(Collector):
    """What all processes share, asked when somebody wants to know."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "fer_model_loaded", "1 where this process has its model.", value=predictor_is_loaded()
        )
        faces = faces_read()
        if faces is not None:
            yield CounterMetricFamily("fer_faces_read", "Faces read since the cache is there.", value=faces)
        yield from _rows()
        lengths = queue_lengths()
        yield GaugeMetricFamily("fer_broker_up", "1 where the broker answers.", value=lengths is not None)
        queues = GaugeMetricFamily("fer_queue_length", "Tasks that wait for a worker.", labels=["queue"])
        for name, length in (lengths or {}).items():
            queues.add_metric([name], length)
        yield queues


def _rows() -> Iterator[Metric]:
    analyses = GaugeMetricFamily("fer_analyses", "Analyses kept now.", labels=["kind", "state"])
    runs = GaugeMetricFamily("fer_training_runs", "Training runs.", labels=["state"])
    try:
        kept = Analysis.objects.live().order_by().values_list("kind", "state").annotate(Count("pk"))
        for kind, state, number in kept:
            analyses.add_metric([kind, state], number)
        for state, number in TrainingRun.objects.order_by().values_list("state").annotate(Count("pk")):
            runs.add_metric([state], number)
    except DatabaseError:
        yield GaugeMetricFamily("fer_database_up", "1 where the database answers.", value=0)
        return
    yield GaugeMetricFamily("fer_database_up", "1 where the database answers.", value=1)
    yield analyses
    yield runs


_site = CollectorRegistry()
_site.register(SiteCollector())
