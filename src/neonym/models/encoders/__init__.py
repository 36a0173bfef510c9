"""Text encoders: learned rows beside a frozen token table, and how the encoders' states are read."""
