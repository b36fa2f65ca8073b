"""Exporters: a launch as files that another tool deploys. They return {file name: text}; the CLI writes.

service     what is exported: one launch, its model, its card, how many
compose     Docker Compose: every replica a service, sglang-router in front of several
kubernetes  manifests for one model: workload, service, probes, scaling, network policy, monitoring
fetch_model the program that brings a model's files into a container that has none
"""
