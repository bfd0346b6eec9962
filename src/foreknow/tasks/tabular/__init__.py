"""Tables: closed-form heads read by a prior-fitted network, the priors it is fitted to, and the estimators."""
