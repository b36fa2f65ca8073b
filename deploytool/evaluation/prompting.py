"""Which prompts a system wants, and who puts them before a text: this tool, or a service told the role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deploytool.evaluation.options import DEFAULT_TASK, EvalOptions
from deploytool.evaluation.systems import Served

Role = Literal["query", "document"]


@dataclass(frozen=True)
class Prompting:
    """`query` and `document` are put before the texts; `input_type`: the service does it itself."""

    query: str = ""
    document: str = ""
    input_type: bool = False
    task: str | None = None

    def of(self, role: Role) -> str:
        return self.query if role == "query" else self.document

    def shown(self) -> dict[str, str | None]:
        """For the record."""
        if self.input_type:
            return {"query": "input_type: query", "document": "input_type: document", "task": None}
        return {"query": self.query, "document": self.document, "task": self.task}

    def key(self, role: Role) -> str:
        """What tells this prompt from others in the cache."""
        return f"input_type: {role}" if self.input_type else self.of(role)


def prompting_for(system: Served, options: EvalOptions, *, overridable: bool = True) -> Prompting:
    """The card's prompts, unless the user gives others. `{task}` is filled in."""
    card = system.card
    given = (options.query_prompt, options.document_prompt) if overridable else (None, None)
    if system.api is not None and system.api.provider == "voyage" and given == (None, None):
        return Prompting(input_type=True)
    query = given[0] if given[0] is not None else (card.prompts.query if card and not _voyage(system) else "")
    document = (
        given[1] if given[1] is not None else (card.prompts.document if card and not _voyage(system) else "")
    )
    if "{task}" not in query + document:
        return Prompting(query, document)
    task = options.task or (card.prompts.task if card else None) or DEFAULT_TASK
    return Prompting(query.replace("{task}", task), document.replace("{task}", task), task=task)


def _voyage(system: Served) -> bool:
    return system.api is not None and system.api.provider == "voyage"


def doubts(system: Served, prompting: Prompting, options: EvalOptions) -> list[str]:
    """Sentences on prompts that are probably not what was meant."""
    found = []
    if options.task and prompting.task is None:
        found.append("--task has no effect: no prompt of this model holds {task}")
    if system.card is None and options.query_prompt is None and options.document_prompt is None:
        found.append(
            f"{system.target} has no model card: no prompts were sent; name the model with --model CARD if "
            "it wants some"
        )
    card = system.card
    if card is not None and card.kind == "encoder" and not (card.pooling or system.setting("pooling")):
        found.append(
            f"{card.name} ships no pooling, and {system.target} does not say which it takes: these are the "
            "figures of an unknown one"
        )
    return found
