"""sd-scripts' name for `neonym train` with an SDXL, so that its commands run as they are."""

from neonym.cli.main import run_script

if __name__ == "__main__":
    run_script("train", "sdxl_train_textual_inversion.py", "--sdxl")
