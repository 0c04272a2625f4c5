"""Fitting, without a screen: a plan, a generator of events, and a run that drives it."""
