"""TARGET on a command line: a deployment's name or any base URL, resolved to what a client needs.

A name brings its address, model, key and model card from the deployment's record. A URL brings its address;
the served name is asked of /v1/models, the card comes from `--model`, the key from `--api-key-file` or
DEPLOYTOOL_API_KEY.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deploytool.endpoint import Client, EndpointError
from deploytool.errors import BadInput, InvalidFile, NotAvailable, Unhealthy, UnknownName
from deploytool.identity import is_alive
from deploytool.models import ModelCard
from deploytool.records import Deployment, known_fields
from deploytool.wire.addresses import BaseUrl, checked_key

if TYPE_CHECKING:
    from deploytool.catalog import Catalog
    from deploytool.store import Store

KEY_VARIABLE = "DEPLOYTOOL_API_KEY"
LISTING_TIMEOUT_S = 10.0
UNNAMED = "default"
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[\w.-]+):\d+(/.*)?")


@dataclass(frozen=True)
class Resolved:
    """One endpoint to talk to. `url` has no /v1; `embeddings_url` is where texts are posted.

    `deployment` is None for a URL: then this tool did not start the server. `notes` are for people.
    `replica_pids`: of the servers behind an endpoint, whose memory counts as its own.
    """

    target: str
    url: str
    embeddings_url: str
    model: str
    deployment: Deployment | None
    card: ModelCard | None
    api_key: str | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    replica_pids: tuple[int, ...] = ()

    def client(self, timeout_s: float = 30.0) -> Client:
        return Client(
            self.embeddings_url.removesuffix("/embeddings"),
            model=self.model,
            api_key=self.api_key,
            timeout_s=timeout_s,
        )

    @property
    def ours(self) -> bool:
        return self.deployment is not None

    @property
    def dtype(self) -> str | None:
        """What the server computes in, None where it is not known."""
        return self.deployment.dtype if self.deployment else None

    @property
    def max_length(self) -> int | None:
        """Tokens that the server was told to read of a text, None where it is not known."""
        return self.deployment.max_length if self.deployment else None


def is_url(target: str) -> bool:
    """Whether TARGET is an address; `host:port` is one, as no deployment's name holds a colon."""
    return "://" in target or _HOST_AND_PORT.fullmatch(target) is not None


def resolve(
    target: str,
    store: Store,
    *,
    api_key_file: Path | None = None,
    model: str | None = None,
    catalog: Catalog | None = None,
    environ: Mapping[str, str] = os.environ,
    timeout_s: float = LISTING_TIMEOUT_S,
) -> Resolved:
    """The endpoint behind TARGET.

    UnknownName, BadInput (a URL or key that is none), Unhealthy (a deployment that is not running: refresh
    the store first, so that its state is true). A URL that does not answer within `timeout_s` is no error
    here.
    """
    if is_url(target):
        return _from_url(target, api_key_file, model, catalog, environ, timeout_s)
    return _from_deployment(target, store, api_key_file, model, catalog, environ)


def _from_deployment(
    name: str,
    store: Store,
    api_key_file: Path | None,
    model: str | None,
    catalog: Catalog | None,
    environ: Mapping[str, str],
) -> Resolved:
    deployment = _named(name, store)
    notes = _checked_state(deployment)
    key = read_key(api_key_file) if api_key_file is not None else _recorded_key(deployment, environ)
    if model is not None:
        card: ModelCard | None = _catalog(catalog).model(model)
    else:
        stored = known_fields(ModelCard, deployment.card)
        card = ModelCard.model_validate(stored) if stored else None
    return Resolved(
        target=name,
        url=deployment.launch.url,
        embeddings_url=BaseUrl.parse(deployment.launch.url).embeddings,
        model=deployment.launch.model,
        deployment=deployment,
        card=card,
        api_key=key,
        notes=notes,
        replica_pids=tuple(
            one.process.pid
            for one in store.deployments()
            if one.group == name and one.process is not None and one.state == "ready"
        ),
    )


def _named(name: str, store: Store) -> Deployment:
    known = {deployment.name: deployment for deployment in store.deployments()}
    if name in known:
        return known[name]
    raise UnknownName(
        "deployment",
        name,
        known,
        hint="(`deploytool ps` lists them; a base URL such as http://127.0.0.1:8000 is fine, too)",
    )


def _checked_state(deployment: Deployment) -> tuple[str, ...]:
    """Notes on a deployment that can be talked to; Unhealthy for one that cannot."""
    if deployment.state not in ("stopped", "died") and _gone(deployment):
        raise Unhealthy(
            f"{deployment.name} died: its process {deployment.process and deployment.process.pid} is gone",
            hint=f"see deploytool logs {deployment.name}, then deploytool restart {deployment.name}",
        )
    because = f": {deployment.reason}" if deployment.reason else ""
    if deployment.state == "ready":
        return ()
    if deployment.state == "unhealthy":
        return (f"{deployment.name} is unhealthy{because}",)
    hints = {
        "starting": f"wait until it is ready: deploytool status {deployment.name}",
        "stopped": f"start it: deploytool restart {deployment.name}",
        "died": f"see deploytool logs {deployment.name}, then deploytool restart {deployment.name}",
    }
    verb = {"starting": "is still starting", "stopped": "is stopped", "died": "died"}[deployment.state]
    raise Unhealthy(f"{deployment.name} {verb}{because}", hint=hints[deployment.state])


def _gone(deployment: Deployment) -> bool:
    return deployment.process is not None and not is_alive(deployment.process)


def _recorded_key(deployment: Deployment, environ: Mapping[str, str]) -> str | None:
    """The key that the deployment was started with, from where the record says that it is."""
    if deployment.key_source is None:
        return None
    kind, _, place = deployment.key_source.partition(" ")
    if kind == "file":
        return read_key(Path(place))
    key = environ.get(place)
    if not key:
        raise BadInput(
            f"{deployment.name} was started with the API key of the variable {place}, which is not set",
            hint=f"set {place}, or give the key with --api-key-file FILE",
        )
    return checked_key(key)


def _from_url(
    target: str,
    api_key_file: Path | None,
    model: str | None,
    catalog: Catalog | None,
    environ: Mapping[str, str],
    timeout_s: float,
) -> Resolved:
    base = BaseUrl.parse(target)
    key = read_key(api_key_file) if api_key_file else checked_key(environ.get(KEY_VARIABLE) or None)
    listed = _listed(base, key, timeout_s)
    card = _card(model, listed, catalog)
    notes = []
    if key is not None and base.root.startswith("http://") and not base.loopback:
        notes.append(f"the API key travels unencrypted to {base.root}: use https where it is offered")
    return Resolved(
        target=target,
        url=base.root,
        embeddings_url=base.embeddings,
        model=_served_name(model, card, listed),
        deployment=None,
        card=card,
        api_key=key,
        notes=tuple(notes),
    )


def _listed(base: BaseUrl, key: str | None, timeout_s: float) -> list[str]:
    """What /v1/models lists; nothing where it does not answer, which the caller's first request will tell."""
    try:
        with Client(base.api, api_key=key, timeout_s=timeout_s) as client:
            return client.models()
    except EndpointError:
        return []


def _card(model: str | None, listed: list[str], catalog: Catalog | None) -> ModelCard | None:
    """The card that `--model` names; a name that only the server knows is fine, without a card."""
    if model is None:
        return None
    try:
        return _catalog(catalog).model(model)
    except InvalidFile:
        raise
    except (BadInput, NotAvailable):
        if model in listed:
            return None
        raise


def _catalog(catalog: Catalog | None) -> Catalog:
    if catalog is not None:
        return catalog
    from deploytool.catalog import Catalog as Packaged

    return Packaged()


def _served_name(model: str | None, card: ModelCard | None, listed: list[str]) -> str:
    """What to send as "model": the name that the server lists, as far as it can be told."""
    wanted = [name for name in (model, card and card.name, card and card.hub_id) if name]
    for name in wanted:
        if name in listed:
            return name
    if len(listed) == 1:
        return listed[0]
    if listed and not wanted:
        raise BadInput(
            f"the server lists {len(listed)} models: {', '.join(listed[:6])}",
            hint="say which one with --model",
        )
    return wanted[0] if wanted else UNNAMED


def read_key(path: Path) -> str:
    """The API key that a file holds, alone on one line. The key is in no message."""
    try:
        key = checked_key(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise BadInput(
            f"cannot read the API key from {path}: {why}", hint="give a file that holds the key alone"
        ) from error
    if key is None:
        raise BadInput(f"{path} holds no API key", hint="give a file that holds the key alone")
    return key
