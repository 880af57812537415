"""Callbacks for trainers, the same three in ``normwise.callbacks.keras`` and ``normwise.callbacks.lightning``."""
