"""sd-scripts' other name for `neonym generate`, so that its commands run as they are."""

from neonym.cli.entry import gen_img

if __name__ == "__main__":
    gen_img()
