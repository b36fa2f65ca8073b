"""Kubernetes: one model as a workload with its Service, probes, scaling, network policy and monitoring.

A StatefulSet whose replicas each have a claim of their own, filled by an init container: that works on any
storage class and node, and replaces a replica by taking its card first (a Deployment would want one more).
With a claim that holds the model already it is a Deployment, all of whose replicas read that claim.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from deploytool import __version__
from deploytool.exporters.kubernetes_pod import SECRET_KEY, pod
from deploytool.exporters.service import Service, comment, dump

CPU_PERCENT = 80
# What waits in a server: its metric, what Prometheus' adapter is to call it, and how much may wait per replica.
QUEUES = {
    "sglang": ("sglang:num_queue_reqs", "sglang_num_queue_reqs", "8"),
    "sentence-transformers": ("st_server_queue_texts", "st_server_queue_texts", "64"),
}
SCALE_DOWN_S = 600  # a server takes minutes to come: it is not to go for a pause
HEAD = """{name}: {model} on {profile}, made by deploytool {version} for Kubernetes 1.30 or newer.

Once before: kubectl create secret generic {name}-key --from-file={key}=FILE
with FILE made by: {key_line} "$KEY" > FILE
"""
GATED = """A model that wants its terms accepted: kubectl create secret generic {name}-hub --from-literal=token=HF_TOKEN
"""
ADAPTER = """The HPA scales by what waits in the servers. prometheus-adapter hands that on by this rule:
  - seriesQuery: '{{__name__="{series}",pod!=""}}'
    resources: {{overrides: {{namespace: {{resource: namespace}}, pod: {{resource: pod}}}}}}
    name: {{as: {metric}}}
    metricsQuery: sum(<<.Series>>{{<<.LabelMatchers>>}}) by (<<.GroupBy>>)
"""
MONITOR = """For the Prometheus operator. Add the labels that your Prometheus selects ServiceMonitors by.
"""


class Choices(NamedTuple):
    """What only Kubernetes needs. `claim`: of files that are there; `most`: replicas that an HPA may reach."""

    claim: str | None = None
    storage_class: str | None = None
    most: int | None = None


def files(service: Service, choices: Choices) -> dict[str, str]:
    """{"NAME.yaml": all that any cluster takes, "NAME-servicemonitor.yaml": for Prometheus' operator}."""
    name = plain_name(service.name)
    documents: list[dict[str, Any]] = []
    scripts = service.files if choices.claim else service.scripts
    if scripts:
        documents.append({**_head("ConfigMap", "v1", name, f"{name}-files"), "data": scripts})
    documents += [
        _service(service, name),
        _network(service, name, fetches=choices.claim is None),
        _deployment(service, name, choices) if choices.claim else _stateful_set(service, name, choices),
        _budget(name),
    ]
    if _scales(service, choices):
        documents.append(_scaler(service, name, choices))
    return {
        f"{name}.yaml": comment(_notes(service, name, choices))
        + "---\n"
        + "---\n".join(map(dump, documents)),
        f"{name}-servicemonitor.yaml": comment(MONITOR) + "---\n" + dump(_monitor(name)),
    }


def plain_name(name: str) -> str:
    """A deployment's name as Kubernetes takes it for all objects: a-z, 0-9 and '-', a letter first."""
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    return (plain if plain[:1].isalpha() else f"m-{plain}")[:40].strip("-")


def _notes(service: Service, name: str, choices: Choices) -> str:
    text = HEAD.format(
        name=name, model=service.card.name, profile=service.hardware.name, version=__version__,
        key=SECRET_KEY, key_line=service.key_line,
    )  # fmt: skip
    if choices.claim is None:
        text += GATED.format(name=name)
    else:
        folder = service.folder.rpartition("/")[2]
        text += f"The claim {choices.claim} holds the model's files in the folder {folder}.\n"
    if service.slo:
        text += f"It is to hold {service.slo}.\n"
    if service.on_cards and _scales(service, choices):
        series, metric, _ = QUEUES[service.launch.engine]
        text += ADAPTER.format(series=series, metric=metric)
    return text


def _scales(service: Service, choices: Choices) -> bool:
    most = choices.most if choices.most is not None else 2 * service.replicas
    return most > service.replicas


def labels(name: str) -> dict[str, str]:
    """What selects the servers of this deployment, and nothing else."""
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "deploytool"}


def _head(kind: str, version: str, name: str, own: str | None = None) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": own or name, "labels": labels(name)}}


def _selector(name: str) -> dict[str, Any]:
    return {"matchLabels": labels(name)}


def _service(service: Service, name: str) -> dict[str, Any]:
    port = {"name": "http", "port": service.launch.port, "targetPort": "http", "protocol": "TCP"}
    return {
        **_head("Service", "v1", name),
        "spec": {"type": "ClusterIP", "selector": labels(name), "ports": [port]},
    }


def _network(service: Service, name: str, *, fetches: bool) -> dict[str, Any]:
    """Requests from pods of the same namespace and scrapes of the monitoring's; out only to fetch the model."""
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    egress: list[dict[str, Any]] = []
    if fetches:
        dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
        egress = [{"ports": dns}, {"ports": [{"protocol": "TCP", "port": 443}]}]
    return {
        **_head("NetworkPolicy", "networking.k8s.io/v1", name),
        "spec": {
            "podSelector": _selector(name),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [{"podSelector": {}}, monitoring],
                    "ports": [{"protocol": "TCP", "port": service.launch.port}],
                }
            ],
            "egress": egress,
        },
    }


def _workload(service: Service, choices: Choices) -> dict[str, Any]:
    """Without a count where an HPA keeps it: applying the file again would undo what it did."""
    return {} if _scales(service, choices) else {"replicas": service.replicas}


def _template(service: Service, name: str, choices: Choices) -> dict[str, Any]:
    return {
        "metadata": {
            "labels": labels(name),
            "annotations": {"kubectl.kubernetes.io/default-container": "server"},
        },
        "spec": pod(service, name, labels(name), claim=choices.claim),
    }


def _stateful_set(service: Service, name: str, choices: Choices) -> dict[str, Any]:
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{service.disk_gib}Gi"}},
    }
    if choices.storage_class:
        claim["storageClassName"] = choices.storage_class
    return {
        **_head("StatefulSet", "apps/v1", name),
        "spec": {
            **_workload(service, choices),
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"},
            "selector": _selector(name),
            "template": _template(service, name, choices),
            "volumeClaimTemplates": [{"metadata": {"name": "model", "labels": labels(name)}, "spec": claim}],
        },
    }


def _deployment(service: Service, name: str, choices: Choices) -> dict[str, Any]:
    rolling = {"maxSurge": 0, "maxUnavailable": 1}  # there may be no card for one more
    return {
        **_head("Deployment", "apps/v1", name),
        "spec": {
            **_workload(service, choices),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "progressDeadlineSeconds": int(service.launch.readiness.start_timeout_s) + 600,
            "selector": _selector(name),
            "template": _template(service, name, choices),
        },
    }


def _budget(name: str) -> dict[str, Any]:
    return {
        **_head("PodDisruptionBudget", "policy/v1", name),
        "spec": {
            "maxUnavailable": 1,
            "selector": _selector(name),
            "unhealthyPodEvictionPolicy": "AlwaysAllow",  # one that is broken keeps no node from its upkeep
        },
    }


def _scaler(service: Service, name: str, choices: Choices) -> dict[str, Any]:
    """By what waits in the servers of a card, whose use says nothing of load; by processors elsewhere."""
    metric: dict[str, Any] = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_PERCENT}},
    }
    if service.on_cards:
        _, named, waiting = QUEUES[service.launch.engine]
        target = {"type": "AverageValue", "averageValue": waiting}
        metric = {"type": "Pods", "pods": {"metric": {"name": named}, "target": target}}
    down = {"type": "Pods", "value": 1, "periodSeconds": 120}
    return {
        **_head("HorizontalPodAutoscaler", "autoscaling/v2", name),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment" if choices.claim else "StatefulSet",
                "name": name,
            },
            "minReplicas": service.replicas,
            "maxReplicas": choices.most or 2 * service.replicas,
            "metrics": [metric],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": SCALE_DOWN_S, "policies": [down]}},
        },
    }


def _monitor(name: str) -> dict[str, Any]:
    return {
        **_head("ServiceMonitor", "monitoring.coreos.com/v1", name),
        "spec": {
            "selector": _selector(name),
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "15s", "scrapeTimeout": "10s"}],
        },
    }
