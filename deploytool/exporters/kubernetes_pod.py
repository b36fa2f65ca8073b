"""The pod of a server on Kubernetes: its containers, probes, volumes, rights, and the nodes that it may be on."""

from __future__ import annotations

import math
from typing import Any

from deploytool.contained import FILES, INSIDE, NOBODY, SECRET_TARGET, environment
from deploytool.exporters.service import Service

SECRET_KEY = "deploytool.yaml"  # noqa: S105 - the file's name, as the Docker runtime mounts it
PROBE_PERIOD_S = 10
STARTUP_PERIOD_S = 5
# SGLang's /health asks the scheduler: it takes a second at least and answers 503 by itself after 20 s
# (SGLANG_HEALTH_CHECK_TIMEOUT). Kubernetes' own time-out of one second would end every server for ever.
LIVENESS_PATH = "/health"
LIVENESS_TIMEOUT_S = 25
LIVENESS_PERIOD_S = 30
DRAIN_S = 10  # until every node knows that the pod takes no more requests
GRACE_S = 90
GPU = "nvidia.com/gpu"
# Labels of NVIDIA's GPU feature discovery; a product is the name that NVML reports, with '-' for blanks.
PRODUCT, GPU_MEMORY = "nvidia.com/gpu.product", "nvidia.com/gpu.memory"
TMP = "/tmp"  # noqa: S108 - inside the container


def pod(service: Service, name: str, labels: dict[str, str], *, claim: str | None) -> dict[str, Any]:
    """A pod's spec. `claim`: of a volume that holds the model; None: it is fetched into the pod's own."""
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # variables of other services, which an engine could take for its own
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "fsGroup": NOBODY,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_nodes(service),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
        ],
    }
    if claim is None:
        spec["initContainers"] = [_fetcher(service, name)]
    return spec | {"containers": [_server(service)], "volumes": _volumes(service, name, claim)}


def _server(service: Service) -> dict[str, Any]:
    launch, command = service.launch, service.command
    wanted, most = service.host_mib
    threads = command[command.index("--threads") + 1] if "--threads" in command else "2"
    limits: dict[str, Any] = {"memory": f"{most}Mi"}
    if service.on_cards:
        limits[GPU] = service.cards
    mounts = [{"name": "model", "mountPath": INSIDE, "readOnly": True}, {"name": "tmp", "mountPath": TMP}]
    if launch.secret is not None:
        # A folder, not one file: a changed Secret arrives.
        mounts.append({"name": "key", "mountPath": SECRET_TARGET.rpartition("/")[0], "readOnly": True})
    if service.files:
        mounts.append({"name": "files", "mountPath": FILES, "readOnly": True})
    if service.shm_mib:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - inside
    return {
        "name": "server",
        "image": launch.image,
        "imagePullPolicy": "IfNotPresent",
        "command": command[:1],
        "args": [word.replace("$(", "$$(") for word in command[1:]],
        "env": [{"name": key, "value": value} for key, value in environment(launch).items()],
        "ports": [{"name": "http", "containerPort": launch.port, "protocol": "TCP"}],
        **_probes(service),
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_S}}},
        "resources": {"requests": {"cpu": threads, "memory": f"{wanted}Mi"}, "limits": limits},
        "securityContext": _rights(read_only=launch.read_only_root),
        "volumeMounts": mounts,
    }


def _probes(service: Service) -> dict[str, Any]:
    """Each with a time-out that the engine's path fits in."""
    readiness = service.launch.readiness
    ready = {"httpGet": {"path": readiness.path, "port": "http"}}
    timeout = math.ceil(readiness.probe_timeout_s)
    return {
        "startupProbe": {
            **ready,
            "timeoutSeconds": timeout,
            "periodSeconds": STARTUP_PERIOD_S,
            "failureThreshold": math.ceil(readiness.start_timeout_s / STARTUP_PERIOD_S),
        },
        "readinessProbe": {
            **ready, "timeoutSeconds": timeout, "periodSeconds": PROBE_PERIOD_S, "failureThreshold": 3,
        },
        "livenessProbe": {
            "httpGet": {"path": LIVENESS_PATH, "port": "http"},
            "timeoutSeconds": LIVENESS_TIMEOUT_S,
            "periodSeconds": LIVENESS_PERIOD_S,
            "failureThreshold": 3,
        },
    }  # fmt: skip


def _fetcher(service: Service, name: str) -> dict[str, Any]:
    """Brings the model's files into the claim, checked; a second start finds them there."""
    command = service.fetching
    token = {"name": f"{name}-hub", "key": "token", "optional": True}
    return {
        "name": "model",
        "image": service.launch.image,
        "imagePullPolicy": "IfNotPresent",
        "command": command[:1],
        "args": command[1:],
        "env": [
            {"name": "HF_HOME", "value": f"{INSIDE}/.hub"},
            {"name": "HOME", "value": TMP},
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token}},
        ],
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
        "securityContext": _rights(read_only=True),
        "volumeMounts": [
            {"name": "model", "mountPath": INSIDE},
            {"name": "tmp", "mountPath": TMP},
            {"name": "files", "mountPath": FILES, "readOnly": True},
        ],
    }


def _rights(*, read_only: bool) -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only,
    }


def _volumes(service: Service, name: str, claim: str | None) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}}]
    if claim is not None:
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    if service.launch.secret is not None:
        volumes.append({"name": "key", "secret": {"secretName": f"{name}-key", "defaultMode": 0o440}})
    if service.files or claim is None:
        volumes.append({"name": "files", "configMap": {"name": f"{name}-files"}})
    if service.shm_mib:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{service.shm_mib}Mi"}})
    return volumes


def _nodes(service: Service) -> dict[str, Any]:
    """Nodes that have the card, by name and memory: two sizes of a card can share a name."""
    match = service.hardware.match
    if not service.on_cards or match is None:
        return {}
    names = sorted({name.replace(" ", "-") for name in match.nvml_names})
    wanted: list[dict[str, Any]] = [{"key": PRODUCT, "operator": "In", "values": names}]
    if match.memory is not None:
        wanted += [
            {"key": GPU_MEMORY, "operator": "Gt", "values": [str(match.memory.min_mib - 1)]},
            {"key": GPU_MEMORY, "operator": "Lt", "values": [str(match.memory.max_mib + 1)]},
        ]
    terms = {"nodeSelectorTerms": [{"matchExpressions": wanted}]}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
    }
