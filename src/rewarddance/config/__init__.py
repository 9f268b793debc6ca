"""Frozen pydantic models of every YAML file, and the loader: defaults, then YAML, then `--set`. Imports no torch."""
