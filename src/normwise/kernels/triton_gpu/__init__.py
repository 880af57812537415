"""Batch norm on GPUs in Triton: the kernels, and what launches them.

``presence.py`` says whether they can run, ``plan.py`` how a tensor is cut into tiles, programs and pieces, ``launch.py``
takes tensors and gives tensors. All other files but ``tuning.py`` hold code that Triton compiles. Only those files
import Triton, so that everything else works where it is missing.
"""
