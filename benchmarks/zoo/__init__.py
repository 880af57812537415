"""Checks that the operations on whole models are right on the architectures that people use: ``make zoo``."""
