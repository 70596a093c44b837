"""Is it real: metrics of predictions, paired intervals, DeLong, false claims, diminishing returns."""
