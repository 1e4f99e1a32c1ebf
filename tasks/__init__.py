"""Prefect tasks around the functions of `eraflow`: retries, time-outs, artifacts and progress; no arithmetic.

No task caches or persists its result: manifests are the cache, and between tasks go paths and small values.
"""
