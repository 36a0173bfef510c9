"""The version, alone in a file so that `neonym --version` need not import anything."""

__version__ = "0.1.0"
