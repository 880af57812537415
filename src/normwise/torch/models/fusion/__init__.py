"""The activation and the residual addition behind a batch norm become a part of it."""
