"""Comparisons on disk: the format, the public data sets that become it, splits and prompt lists. Imports no torch."""
