"""`python -m neonym`: the `neonym` program."""

from neonym.cli.main import run

if __name__ == "__main__":
    run()
