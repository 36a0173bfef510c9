"""The images in the form of a new word: their folder, uploads, masks and captions."""

from __future__ import annotations

from pathlib import Path

from nicegui import events, ui

from neonym.web.data_set import DataSet, folders_with_images
from neonym.web.masks import MASKS
from neonym.web.pages.captions import Captions
from neonym.web.pages.form_state import FormState
from neonym.web.pages.frame import telling
from neonym.web.pages.upload_field import upload_field
from neonym.web.uploads import Batch, Upload, safe_name, take_upload


class ImageFields:
    """The fields of the images, and the images with their captions."""

    def __init__(self, form: FormState):
        self.form = form
        self.captions = Captions(form.draft, form.changed)
        self.masks_path = str(form.draft.values.get(MASKS, ""))  # as it was typed last

    def build(self) -> None:
        """Show the fields, and the images of the folder that is chosen."""
        chosen = self.form.draft.values.get("train_data_dir")
        upload_field(self.take_upload)
        self.folder = ui.select(
            self.data_sets(), value=chosen, label="Or choose a folder, or type the path of one", with_input=True,
            new_value_mode="add-unique", on_change=telling(self.take_folder),
        ).props("outlined dense stack-label").classes("w-full")  # fmt: skip
        self.captions.build()
        with ui.expansion("Masks: learn only from a part of each image").classes("w-full"):
            label = "Folder of masks, images of the same names: white counts, black does not"
            self.masks = ui.input(label, value=self.masks_path)
            self.masks.props("outlined dense stack-label").classes("w-full")
            for end in ("blur", "keydown.enter"):  # only then is the path complete
                self.masks.on(end, telling(self.take_masks))
        if chosen and self.form.state.home.allows(Path(chosen)):
            self.captions.show(self.data_set(Path(chosen)))

    def data_set(self, folder: Path) -> DataSet:
        """Return a folder as a data set, whose captions have the extension that is set."""
        return DataSet(folder, self.form.state.home.allows, self.form.draft.values.get("caption_extension", ""))

    def data_sets(self) -> dict[str, str]:
        """Return the folders with images that were found, and that which is chosen."""
        found = {str(path): path.name for path in folders_with_images(self.form.state.home)}
        chosen = self.form.draft.values.get("train_data_dir")
        return {**found, **({chosen: chosen} if chosen and chosen not in found else {})}

    def take_folder(self, event: events.ValueChangeEventArguments) -> None:
        """Take a folder of images."""
        if event.value:
            folder = self.form.state.home.add_folder("datasets", event.value)
            self.form.draft.set("train_data_dir", str(folder))
            self.captions.show(self.data_set(folder))
            self.form.changed()

    def take_masks(self) -> None:
        """Take the folder of masks, if it is another one. Raises UserError if it is none."""
        path = (self.masks.value or "").strip()
        if path == self.masks_path:
            return
        self.masks_path = path
        folder = str(self.form.state.home.add_folder("datasets", path)) if path else ""
        self.form.draft.set(MASKS, folder)
        self.captions.show_page()
        self.form.changed()

    async def take_upload(self, upload: Upload, batch: Batch) -> None:
        """Take an uploaded image or caption into a folder of the home folder, named after the word."""
        folder = self.form.state.home.folder("datasets") / safe_name(self.form.word or "images")
        await take_upload(folder, upload, batch)
        self.form.draft.set("train_data_dir", str(folder))
        self.folder.set_options(self.data_sets(), value=str(folder))
        self.captions.show(self.data_set(folder))
        self.form.changed()
