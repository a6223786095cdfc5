"""Plans and results in plain words: what was done, what it shows, and what it does not."""

from __future__ import annotations

from datasetops.audits.sampling.bounds import clopper_pearson
from datasetops.audits.sampling.plan import FOR_REVIEWERS
from datasetops.qa.plan import QaPlan
from datasetops.qa.result import Coefficient, QaResult


def explain_plan(plan: QaPlan) -> list[str]:
    """Sentences that say what a plan asks for, and what it can and cannot promise."""
    design = plan.design
    lines = [f"Plan {plan.name} for {plan.version}: {design.population:,} items, drawn with seed {plan.seed}."]
    if plan.left_out:
        lines.append(f"{plan.left_out:,} samples without a class label are not part of it.")
    before = sent = 0
    for number, stage in enumerate(plan.stages, start=1):
        more = "more " if before else ""
        yes = (
            f"accepted with at most {stage.accept} wrong"
            if stage.accept >= 0
            else "not accepted yet, whatever is found"
        )
        no = f"rejected with {stage.reject} or more" if stage.reject <= stage.checked else "not rejected yet"
        total = f" ({stage.checked:,} in all)" if before else ""
        lines.append(f"Stage {number}: check {stage.checked - before:,} {more}items{total}; {yes}, {no}.")
        everything = len(plan.to_review(number - 1))
        if everything - sent != stage.checked - before:
            lines.append(
                f"  With those for the strata and planted ones, reviewers get {everything - sent:,} items for it."
            )
        before, sent = stage.checked, everything
    if plan.per:
        small = sum(stratum.size < max(s.floor for s in plan.strata) for stratum in plan.strata)
        lines.append(
            f"{len(plan.strata):,} strata by {' and '.join(plan.per)} are judged one by one as well, with Holm's correction: "
            "half the risk of a false rejection goes to them, half to the whole."
            + (f" {small:,} of them have fewer items than the floor, and are checked whole." if small else "")
        )
        lonely = sum(stratum.size == 1 for stratum in plan.strata)
        if lonely:
            lines.append(f"{lonely:,} strata have a single item: nothing can be said about those beyond that item.")
    if plan.second:
        lines.append(
            f"{len(plan.second):,} items are reviewed by two people, to see how far reviewers agree. The numbers for rejection "
            "allow for the false alarms that so few of them cannot rule out, even if they agree on all."
        )
    if plan.planted:
        least = clopper_pearson(len(plan.planted), len(plan.planted), 1 - plan.stages[-1].risk * FOR_REVIEWERS)[0]
        lines.append(
            f"{len(plan.planted):,} planted errors stand among them, to see how many reviewers find. The numbers above hold if "
            f"all are found: that shows only that reviewers find at least {least:.0%}, which more planted errors would raise."
        )
    good, bad = design.acceptance(int(plan.expected * design.population)), design.consumer_risk
    if plan.stages[-1].checked == design.population:
        lines.append("Every item is checked: the outcome is certain, as far as reviewers are right.")
    else:
        lines.append(
            f"It promises: if it is accepted, at most {_percent(plan.limit)} of the items are wrong, with {plan.confidence:.0%} "
            f"confidence. A version with more wrong is accepted with a chance of {bad:.1%} at most, where defects are spread "
            f"evenly, and never above {1 - plan.confidence:.1%}."
        )
        lines.append(
            f"A version with {plan.expected:.2%} wrong is accepted with a chance of {good[0]:.0%}, after "
            f"{good[2]:,.0f} checks on average."
        )
    lines.append(
        "It does not promise that any single item is right, and says nothing about what reviewers cannot see. Items "
        "chosen because an audit flagged them cannot take the place of those drawn."
    )
    if plan.attempt > 1:
        chance = 1 - plan.confidence**plan.attempt
        lines.append(
            f"This is attempt {plan.attempt} on this lot. A version at the limit that is tried so often is accepted at least "
            f"once with a chance of up to {chance:.0%}."
        )
    return lines


def explain_result(plan: QaPlan, result: QaResult) -> list[str]:
    """Sentences that say what the verdicts prove."""
    sure = f"{result.confidence:.0%}"
    of = result.version if plan.where is None else f"these {result.population:,} samples of {result.version}"
    verdicts = {
        "accept": f"ACCEPT: with {sure} confidence at most {_percent(result.limit)} of {of} is wrong.",
        "reject": f"REJECT: with {sure} confidence more than {_percent(result.limit)} of {of} is wrong.",
        "inconclusive": "INCONCLUSIVE: neither claim is proven.",
        "unfinished": f"UNFINISHED: {result.left:,} items of stage {result.stage} have no verdict yet.",
    }
    if result.verdict == "reject" and result.worse:
        verdicts["reject"] = (
            f"REJECT: worse than {_percent(result.limit)}: {', '.join(result.worse)} (familywise confidence {sure})."
        )
    lines = [
        verdicts[result.verdict],
        f"Stage {result.stage} of {result.stages}: {result.wrong:,} of {result.checked:,} checked items are wrong, of "
        f"{result.population:,}. The share that is wrong lies between {_percent(result.low)} and {_percent(result.high)} "
        f"(each end with {sure} confidence, however often a stage was looked at).",
    ]
    if result.open:
        lines.append(f"{result.open:,} items have no outcome; they count against whatever is claimed.")
    if result.next_stage:
        more = plan.stages[result.next_stage - 1].checked - plan.stages[result.stage - 1].checked
        lines.append(
            f"Next: stage {result.next_stage} with {more:,} more items, as planned: "
            f"dsops qa push {plan.name} --stage {result.next_stage}"
        )
    elif result.verdict == "inconclusive":
        lines.append("No further stage was planned. Mend labels in a new version, and plan a fresh sample of it.")
    who = result.reviewers
    if who.planted:
        lines.append(
            f"Reviewers found {who.caught} of {who.planted} planted errors (at least {who.sensitivity:.0%} of all); the upper "
            "end allows for what they miss."
        )
    if who.twice:
        agree = "".join(
            f"; {name} {_with_interval(found)}"
            for name, found in (("Krippendorff's alpha", who.alpha), ("Fleiss' kappa", who.kappa))
            if found is not None
        )
        lines.append(
            f"{who.twice} items were reviewed twice, {who.disagree} of them not alike{agree}. The lower end allows for "
            f"false alarms of up to {who.false_alarms:.1%}."
        )
    if not who.planted and not who.twice:
        lines.append("Reviewers are taken to be right: nothing was planted or reviewed twice.")
    if result.corrected_rate is not None:
        lines.append(
            f"Estimate: {_percent(result.rate)} as found, {_percent(result.corrected_rate)} corrected for reviewers."
        )
    if result.objects is not None:
        lines.append(
            f"Of the objects, about {_percent(result.objects.value)} are wrong ({_percent(result.objects.low)} to "
            f"{_percent(result.objects.high)}, an estimate that rests on how images differ)."
        )
    if result.with_scores is not None:
        lean = result.with_scores
        lines.append(
            f"With the audit's scores: about {_percent(lean.value)} ({_percent(lean.low)} to {_percent(lean.high)}), as good as "
            f"{lean.gain:.1f} times as many checks. An estimate, not the bound above."
        )
    if result.attempt > 1:
        lines.append(f"This was attempt {result.attempt} on this lot.")
    return lines


def _with_interval(found: Coefficient) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
