"""sd-scripts' name for `neonym generate`, so that its commands run as they are."""

from neonym.cli.entry import gen_img_diffusers

if __name__ == "__main__":
    gen_img_diffusers()
