"""`scale`: more or fewer replicas behind an endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from deploytool.cli.deploy import Json, Wait
from deploytool.cli.output import emit, say


def scale(
    name: Annotated[str, typer.Argument(help="An endpoint: what `up --replicas` made.")],
    replicas: Annotated[int, typer.Argument(metavar="N", min=1, help="How many replicas it is to have.")],
    wait: Wait = None,
    json: Json = False,
) -> None:
    """Change how many replicas an endpoint has while it serves, without dropping a request.

    A new one is proven before it gets requests; one that goes gets no more, finishes what it has, and is stopped.
    """
    from deploytool.cli.deploy_view import Narrator
    from deploytool.deployment.scaling import scale as scaled
    from deploytool.store import Store

    with Store() as store:
        endpoint = scaled(name, replicas, store, Narrator().line, wait_s=wait)
    if json:
        emit(endpoint.public())
    else:
        say(f"{name} has {replicas} replica{'s' if replicas > 1 else ''}: `deploytool status {name}`")
