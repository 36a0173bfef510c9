"""Small jobs for the built-in model, and the images of jobs."""

from dataclasses import replace

from neonym.generation.request.jobs import Job
from support.commands import pixels

JOB = Job("a sticker of a cat on a blue background", 3, 64, 64, steps=3, scale=3.0)
JOBS = [
    JOB, replace(JOB, prompt="a (red:1.3) apple", seed=4), replace(JOB, seed=5, scale=6.0, negative_prompt="blue"),
    replace(JOB, prompt="a taxi", seed=6),
]  # fmt: skip


def image_of(pipeline, job):
    """Return the pixels of the image that a pipeline generates for a job."""
    return pixels(pipeline.generate([job])[0])
