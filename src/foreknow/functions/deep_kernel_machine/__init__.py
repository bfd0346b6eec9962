"""Kernels that learn their representation: deep kernel machines (Yang et al. 2023)."""
