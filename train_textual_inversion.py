"""sd-scripts' name for `neonym train`, so that its commands run as they are."""

from neonym.cli.entry import train_textual_inversion

if __name__ == "__main__":
    train_textual_inversion()
