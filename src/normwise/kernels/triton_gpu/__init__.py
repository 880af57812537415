"""Batch norm on GPUs in Triton: the kernels, and what launches them.

``presence.py`` says whether they can run, ``layout.py`` and ``plan.py`` how a tensor lies in memory and how it is cut
into tiles, programs and pieces, ``tuning.py`` which settings were found fastest. ``launch.py`` takes tensors and gives
tensors. All other files hold code that Triton compiles; they and ``launch.py`` alone import Triton, so that everything
else works where it is missing.
"""
