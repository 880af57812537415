"""The four steps of every layer on PyTorch's tensors; a file's name begins with the step that it belongs to."""
