"""How far a model can be trusted, measured on data."""
