"""Callbacks for ``fit``: fresh statistics before a validation, and a record of the moving ones."""
