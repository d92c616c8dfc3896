"""The web server for a site that others reach: gunicorn, behind nginx.

gunicorn --config deploy/gunicorn.conf.py fer_site.wsgi:application

Variables of the environment: FER_HOST and PORT, where to listen; WEB_CONCURRENCY, how many processes.
"""

import os
from itertools import count
from pathlib import Path
from typing import Any

from prometheus_client import multiprocess, values

host, port = os.environ.get("FER_HOST", "127.0.0.1"), os.environ.get("PORT", "8000")
bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
# Those that this process may use, where the system tells.
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# One process reads photos on all cores, for the networks run without Python's lock. The second one serves
# while the first is replaced; more of them help where there are many cores. Each takes up to 0.9 GB.
workers = int(os.environ.get("WEB_CONCURRENCY") or max(2, cores // 4))
worker_class = "gthread"
threads = 8

# So many photos at once in each process that all of them together have a core each; who sends one beyond is
# asked to come again in a second (recognition/admission.py).
os.environ.setdefault("FER_PHOTOS_AT_ONCE", str(min(max(1, cores // workers), threads - 2)))

# A thread does not survive a fork, and the networks have threads of their own: every process loads them
# itself, after it was forked. So the application must not be loaded in the parent.
preload_app = False

# A process that says nothing for so long is replaced. Long requests do not count, they have threads.
timeout = 120
# How long a process that is to end may finish its requests: as long as nginx waits for one.
graceful_timeout = 120
keepalive = 75

# A new process now and then, each at a time of its own, so that no leak adds up for months. A page with the
# camera on asks ten times a second.
max_requests = 20_000
max_requests_jitter = 4_000

# Bodies are bounded by nginx (deploy/nginx.conf) and by the views, which look at the length before they read
# anything. Here are the bounds of what comes before the body.
limit_request_line = 4094
limit_request_fields = 50
limit_request_field_size = 8190

# The files that tell gunicorn a worker is alive: in memory, for a slow disk would look like a dead worker.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None

# Nobody here commands a running gunicorn by its socket, and all sites of one user would have the same one.
control_socket_disable = True

# Requests are logged by the site, with an id and without addresses (fer_site/logs.py).
accesslog = None
errorlog = "-"


def on_starting(server: Any) -> None:
    """/metrics adds up what all processes counted, in files that must not be those of an earlier start."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file in Path(folder).glob("*.db"):
            file.unlink()


def pre_fork(server: Any, worker: Any) -> None:
    """A worker has the first place that is free, and goes on with the counts of whoever had it before.

    By its number as a process, as Prometheus' client has it, every restart would leave two files for ever,
    and /metrics would read all of them.
    """
    taken = {other.place for other in server.WORKERS.values()}
    worker.place = next(place for place in count() if place not in taken)


def post_fork(server: Any, worker: Any) -> None:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        values.ValueClass = values.MultiProcessValue(lambda: worker.place)  # type: ignore[no-untyped-call]


def child_exit(server: Any, worker: Any) -> None:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.mark_process_dead(worker.place)  # type: ignore[no-untyped-call]
