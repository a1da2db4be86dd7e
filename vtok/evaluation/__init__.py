"""Measures: of reconstructions now; of samples as features arrive."""
