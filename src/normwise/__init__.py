"""Batch normalization for people who train and ship networks with PyTorch or Keras.

Importing this package brings in no framework: the rooms are imported when they are first used.
"""

from importlib.metadata import version as _version

__version__ = _version("normwise")
