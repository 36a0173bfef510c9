"""sd-scripts' name for `neonym train` with an SDXL, so that its commands run as they are."""

from neonym.cli.entry import sdxl_train_textual_inversion

if __name__ == "__main__":
    sdxl_train_textual_inversion()
