"""Fewer activations kept between the forward and the backward, on the torch backend."""
