"""`python -m neonym`: the `neonym` program."""

from neonym.cli.entry import neonym

if __name__ == "__main__":
    neonym()
