"""The limits of the numbers that a generation takes, on the command line, in a line of a prompt file, or in a grid."""

LAST_SEED = 1 << 62
MOST_STEPS = 1000
LARGEST = 1_000_000  # pixels in SDXL's size conditioning
SCALES = (-100, 1000)  # of a guidance scale
