"""Martingale posterior neural processes: uncertainty about a function from its learnt, unseen rest of the data."""
