"""Learned proximal networks."""
