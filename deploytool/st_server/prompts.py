"""Which prompt goes before a text: the extensions `input_type` and `prompt_name`. No torch, no HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploytool.st_server import model_folder
from deploytool.st_server.config import Config
from deploytool.st_server.errors import bad_request

KINDS = ("query", "document")
PASSAGE = "passage"  # what some models call a document


@dataclass(frozen=True)
class Prompts:
    """The model's own prompts by name, with what the flags say for query and document.

    `pooled` is False where the model leaves a prompt's tokens out of the pooling: not computed here.
    """

    named: dict[str, str]
    pooled: bool = True

    def choose(self, input_type: str | None, name: str | None) -> str | None:
        """The prompt to take; None means the model's default one. Raises RequestError (400).

        A model that has a prompt for queries alone takes documents as they are.
        """
        if name is not None:
            if name not in self.named:
                known = ", ".join(sorted(self.named)) or "none"
                raise bad_request(
                    f"the model has no such prompt; it has: {known}",
                    param="prompt_name",
                    code="unknown_prompt",
                )
            prompt = self.named[name]
        elif input_type is not None:
            if not any(kind in self.named for kind in (*KINDS, PASSAGE)):
                return None
            prompt = self.named.get(
                input_type, self.named.get(PASSAGE, "") if input_type == "document" else ""
            )
        else:
            return None
        if prompt and not self.pooled:
            raise bad_request(
                "this model leaves prompts out of its pooling, which is not computed here",
                code="prompt_not_served",
            )
        return prompt


def read(folder: Path, config: Config) -> Prompts:
    """From the model's files and the flags. Raises LoadFailed."""
    described = model_folder.document(folder, "config_sentence_transformers.json")
    own = described.get("prompts") if isinstance(described, dict) else None
    named = {name: text for name, text in (own or {}).items() if isinstance(text, str)}
    if config.query_prompt is not None:
        named["query"] = config.query_prompt
    if config.document_prompt is not None:
        named["document"] = config.document_prompt
    pooled = True
    for kind, part in model_folder.modules(folder):
        if kind.endswith(".Pooling"):
            settings = model_folder.document(part, "config.json")
            pooled = not isinstance(settings, dict) or settings.get("include_prompt", True) is not False
    return Prompts(named, pooled)
