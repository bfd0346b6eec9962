"""Weight priors matched to a prior over functions (Tran, Rossi, Milios and Filippone 2022)."""
