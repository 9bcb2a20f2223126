"""Hot loops: numba for CPU, Triton for GPU, a plain reference beside each."""
