"""What is kept of one system, read again from its stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from deploytool.bakeoff.looking import Looked
from deploytool.bakeoff.stages import Stage
from deploytool.bakeoff.words import WordSearch
from deploytool.decision import Figure
from deploytool.evaluation import EvalRecord
from deploytool.records import RunRecord
from deploytool.sizing import Capacity

NOTHING_EMBEDDED = "nothing is embedded: words are matched"


@dataclass
class Found:
    """What is kept of one system. `lacking`: why a stage that is not there is not there."""

    looked: Looked
    lacking: str
    load: RunRecord | None = None
    capacity: Capacity | None = None
    evals: dict[str, EvalRecord] = field(default_factory=dict)
    words: dict[str, WordSearch] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)

    def add(self, stage: Stage, dataset: str | None) -> None:
        self.stages.append(stage)
        if stage.stage == "load":
            self.load = RunRecord.model_validate(stage.result)
        elif stage.stage == "capacity":
            known = {name: stage.result[name] for name in Capacity.model_fields if name in stage.result}
            self.capacity = Capacity.model_validate(known)
        elif stage.stage == "eval" and dataset is not None:
            self.evals[dataset] = EvalRecord.model_validate(stage.result)
        elif stage.stage == "search" and dataset is not None:
            self.words[dataset] = WordSearch.model_validate(stage.result)

    def findings(self) -> tuple[str, ...]:
        said = [line for stage in self.stages for line in stage.result.get("findings_of_proof") or ()]
        said += [line for record in self.evals.values() for line in record.findings]
        said += list(self.capacity.notes) if self.capacity else []
        return tuple(dict.fromkeys(said))

    def records(self) -> dict[str, str]:
        named = {"load": self.load.id} if self.load else {}
        if self.capacity and self.capacity.run:
            named["capacity"] = self.capacity.run
        return named | {f"eval {name}": record.id for name, record in self.evals.items()}


def unknown(reason: str) -> Figure:
    return Figure(reason=reason)


def no_load(found: Found) -> str:
    system = found.looked.system
    if system.kind == "hosted":
        return "a hosted API is not loaded: it costs money, and its rate is its contract's"
    return "load: false in the file" if not system.load else found.lacking
