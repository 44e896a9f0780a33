"""Answer a whole archive: one row per image with probabilities, warnings and, if wanted, maps, as a Parquet file.

accelerate launch -m training.score --checkpoint bundled/resnet18 --input FOLDER --output answers.parquet

Work is divided among the processes in chunks. A finished chunk is a file of its own, so the same command goes on where
it was stopped: nothing is lost and nothing is repeated. A file that cannot be read has a row that says why.
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from accelerate import Accelerator
from huggingface_hub import HfApi
from tqdm.auto import tqdm

from brain_xai.checkpoint import CheckpointError
from brain_xai.methods import METHODS
from training.data.archive import open_archive
from training.data.sources import DataError
from training.evaluation.scoring import Job, answer_missing, load_members, merge, revision_of


def score(job: Job, accelerator: Accelerator) -> None:
    """Answer this process's share of a job; the main process then joins the chunks of all.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
        DataError: Another job has begun at the same place, the checkpoints cannot answer together, or the method cannot
            work on the model.
    """
    members = load_members(job, accelerator.device)
    with accelerator.main_process_first():
        job.open(revision_of(members))
    mine = list(range(len(job.chunks)))[accelerator.process_index :: accelerator.num_processes]
    started, total = time.perf_counter(), sum(len(job.chunks[chunk]) for chunk in mine)
    already = sum(len(job.chunks[chunk]) for chunk in mine if job.part(chunk).exists())
    with tqdm(total=total, unit="image", disable=not accelerator.is_main_process) as bar:
        answer_missing(job, members, mine, bar.update)
    seconds = time.perf_counter() - started
    print(f"process {accelerator.process_index}: {(total - already) / seconds:.1f} images/s", flush=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        merge(job)
        shutil.rmtree(job.parts)


def summary(file: Path) -> str:
    """Return how many images were answered how, and what could not be read."""
    table = pq.read_table(file, columns=["file", "error", "label", "warnings"])
    bad = table.filter(pc.is_valid(table["error"]))
    counts = sorted(pc.value_counts(table["label"].drop_null()).to_pylist(), key=lambda row: -row["counts"])
    lines = [f"{len(table):,} images: " + ", ".join(f"{row['values']} {row['counts']:,}" for row in counts)]
    warned = pc.value_counts(pc.list_flatten(table["warnings"].drop_null())).to_pylist()
    lines += [f"warning {row['values']}: {row['counts']:,}" for row in sorted(warned, key=lambda row: row["values"])]
    lines.append(f"{len(bad):,} files could not be read")
    return "\n".join([*lines, *(f"  {row['file']}: {row['error']}" for row in bad.slice(0, 20).to_pylist())])


def push(file: Path, repo: str) -> None:
    """Upload the table to a data set on the Hub, which is made private if it is new."""
    api = HfApi()
    api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
    api.upload_file(path_or_fileobj=file, path_in_repo=file.name, repo_id=repo, repo_type="dataset")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, answer, and print the summary."""
    parser = argparse.ArgumentParser(
        prog="training.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        required=True,
        help="a folder, bundled/<name>, or org/repo@revision; of several, the mean of their probabilities is given",
    )
    parser.add_argument("--input", required=True, help="folder of images, or a data set on the Hub")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--maps", choices=METHODS, help="store the map of the answered class by this method")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="processes that read images, for each that answers")
    parser.add_argument("--chunk", type=int, default=256, help="images that a kill costs at most, for each process")
    parser.add_argument("--push-to-hub", metavar="ORG/NAME", help="upload the table to a private data set")
    given = parser.parse_args(arguments)
    accelerator = Accelerator()
    try:
        archive = open_archive(given.input)
        job = Job(
            tuple(given.checkpoint), archive, given.output, given.maps, given.batch_size, given.workers, given.chunk
        )
        score(job, accelerator)
    except (CheckpointError, DataError) as error:
        raise SystemExit(f"error: {error}") from error
    if accelerator.is_main_process:
        print(summary(given.output))
        print(f"The table is {given.output}.")
        if given.push_to_hub:
            push(given.output, given.push_to_hub)


if __name__ == "__main__":
    main()
