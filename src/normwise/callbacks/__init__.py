"""What trainers call, the same three in each: ``normwise.callbacks.keras`` and ``normwise.callbacks.lightning``."""
