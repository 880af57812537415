"""What can be said of the Triton kernels without a GPU, and what is measured where there is one."""
