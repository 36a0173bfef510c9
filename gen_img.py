"""sd-scripts' other name for `neonym generate`, so that its commands run as they are."""

from neonym.cli.main import run_script

if __name__ == "__main__":
    run_script("generate", "gen_img.py")
