"""The lab: a small drawn world whose true preferences are computable, with its own small models.

Everything here runs on two CPU cores through the same code as real checkpoints.
"""
