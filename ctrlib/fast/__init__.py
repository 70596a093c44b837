"""The same numbers sooner: kernels, CUDA graphs, first layers per distinct id, settings of the machine."""
