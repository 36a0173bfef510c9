"""The functions behind `import neonym`: thin and typed, with messages worded for Python."""
