"""The gradient of a large batch from parts that fit the memory, through the batch norms too."""
