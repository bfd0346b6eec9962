"""Bits per layer from curvature, and networks of integers (HAWQ-V3)."""
