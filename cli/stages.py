"""The order in which a team meets the commands, and an example of each: what `dsops --help` and `dsops NAME --help` show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import typer.core

STAGES: Final[Mapping[str, Mapping[str, str]]] = {
    "Bring data in and out": {
        "init": "dsops init photos --schema schema.yaml",
        "ingest": "dsops ingest annotations.json --format coco --images images",
        "split": "dsops split train=0.8,val=0.1,test=0.1",
        "remove": "dsops remove --where \"origin = 'site-9'\"",
        "export": "dsops export v3 yolo-set --format yolo --where \"split = 'train'\"",
        "checkout": "dsops checkout v3 plain",
    },
    "Versions": {
        "log": "dsops log -n 5",
        "show": "dsops show v3",
        "diff": "dsops diff v2 v3 --rows changes.csv",
        "branch": "dsops branch relabel --from v2",
        "merge": "dsops merge relabel",
        "verify": "dsops verify --all",
        "gc": "dsops gc --dry-run",
        "query": 'dsops query v3 "select label, count(*) as n from annotations group by label"',
        "schema check": "dsops schema check schema.yaml",
        "schema show": "dsops schema show v3 --yaml",
        "schema diff": "dsops schema diff v2 v3",
        "schema migrate": "dsops schema migrate merge-vans.yaml",
        "guide check": "dsops guide check guide.md --schema schema.yaml",
        "guide show": "dsops guide show van --version v3",
        "guide set": "dsops guide set guide.md",
    },
    "Label": {
        "select": "dsops select v3 --n 500",
        "rounds": "dsops rounds r2",
        "simulate": "dsops simulate v3 --strategies auto,margin,random --report curves.html",
        "loop": "dsops loop --config loop.yaml",
        "preannotate": "dsops preannotate v3 --model fewshot:builtin:efficientnet-lite0 --target-precision 0.98",
        "label setup": "dsops label setup v3 --project photos",
        "label push": "dsops label push v3 --round r2",
        "label status": "dsops label status",
        "label pull": "dsops label pull",
        "label watch": "dsops label watch --every 60",
    },
    "Audit and review": {
        "audit": "dsops audit v3 --fail-on high",
        "findings": "dsops findings v3 --check label_noise --budget 100 --out worklist.csv",
        "decide": "dsops decide v3 FINDING --verdict error",
        "explore": "dsops explore v3",
        "review open": "dsops review v3",
        "review apply": "dsops review apply v3",
        "review user": "dsops review user people.txt ann --role reviewer",
    },
    "Prove and accept": {
        "qa plan": "dsops qa plan v3 --pass 0.95",
        "qa push": "dsops qa push q1 --out sample.csv",
        "qa pull": "dsops qa pull q1 --file sample.csv --reviewer ann",
        "qa result": "dsops qa result q1",
        "qa list": "dsops qa list",
        "accept": "dsops accept v3",
        "reject": "dsops reject v3 --reason 'half of the boxes are shifted'",
        "policy show": "dsops policy show",
        "policy set": "dsops policy set policy.yaml",
        "policy check": "dsops policy check v3 --within 90",
    },
    "Train and promote": {
        "train": "dsops train v3 --recipe probe",
        "models": "dsops models",
        "evaluate": "dsops evaluate m2 v3 --report m2.html",
        "compare": "dsops compare m1 m2 v3",
        "export-model": "dsops export-model m2 --to production --int8",
        "promote": "dsops promote m2",
        "rollback": "dsops rollback --reason 'slower than promised'",
        "regress add": "dsops regress add night --where \"light = 'night'\" --reason 'missed in May'",
        "regress list": "dsops regress list",
        "regress show": "dsops regress show night",
        "regress remove": "dsops regress remove night --sample ID --reason 'label was wrong'",
        "regress check": "dsops regress check night m2",
        "model-policy show": "dsops model-policy show",
        "model-policy set": "dsops model-policy set models.yaml",
        "track": "dsops track m2 --tracker mlflow",
        "monitor": "dsops monitor m2 --samples production/ --report drift.html",
        "scorecard": "dsops scorecard v3 m2",
    },
    "Answer for it": {
        "provenance": "dsops provenance sample ID --graph story.svg",
        "blame": "dsops blame v3 --label van",
        "impact": "dsops impact --license CC-BY-NC-4.0",
        "evidence": "dsops evidence v3 --out v3-evidence.zip",
        "erase": "dsops erase --sample ID --reason 'asked for by the person shown'",
        "keys make": "dsops keys make ~/keys/lead.pem --name lead",
        "keys list": "dsops keys list",
        "keys revoke": "dsops keys revoke KEY --reason 'laptop lost'",
    },
    "This machine": {
        "doctor": "dsops doctor",
        "demo": "dsops demo demo",
    },
}
EXAMPLES: Final[Mapping[str, str]] = {
    name: example for examples in STAGES.values() for name, example in examples.items()
}
_WIDE: Final = 500  # characters of a summary: none is cut


class Group(typer.core.TyperGroup):
    """Tells of each command its whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        longest = max(len(name) for name in self.commands)
        for title, names in self.sections().items():
            rows = [(name.ljust(longest), self.commands[name].get_short_help_str(_WIDE)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)

    def sections(self) -> Mapping[str, Sequence[str]]:
        """Commands by title."""
        return {"Commands": list(self.commands)}


class StagedGroup(Group):
    """Lists its commands by stage."""

    def sections(self) -> Mapping[str, Sequence[str]]:
        return {title: list(dict.fromkeys(name.split()[0] for name in names)) for title, names in STAGES.items()}


class ExampleCommand(typer.core.TyperCommand):
    """Ends its help with an example."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        example = EXAMPLES.get(" ".join(ctx.command_path.split()[1:]))
        if example:
            with formatter.section("Example"):
                formatter.write_text(example)
