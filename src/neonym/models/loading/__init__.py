"""How model files are recognised, read and assembled."""
