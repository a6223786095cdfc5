"""What a monitor saw, as gauges for Prometheus and as an HTML page."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final

from datasetops.audits import charts
from datasetops.evaluation.gallery import picture
from datasetops.monitor.monitor import Monitoring
from datasetops.monitor.policy import MonitorPolicy
from datasetops.prometheus import Gauge
from datasetops.store.media import Media

_PREFIX: Final = "dsops_monitor"
_CHARTS: Final = 10  # keys with a chart
_LISTED: Final = 50  # unreadable images


def gauges(found: Monitoring) -> list[Gauge]:
    """Numbers with the labels model, version and source, slices and classes each by name.

    What was not compared is left out. The source is named without the digest of its content, which would start a new
    series at each run.
    """
    source = re.sub(r" \([0-9a-f]{8}\)$", "", found.samples_of)
    own = {"model": found.model, "version": found.version, "source": source}
    images, labeled, confidence = found.images, found.labeled, found.confidence
    names = [name for name in MonitorPolicy.model_fields if name not in ("name", "description")]
    raised = [alarm.name for alarm in found.alarms]
    plain: list[tuple[str, str, float | None]] = [
        ("passed", "1 where no alarm was raised.", float(found.passed)),
        ("samples", "Samples of production that were compared.", float(found.samples)),
        ("unreadable", "Samples that cannot be read.", float(len(found.unreadable))),
        (
            "told_apart",
            "How often of one image of each side the new one is told; 0.5 by chance.",
            None if images is None else images.told_apart,
        ),
        ("images_p", "p of images that look alike.", None if images is None else images.p),
        ("confidence", "Mean confidence of the model's answers.", None if confidence is None else confidence.now),
        (
            "confidence_before",
            "The same when the model was validated.",
            None if confidence is None else confidence.before,
        ),
        ("labeled", "Samples with labels by people.", float(labeled.samples) if labeled else None),
        ("metric", "Headline metric on these.", None if labeled is None else labeled.value),
        ("metric_low", "Lower end of its interval.", None if labeled is None else labeled.low),
        ("metric_high", "Upper end of its interval.", None if labeled is None else labeled.high),
        ("ece", "Expected calibration error on these.", None if labeled is None else labeled.ece),
    ]
    told = [
        Gauge(f"{_PREFIX}_{name}", text, [(own, float(value))])
        for name, text, value in plain
        if value is not None and not math.isnan(value)
    ]
    counts = [(own | {"alarm": name}, float(raised.count(name))) for name in names]
    stability = [(own | {"key": one.key}, one.index) for one in found.slices]
    shares = [(own | {"class": one.name}, one.now) for one in found.classes]
    return [
        *told,
        Gauge(f"{_PREFIX}_alarms", "Alarms by the limit that was passed.", counts),
        Gauge(f"{_PREFIX}_stability", "Population stability index by key of the metadata.", stability),
        Gauge(f"{_PREFIX}_class_share", "Share of a class among the model's answers.", shares),
    ]


def write_html(found: Monitoring, out: Path, media: Media) -> None:
    """Write a page that needs nothing beside it, to a folder that exists; `media` reads its images. Raises OSError."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    loader = ChoiceLoader([PackageLoader("datasetops.monitor"), PackageLoader("datasetops.audits")])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    drawn = []
    if found.classes:
        classes = {one.name: {"before": round(one.before, 4), "now": round(one.now, 4)} for one in found.classes}
        drawn.append(charts.bars("Classes of the model's answers", classes, beside=True))
    for one in found.slices[:_CHARTS]:
        rows = {name: {"before": round(old, 4), "now": round(new, 4)} for name, (old, new) in one.shares.items()}
        note = f"Population stability index {one.index:.3f}; {one.expected:.3f} is expected by chance."
        drawn.append(charts.bars(f"Samples by {one.key}", rows, note=note, beside=True))
    html = environment.get_template("monitor.html").render(
        found=found,
        unusual=[(uri, picture(media, uri)) for uri, _ in found.images.unusual] if found.images else [],
        charts=[{**chart, "svg": charts.draw(chart)} for chart in drawn],
        unreadable=list(found.unreadable.items())[:_LISTED],
    )
    out.write_text(html, encoding="utf-8")
