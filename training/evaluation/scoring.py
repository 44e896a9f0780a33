"""Answers for many images in chunks, each a file of its own, so that work can stop and go on at any moment."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from brain_xai.checkpoint import load_checkpoint
from brain_xai.classifier import Classifier, Prediction
from brain_xai.explanation import color_scale, explain
from brain_xai.forward import ModelOutput
from brain_xai.looks import Looks
from brain_xai.methods import METHODS
from brain_xai.preprocess import Preprocessing, UnreadableImage, prepare
from training.data.archive import Archive
from training.data.sources import DataError
from training.evaluation.held_out import for_views


@dataclass(frozen=True)
class Job:
    """What is to be answered, and how; two jobs with the same record give the same rows.

    Attributes:
        checkpoints: Folders, `bundled/<name>`, or `org/repo@revision`; several answer together, with the mean of their
            calibrated probabilities.
        archive: The images.
        output: The Parquet file.
        maps: The method whose maps are stored, None for none.
        batch_size: Images in one forward pass.
        workers: Processes that read images, for each process that answers.
        chunk: Images of one chunk: what a kill costs at most, for each process.
    """

    checkpoints: tuple[str, ...]
    archive: Archive
    output: Path
    maps: str | None = None
    batch_size: int = 32
    workers: int = 2
    chunk: int = 256

    @property
    def parts(self) -> Path:
        """The folder of finished chunks."""
        return self.output.with_name(f"{self.output.name}.parts")

    @property
    def chunks(self) -> list[range]:
        """The indices of the images in each chunk."""
        count = len(self.archive)
        return [range(start, min(start + self.chunk, count)) for start in range(0, count, self.chunk)]

    def part(self, chunk: int) -> Path:
        """Return the file of a finished chunk."""
        return self.parts / f"{chunk:06d}.parquet"

    def open(self, revision: str) -> None:
        """Start the job, or continue the one in `parts`; raises `DataError` if that is another one."""
        names = hashlib.sha256("\n".join(self.archive.names).encode()).hexdigest()
        record = {"revision": revision, "images": names, "maps": self.maps, "chunk": self.chunk}
        file = self.parts / "job.json"
        self.parts.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_whole(file, json.dumps(record).encode())
        elif json.loads(file.read_text(encoding="utf-8")) != record:
            raise DataError(
                f"{self.parts} holds the beginning of another job (other images, weights or maps). Delete the folder, "
                "or choose another --output."
            )


@dataclass(frozen=True, eq=False)
class _Read:
    """What was read of one image: its `looks`, and its `view` if that is needed later; or else the `error`."""

    index: int
    looks: Looks | None = None
    view: Image.Image | None = None
    error: str | None = None


class _Views(Dataset):
    """The images of an archive as the model sees them, read and described in worker processes."""

    def __init__(self, job: Job, preprocessing: Preprocessing):
        self.archive, self.preprocessing, self.keep_view = job.archive, preprocessing, job.maps is not None

    def __getitem__(self, index: int) -> tuple[_Read, torch.Tensor | None]:
        try:
            found = prepare(self.archive.open(index), self.preprocessing)
        except UnreadableImage as error:
            return _Read(index, error=str(error)), None
        except OSError as error:
            return _Read(index, error=f"The file cannot be read: {type(error).__name__}."), None
        return _Read(index, found.looks, found.view if self.keep_view else None), found.pixel_values


def _together(batch: list[tuple[_Read, torch.Tensor | None]]) -> tuple[list[_Read], torch.Tensor | None]:
    """Join the pixel values of a batch already in the process that read it: one tensor is handed over, not many."""
    readable = [pixel_values for _, pixel_values in batch if pixel_values is not None]
    return [read for read, _ in batch], torch.cat(readable) if readable else None


def load_members(job: Job, device: torch.device) -> list[Classifier]:
    """Load the checkpoints of a job.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
        DataError: The checkpoints cannot answer together, or the method of the maps cannot work on the model.
    """
    members = [load_checkpoint(checkpoint, device=device) for checkpoint in job.checkpoints]
    first = members[0]
    for other in members[1:]:
        if (other.label_names, other.preprocessing) != (first.label_names, first.preprocessing):
            raise DataError(f"{other.info.id} has other labels, or sees images otherwise, than {first.info.id}.")
    if job.maps and len(members) > 1:
        raise DataError("A map shows what moved the score of one model. Give one --checkpoint with --maps.")
    if job.maps and (reason := METHODS[job.maps].reason_unsupported(first)):
        raise DataError(reason)
    return members


def revision_of(members: Sequence[Classifier]) -> str:
    """Return the revisions of the weights that answer."""
    return "+".join(member.info.revision for member in members)


def answer_batch(
    job: Job, members: Sequence[Classifier], batch: Sequence[_Read], pixel_values: torch.Tensor | None
) -> list[dict]:
    """Return the rows of one batch, whose readable images are in `pixel_values`."""
    outputs = [] if pixel_values is None else [member.forward(pixel_values) for member in members]
    rows, position = [], 0
    for read in batch:
        row = {"file": job.archive.names[read.index], "error": read.error}
        if read.looks is not None:
            singles = [output.single(position) for output in outputs]
            answers = zip(members, singles, strict=True)
            row |= describe([member.prediction(single, read.looks) for member, single in answers])
            if job.maps is not None:
                row |= map_of(job.maps, members[0], singles[0], read.view)
            position += 1
        rows.append(row)
    return rows


def describe(predictions: Sequence[Prediction]) -> dict:
    """Return the columns of one readable image: mean probabilities, and the warnings of any of the models."""
    labels = predictions[0].probabilities
    mean = {label: fmean(prediction.probabilities[label] for prediction in predictions) for label in labels}
    codes = dict.fromkeys(warning.code for prediction in predictions for warning in prediction.warnings)
    columns = {column_of(label): probability for label, probability in mean.items()}
    return {"label": max(mean, key=mean.get), **columns, "warnings": list(codes)}


def map_of(method: str, classifier: Classifier, output: ModelOutput, view: Image.Image) -> dict:
    """Return the columns of the map of one image, from its forward pass where the method needs no other."""
    answer = int(output.logits[0].argmax())
    if (of_pass := METHODS[method].attribute_of_pass(classifier, output, [answer])) is not None:
        attribution, scale = of_pass[0][0], color_scale(classifier, method)
    else:
        explanation = explain(for_views(classifier), view, method)
        attribution, scale = explanation.attribution, explanation.scale
    buffer = io.BytesIO()
    np.save(buffer, attribution.astype(np.float16))
    return {"map": buffer.getvalue(), "map_scale": scale}


def column_of(label: str) -> str:
    """Return the name of the column with the probability of a class."""
    return f"p_{label}"


def schema_of(members: Sequence[Classifier], maps: str | None) -> pa.Schema:
    """Return the columns of the table; its metadata say which weights answered."""
    columns = [("file", pa.string()), ("error", pa.string()), ("label", pa.string())]
    columns += [(column_of(label), pa.float64()) for label in members[0].label_names]
    columns.append(("warnings", pa.list_(pa.string())))
    if maps is not None:  # the bytes of a .npy file, float16 [H, W], in multiples of which `map_scale` is full color
        columns += [("map", pa.binary()), ("map_scale", pa.float64())]
    ids = " ".join(member.info.id for member in members)
    about = {"checkpoint": ids, "revision": revision_of(members), "maps": maps or ""}
    return pa.schema(columns, metadata=about)


def answer_missing(job: Job, members: Sequence[Classifier], chunks: list[int], done: Callable[[int], None]) -> None:
    """Answer those of `chunks` that have no file yet; `done` is told the number of images after each."""
    missing, ranges = [chunk for chunk in chunks if not job.part(chunk).exists()], job.chunks
    done(sum(len(ranges[chunk]) for chunk in set(chunks).difference(missing)))
    starts = {chunk: range(0, len(ranges[chunk]), job.batch_size) for chunk in missing}
    # One loader for all chunks, so that images are read while the model answers, across chunks, too.
    loader = DataLoader(
        _Views(job, members[0].preprocessing),
        batch_sampler=[ranges[chunk][start : start + job.batch_size] for chunk in missing for start in starts[chunk]],
        num_workers=job.workers if missing else 0,
        collate_fn=_together,
    )
    reading = iter(loader)
    for chunk in missing:
        rows = [row for _ in starts[chunk] for row in answer_batch(job, members, *next(reading))]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema_of(members, job.maps)), buffer)
        write_whole(job.part(chunk), buffer.getvalue())
        done(len(rows))


def merge(job: Job) -> None:
    """Write the rows of all chunks, in the order of the images, as one file."""
    partial = job.output.with_name(f"{job.output.name}.partial")
    with pq.ParquetWriter(partial, pq.read_schema(job.part(0))) as writer:
        for chunk in range(len(job.chunks)):
            writer.write_table(pq.read_table(job.part(chunk)))
    os.replace(partial, job.output)


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whenever the process is killed."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with partial.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(partial, file)
