"""The endpoint in front of several replicas: a program of its own that runs sglang-router. Started, never imported."""
