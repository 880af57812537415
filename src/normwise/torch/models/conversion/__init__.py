"""A whole model's layers become others: synchronized, or with statistics for each domain."""
