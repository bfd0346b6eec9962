"""What a prior is worth: with it, without it, with a wrong one, and the strongest plain method, side by side."""
