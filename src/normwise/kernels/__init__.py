"""Kernels: numbers in, numbers out. No modules, no autograd, no state; ``reference`` is the law for all others."""
