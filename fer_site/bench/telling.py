"""What was measured, as tables, JSON and a part of docs/performance.md."""

import importlib
import platform
from pathlib import Path
from typing import Any, Final

from fer_site.bench.measuring import RUNS, Row
from fer_site.bench.photos import ROOT

DOCS: Final = ROOT / "docs" / "performance.md"

Tables = dict[str, list[tuple[str, str]]]  # a title, and what stands beside what


def machine() -> dict[str, Any]:
    from ml.runtime import available_cores, choose_device

    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        model = lines[0].split(":")[1].strip() if lines else model
    versions = {
        name: importlib.import_module(name).__version__ for name in ("openvino", "cv2", "numpy", "django")
    }
    return {
        "processor": model,
        "cores": available_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "threads": f"{available_cores()} threads (OpenVINO), {available_cores()} (torch)",
        "gpu": _gpu() if choose_device("auto") == "cuda" else "not measured",
        "versions": versions,
    }


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name()


def as_table(rows: dict[str, Row]) -> str:
    lines = ["| What | Ours | Reference | Ratio | Reach |", "|---|---|---|---|---|"]
    for row in rows.values():
        reference = f"{row.reference:.3g} {row.unit} ({row.against})" if row.reference else "–"
        ratio = f"{row.ratio:.2f}" if row.ratio else "–"
        lines.append(f"| {row.what} | {row.ours:.3g} {row.unit} | {reference} | {ratio} | {row.reach} |")
    return "\n".join(lines)


def write_docs(page: Path, rows: dict[str, Row], tables: Tables) -> None:
    """Put the tables between the marks of a page such as docs/performance.md."""
    facts = machine()
    text = [
        f"{facts['processor']}, {facts['cores']} cores, {facts['system']}, Python {facts['python']}; "
        f"{facts['threads']}. GPU: {facts['gpu']}. Medians over {RUNS} runs after a warm-up, over "
        "fewer of what takes long.",
        "",
        as_table(rows),
    ]
    for title, table in tables.items():
        text += ["", f"**{title}**", "", "| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in table)]
    before, rest = page.read_text(encoding="utf-8").split("<!-- bench -->\n")
    after = rest.split("<!-- /bench -->")[1]
    body = "\n".join(text)
    page.write_text(f"{before}<!-- bench -->\n{body}\n<!-- /bench -->{after}", encoding="utf-8")


def as_json(rows: dict[str, Row]) -> dict[str, Any]:
    """{"ms": ours, "reference_ms": …, "ratio": …}, the key in the row's own unit."""
    names = {"ms": "ms", "s": "s", "MB": "mb", "photos/s": "photos_per_s", "images/s": "images_per_s"}
    result = {}
    for name, row in rows.items():
        unit = names.get(row.unit, row.unit.replace("/", "_per_"))
        result[name] = {unit: row.ours, f"reference_{unit}": row.reference, "ratio": row.ratio, **row.more}
    return result
