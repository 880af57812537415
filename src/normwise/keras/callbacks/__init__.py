"""What ``fit`` calls: fresh statistics before a validation, and a record of the moving ones."""
