"""Training networks with a spatial pyramid in them, by class labels or by what other networks see (distillation)."""
