"""CUDA graphs: computations on a GPU that are recorded once for each shape, and replayed."""
