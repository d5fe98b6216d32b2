"""Triton kernels, one file per operation; `<name>.<name>` is the launcher with the operation's schema.

They serve CUDA tensors where no CUDA C++ kernel was compiled. With TRITON_INTERPRET=1 in the environment before the
first `import triton` they also run on CPU tensors, which is how their tests run without a GPU.
"""
