"""The Docker runtime: a server as a container of this machine's engine.

Identity lies in the container's labels (the deployment's id and the state folder), so that a container is
found without any record. In the deployment's folder: `docker.json` (which engine, which container),
`secret.yaml` where there is an API key, and, once the container is gone, the end of its log in `server.log`.
What only makes a container is imported by the methods that make one: `ps` only looks, and is to answer at once.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploytool.errors import NotAvailable, Unhealthy
from deploytool.paths import deployment_folder
from deploytool.runtimes.contract import LogReader, Observation, Running, Stray
from deploytool.runtimes.docker_api import connect, engine_host, get
from deploytool.runtimes.docker_endings import exit_status, how_it_ended, oddities
from deploytool.runtimes.docker_found import (
    LABEL_ID,
    PLACE,
    SHORT,
    connected,
    end,
    find,
    home_of,
    listed,
    place,
    remove,
    running,
    write_place,
)
from deploytool.runtimes.docker_logs import LOG_NAME, ContainerLog, keep, kept
from deploytool.runtimes.docker_secret import SECRET_NAME, read_secret, write_secret

if TYPE_CHECKING:
    from deploytool.records import Deployment

STOP_GRACE_S = 10.0


class DockerRuntime:
    """See contract.Runtime."""

    name = "docker"

    def check(self, deployment: Deployment) -> None:
        from deploytool.runtimes import docker_container, docker_images, docker_model

        host = engine_host()
        connect(host).close()  # without the SDK nothing can be started
        docker_images.require(host, deployment.launch.image)
        docker_model.check(deployment.launch, docker_container.user_for(get(host, "/info")))

    def start(self, deployment: Deployment, folder: Path, key: str | None) -> Running:
        from deploytool.runtimes import docker_container
        from deploytool.runtimes.docker_faults import told

        host = engine_host()
        with connected(host) as api:
            for old in listed(host, deployment.id, home_of(folder)):
                remove(api, old["Id"])
            (folder / LOG_NAME).unlink(missing_ok=True)
            user = docker_container.user_for(get(host, "/info"))
            secret = write_secret(deployment.launch, folder, key, user)
            made = docker_container.container(deployment, home_of(folder), user, secret)
            with told(host, made):
                identity = api.create_container(**docker_container.create_arguments(api, made))["Id"]
            write_place(folder, host, identity)
            try:
                with told(host, made):
                    api.start(identity)
            except BaseException:
                remove(api, identity)
                raise
        return running(get(host, f"/containers/{identity}/json"), identity)

    def keep_up(self, deployment: Deployment, folder: Path) -> None:
        from deploytool.runtimes import docker_container
        from deploytool.runtimes.docker_faults import told

        host, identity = place(folder)
        made = docker_container.container(deployment, None, "")
        policy: Any = {"Name": "unless-stopped"}  # the SDK's stubs lack this one
        with connected(host) as api, told(host, made):
            api.update_container(identity or made.name, restart_policy=policy)

    def observe(self, deployment: Deployment, folder: Path) -> Observation:
        _, identity = place(folder)
        try:
            found = find(deployment.id, folder)
        except NotAvailable as error:
            # Whether it lives is not known: its address is asked next, and says.
            before = Running(process=deployment.process, container=deployment.container)
            return Observation(alive=True, running=before, reason=error.message)
        if found is None:
            gone = "its container is gone: somebody removed it" if identity else "no container was made"
            return Observation(alive=False, reason=gone)
        if found["State"]["Running"]:
            return Observation(alive=True, running=running(found, found["Id"]), reason=oddities(found))
        return Observation(
            alive=False,
            returning=bool(found["State"].get("Restarting")),
            running=Running(container=found["Id"][:SHORT]),
            exit_status=exit_status(found["State"]),
            reason=how_it_ended(found),
        )

    def stop(self, deployment: Deployment, folder: Path, grace_s: float = STOP_GRACE_S) -> None:
        host, _ = place(folder)
        self._end(host, deployment.id, folder, grace_s, read_secret(deployment.launch, folder))
        (folder / SECRET_NAME).unlink(missing_ok=True)
        (folder / PLACE).unlink(missing_ok=True)

    def _end(
        self, host: str, deployment_id: str, folder: Path, grace_s: float, hidden: tuple[str, ...] = ()
    ) -> None:
        """SIGTERM, a bounded wait, SIGKILL; the log is kept, the container removed."""
        home = home_of(folder)
        with connected(host) as api:
            for entry in listed(host, deployment_id, home):
                end(api, entry["Id"], grace_s)
                keep(api, entry["Id"], folder, hidden)
                remove(api, entry["Id"])
        left = [entry["Names"][0].lstrip("/") for entry in listed(host, deployment_id, home)]
        if left:
            raise Unhealthy(
                f"the container {', '.join(left)} does not end",
                hint="the engine's log says why: journalctl -u docker; then `down` again",
            )

    def open_log(self, deployment: Deployment, folder: Path, last: int | None) -> LogReader:
        found = find(deployment.id, folder)
        if found is None:
            return kept(folder, last)
        host, _ = place(folder)
        return ContainerLog(connect(host), found["Id"], last, read_secret(deployment.launch, folder))

    def command(self, deployment: Deployment) -> str:
        from deploytool.runtimes import docker_container

        made = docker_container.container(deployment, None, docker_container.user_for({}))
        return docker_container.command(made)

    def log_place(self, deployment: Deployment, folder: Path) -> str:
        if deployment.container:
            return f"docker logs deploytool-{deployment.name}"
        return str(folder / LOG_NAME)

    def strays(self, home: Path, known: Collection[str]) -> list[Stray]:
        try:
            found = listed(engine_host(), None, home)
        except NotAvailable:  # no engine that could run one
            return []
        return [
            Stray(id=labels[LABEL_ID], what=f"container {name}, {labels.get('deploytool.model')} at {url}")
            for entry in found
            for labels, name in [(entry["Labels"], entry["Names"][0].lstrip("/"))]
            for url in [labels.get("deploytool.url")]
            if labels.get(LABEL_ID) and labels[LABEL_ID] not in known
        ]

    def end_stray(self, stray: Stray, home: Path, grace_s: float = STOP_GRACE_S) -> None:
        self._end(engine_host(), stray.id, deployment_folder(home, stray.id), grace_s)
