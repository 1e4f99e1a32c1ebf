"""Chains of Prefect tasks, and the `eraflow` command that starts them."""
