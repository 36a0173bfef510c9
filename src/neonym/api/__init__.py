"""The functions behind `import neonym`: thin, typed, and worded for Python."""
