"""Foundations that know nothing of any paper: errors, random streams, devices, validation, files."""
