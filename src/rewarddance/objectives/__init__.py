"""Formulas of learning and alignment: pure functions of tensors."""
