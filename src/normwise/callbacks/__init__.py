"""What trainers call: ``normwise.callbacks.keras`` and ``normwise.callbacks.lightning``, with the same three in each."""
