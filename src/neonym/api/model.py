"""Load a model for several calls of `neonym.generate`, with messages that name settings."""

from neonym.api.wording import python_wording
from neonym.models import model

load_model = python_wording()(model.load_model)
