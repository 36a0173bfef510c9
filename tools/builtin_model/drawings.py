"""Which subjects there are, and their drawings as RGBA arrays.

    python -m tools.builtin_model.drawings --work work/emoji

writes `subjects.json` beside this file (name, category, split of every subject) and `drawings.npz` into the work
folder: one uint8 array `[subjects, styles, 128, 128, 4]` with straight alpha.
"""

import argparse
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 128
STYLES = ("3d render", "flat drawing", "sticker", "noto")  # the last one is never taught
TAUGHT_STYLES = STYLES[:3]
SUBJECTS_FILE = Path(__file__).with_name("subjects.json")

CATEGORIES = {  # emoji-datasource subcategory -> the generic word of its captions
    "animal-mammal": "animal", "animal-reptile": "animal", "animal-amphibian": "animal", "animal-marine": "animal",
    "animal-bird": "bird", "animal-bug": "insect", "plant-other": "plant", "plant-flower": "flower",
    "food-fruit": "fruit", "food-vegetable": "vegetable", "food-prepared": "dish", "food-asian": "dish",
    "food-sweet": "dessert", "drink": "drink", "dishware": "tool", "sport": "toy", "game": "toy",
    "event": "decoration", "award-medal": "decoration", "arts & crafts": "object", "clothing": "clothing",
    "musical-instrument": "instrument", "music": "device", "light & video": "device", "phone": "device",
    "computer": "device", "tool": "tool", "science": "tool", "medical": "tool", "writing": "tool",
    "household": "object", "lock": "object", "sound": "object", "office": "object", "book-paper": "object",
    "money": "object", "mail": "object", "other-object": "object", "hotel": "object", "time": "object",
    "transport-ground": "vehicle", "transport-air": "vehicle", "transport-water": "vehicle",
    "place-building": "building", "place-religious": "building", "place-other": "place",
    "place-geographic": "place", "sky & weather": "weather",
}  # fmt: skip
LEFT_OUT = {"button", "clock", "moon", "japanese", "oncoming", "sign", "flag", "person", "thirty", "face", "with"}
HELD_OUT = 60


@dataclass(frozen=True)
class Subject:
    """One emoji: its English name, the generic word for it, its code points, and who may see it."""

    name: str
    category: str
    code: str
    split: str  # "taught" (in teaching order) | "held out" (no model may see it)


def load_subjects() -> list[Subject]:
    """The committed list, in teaching order: a model of N subjects is taught the first N that are not held out."""
    return [Subject(**row) for row in json.loads(SUBJECTS_FILE.read_text())]


def taught(subjects: list[Subject], count: int) -> list[int]:
    """Indices of the first `count` subjects that may be taught."""
    return [i for i, s in enumerate(subjects) if s.split == "taught"][:count]


class Sources:
    """The four packages: code points -> RGBA picture."""

    def __init__(self, work: Path):
        self.modules = work / "node_modules"
        self.fluent = self.modules / "@lobehub/fluent-emoji-3d/assets"
        self.icons = {n: self._icon_set(n) for n in ("fluent-emoji-flat", "twemoji", "noto")}
        self.emoji = json.loads((self.modules / "emoji-datasource/emoji.json").read_text())

    def _icon_set(self, name: str) -> tuple[dict[str, str], dict]:
        folder = self.modules / "@iconify-json" / name
        return json.loads((folder / "chars.json").read_text()), json.loads((folder / "icons.json").read_text())

    def webp(self, code: str) -> Path | None:
        for name in (code, code.removesuffix("-fe0f"), f"{code}-fe0f"):
            if (self.fluent / f"{name}.webp").exists():
                return self.fluent / f"{name}.webp"
        return None

    def icon(self, set_name: str, code: str) -> str | None:
        chars, _ = self.icons[set_name]
        return chars.get(code) or chars.get(code.removesuffix("-fe0f"))

    def svg(self, set_name: str, code: str) -> str:
        _, data = self.icons[set_name]
        icon = data["icons"][self.icon(set_name, code)]
        width, height = icon.get("width", data.get("width", 16)), icon.get("height", data.get("height", 16))
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'

    def draw(self, code: str) -> np.ndarray:
        """-> uint8 [styles, 128, 128, 4], every drawing scaled so that its longer side fills the square."""
        import resvg_py

        path = self.webp(code)
        assert path is not None
        pictures = [Image.open(path).convert("RGBA")]
        for name in self.icons:
            png = bytes(resvg_py.svg_to_bytes(svg_string=self.svg(name, code), width=2 * SIZE, height=2 * SIZE))
            pictures.append(Image.open(io.BytesIO(png)).convert("RGBA"))
        return np.stack([fill_square(p) for p in pictures])


def fill_square(picture: Image.Image) -> np.ndarray:
    """Crop to what is drawn, scale the longer side to 128, centre. -> uint8 [128, 128, 4]."""
    box = picture.getchannel("A").point(lambda a: 255 if a > 16 else 0).getbbox()
    picture = picture.crop(box)
    scale = SIZE / max(picture.size)
    size = tuple(max(1, round(s * scale)) for s in picture.size)
    picture = picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(picture, ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return np.asarray(square)


def candidates(sources: Sources) -> list[tuple[str, str, str]]:
    """(name, category, code) of every emoji that is a thing, drawn in all styles, and named in one or two words."""
    found = []
    for row in sources.emoji:
        category, code = CATEGORIES.get(row["subcategory"]), row["unified"].lower()
        icons = [sources.icon(s, code) for s in sources.icons]
        if category is None or None in icons or sources.webp(code) is None:
            continue
        words = str(icons[1]).replace("-", " ").split()
        if len(words) <= 2 and not LEFT_OUT & set(words) and all(w.isalpha() for w in words):
            found.append((" ".join(words), category, code))
    return sorted(found, key=lambda row: hashlib.sha256(row[0].encode()).hexdigest())


def look(drawings: np.ndarray) -> np.ndarray:
    """Drawings on white and on black, thumbnailed: what two subjects are compared by. [S,128,128,4] -> [S*1536]."""
    rgb, alpha = drawings[..., :3].astype(np.float32), drawings[..., 3:].astype(np.float32) / 255
    thumbs = [
        (rgb * alpha + ground * (1 - alpha)).reshape(-1, 16, 8, 16, 8, 3).mean((2, 4)).reshape(-1)
        for ground in (255.0, 0.0)
    ]
    return np.concatenate(thumbs) / 255


def choose(sources: Sources, max_likeness: float = 0.13) -> tuple[list[Subject], np.ndarray]:
    """Subjects in hash order, leaving out look-alikes of an earlier one; the first `HELD_OUT` are never taught."""
    subjects, drawings, looks = [], [], []
    for name, category, code in candidates(sources):
        drawing = sources.draw(code)
        seen = look(drawing[:3])
        if looks and min(np.abs(seen - other).mean() for other in looks) < max_likeness:
            continue
        split = "held out" if len(subjects) < HELD_OUT else "taught"
        subjects.append(Subject(name, category, code, split))
        drawings.append(drawing)
        looks.append(seen)
    return subjects, np.stack(drawings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    parser.add_argument("--choose", action="store_true", help="choose the subjects anew (rewrites subjects.json)")
    args = parser.parse_args()
    sources = Sources(args.work)
    if args.choose:
        subjects, drawings = choose(sources)
        rows = ",\n".join(json.dumps(vars(s)) for s in subjects)
        SUBJECTS_FILE.write_text(f"[\n{rows}\n]\n")
    else:
        drawings = np.stack([sources.draw(s.code) for s in load_subjects()])
    np.savez_compressed(args.work / "drawings.npz", drawings=drawings)
    print(f"{len(drawings)} subjects x {drawings.shape[1]} styles -> {args.work / 'drawings.npz'}")


if __name__ == "__main__":
    main()
