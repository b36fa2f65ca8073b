"""TARGET of an evaluation: a deployment, a URL, a hosted API by its card, or a word-matching baseline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploytool.catalog import Catalog
from deploytool.errors import BadInput, UnknownName
from deploytool.models import HostedApi, ModelCard
from deploytool.retrieval.lexical import METHODS
from deploytool.store import Store
from deploytool.targets import Resolved, is_url, read_key, resolve
from deploytool.wire.addresses import BaseUrl, checked_key

__all__ = ["Lexical", "Served", "System", "find_system"]


@dataclass(frozen=True)
class Lexical:
    """bm25 or tfidf: computed here."""

    target: str


@dataclass(frozen=True)
class Served:
    """Anything that is asked over HTTP. `api` is set for a hosted one."""

    target: str
    resolved: Resolved
    api: HostedApi | None = None

    @property
    def card(self) -> ModelCard | None:
        return self.resolved.card

    @property
    def model(self) -> str:
        return (self.card.hub_id or self.card.name) if self.card else self.resolved.model

    @property
    def revision(self) -> str:
        """What fixes the weights, as far as it is known: a revision, or where the files are."""
        if self.card is None:
            return ""
        return self.card.revision or ("" if self.card.origin == "card" else self.card.origin)

    def setting(self, name: str) -> str | None:
        """A setting of the deployment's plan; None where it has none, or is not ours."""
        values = self.resolved.deployment.plan.get("values") if self.resolved.deployment else None
        for entry in values or ():
            if entry.get("name") == name and entry.get("value"):
                return str(entry["value"])
        return None

    @property
    def computed_by(self) -> str:
        """What may change one model's vectors: engine, backend, dtype, length of ours, else the address."""
        deployment = self.resolved.deployment
        if deployment is None:
            return self.resolved.embeddings_url
        version = deployment.launch.engine_version or ""
        length = self.resolved.max_length
        parts = (
            deployment.engine,
            version,
            self.setting("backend") or "",
            self.resolved.dtype or "",
            f"pooling {self.setting('pooling')}" if self.setting("pooling") else "",
            f"{length} tokens" if length else "",
        )
        return " ".join(part for part in parts if part)


System = Lexical | Served


def find_system(
    target: str,
    store: Store,
    catalog: Catalog,
    *,
    model: str | None = None,
    api_key_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> System:
    """The system behind TARGET. UnknownName with the nearest names, BadInput, Unhealthy, NotAvailable."""
    if target in METHODS:
        return Lexical(target)
    if is_url(target):
        found = resolve(
            target, store, api_key_file=api_key_file, model=model, catalog=catalog, environ=environ
        )
        return Served(target, found)
    names = [deployment.name for deployment in store.deployments()]
    if target in names:
        found = resolve(
            target, store, api_key_file=api_key_file, model=model, catalog=catalog, environ=environ
        )
        return Served(target, found)
    if target in catalog.files("models"):
        return _hosted(catalog.model(target), api_key_file, environ)
    hosted = [card.name for card in catalog.model_cards() if card.api is not None]
    raise UnknownName(
        "deployment, hosted API or baseline",
        target,
        [*names, *hosted, *METHODS],
        hint="(`deploytool ps` lists deployments; a base URL such as http://127.0.0.1:8000 is fine, too)",
    )


def _hosted(card: ModelCard, api_key_file: Path | None, environ: Mapping[str, str]) -> Served:
    if card.api is None:
        raise BadInput(
            f"{card.name} is a model's name, and no deployment has it",
            hint=f"bring it up: deploytool up {card.name} --profile PROFILE, then give the deployment's name",
        )
    api = card.api
    key = read_key(api_key_file) if api_key_file else checked_key(environ.get(api.key_env) or None)
    base = BaseUrl.parse(api.base_url)
    if key is None:
        raise BadInput(
            f"{card.name} runs at {base.root}, which wants an API key",
            hint=f"set {api.key_env}, or give the key with --api-key-file FILE",
        )
    if base.root.startswith("http://") and not base.loopback:
        raise BadInput(
            f"{card.name}: the API key would travel unencrypted to {base.root}", hint="use https in its card"
        )
    resolved = Resolved(
        target=card.name,
        url=base.root,
        embeddings_url=base.embeddings,
        model=api.model or card.name,
        deployment=None,
        card=card,
        api_key=key,
    )
    return Served(card.name, resolved, api)
