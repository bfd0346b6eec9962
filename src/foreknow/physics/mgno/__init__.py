"""Multigrid neural operator: networks whose linear maps are multigrid cycles of convolutions."""
