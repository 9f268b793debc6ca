"""Compute spent at inference: tournaments among candidates."""
