"""The layers, one file for each; ``tracked`` is what all of them with running statistics share."""
