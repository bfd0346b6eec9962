"""Neural circuits as controllers: wiring, signs and sharing of a worm's motor circuit (Bhattasali et al. 2022)."""
