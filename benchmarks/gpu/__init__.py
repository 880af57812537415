"""Facts about the Triton kernels that need no GPU, and measurements where there is one."""
