"""A batch through the API as a caller sees it: some files are broken, one call is canceled, the next one finishes.

Command: python tests/benchmarks/batch.py --images 500 [--checkpoint bundled/resnet18]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the package and the tests, from wherever this is started

from gradio_client import Client, handle_file

from tests.helpers.scans import LABELS, make_scan
from tests.helpers.served import job_threads, served, wait_until

BROKEN = (b"", b"It hurts.", b"\x89PNG\r\n\x1a\n" + bytes(40))


def main() -> None:
    """Print how long each step takes, and what the caller holds after it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--checkpoint", default="bundled/resnet18")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(arguments.checkpoint) as (_, address):
        files = [handle_file(path) for path in _files(Path(folder), arguments.images)]
        client = Client(address, verbose=False, download_files=folder, analytics_enabled=False)
        start = time.perf_counter()
        job = client.submit(files, api_name="/batch")
        wait_until(lambda: job.outputs() and len(job.outputs()[-1][0]["rows"]) > arguments.images // 5)
        canceled = time.perf_counter()
        job.cancel()
        wait_until(lambda: not job_threads())
        ended = time.perf_counter()
        table, csv = job.outputs()[-1]
        lines = len(Path(csv).read_text().splitlines()) - 1
        print(f"canceled after {canceled - start:.1f} s, ended on the server {ended - canceled:.2f} s later")
        print(f"the caller keeps {len(table['rows'])} of {table['total']} rows, and {lines} in the CSV")
        start = time.perf_counter()
        table, _ = client.predict(files, api_name="/batch")
        taken = time.perf_counter() - start
        print(f"finished in {taken:.1f} s, {1000 * table['seconds'] / table['total']:.0f} ms per image on the server")
        print(f"{len(table['rows'])} rows, {table['failed']} failed:")
        for row in table["rows"]:
            if row["error"]:
                print(f"  {row['file']}: {row['error']}")


def _files(folder: Path, count: int) -> list[Path]:
    """Write synthetic scans, three of them broken, one of these in the middle."""
    broken = dict(zip((3, count // 2, count - 1), BROKEN, strict=True))
    paths = []
    for number in range(count):
        path = folder / f"{number:04d}.png"
        if number in broken:
            path.write_bytes(broken[number])
        else:
            make_scan(LABELS[number % len(LABELS)], number, side=200).save(path)
        paths.append(path)
    return paths


if __name__ == "__main__":
    main()
