"""The QA report: one HTML file with the verdict, its evidence, and the plan's operating characteristic."""

from __future__ import annotations

from pathlib import Path

from datasetops.audits import charts
from datasetops.qa.plan import QaPlan
from datasetops.qa.result import QaResult
from datasetops.qa.words import explain_plan, explain_result


def write_report(plan: QaPlan, result: QaResult, out: Path) -> None:
    """Write the report to a file in a folder that exists; raises OSError where it cannot be written."""
    from jinja2 import Environment, PackageLoader

    curve = plan.design.operating_characteristic()
    shown = [
        charts.scatter(
            "Operating characteristic",
            {
                name: [(100 * row["rate"], 100 * row[name]) for row in curve]
                for name in ("accept", "inconclusive", "reject")
            },
            across="truly wrong, %",
            up="chance, %",
            joined=True,
            note="How likely each verdict is, by the share of the items that is truly wrong."
            + " A stratum can reject the version besides." * (len(plan.strata) > 1),
        )
    ]
    environment = Environment(loader=PackageLoader("datasetops.audits"), autoescape=True, trim_blocks=True)
    html = environment.get_template("qa.html").render(
        plan=plan,
        result=result,
        plan_words=explain_plan(plan),
        result_words=explain_result(plan, result),
        charts=[{**chart, "svg": charts.draw(chart)} for chart in shown],
        curve=curve[:: max(1, len(curve) // 16)],
    )
    out.write_text(html, encoding="utf-8")
