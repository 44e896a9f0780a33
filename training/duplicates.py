"""Report which images of a data set are copies of each other.

python -m training.duplicates --data-dir DIR
"""

import argparse
import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path

from training.data.duplicate_groups import duplicate_groups, duplicate_report
from training.data.sources import DataError, load_scans


def format_report(report: dict) -> str:
    """Return the report as text: a row per class, then conflicting labels and skipped files."""
    columns = ("images", "distinct_pictures", "test_images", "test_images_with_copy_in_train")
    lines = [f"{'':<14}{'images':>9}{'distinct':>10}{'test':>7}{'test with a copy in train':>27}"]
    for name, counts in {**report["classes"], "all": report}.items():
        images, distinct, test, copied = (counts[column] for column in columns)
        share = f"{copied} ({copied / test:.0%})" if test else "-"
        lines.append(f"{name:<14}{images:>9}{distinct:>10}{test:>7}{share:>27}")
    lines.append(f"\nTraining images that are a copy of a test image: {report['train_images_with_copy_in_test']}")
    lines.append(f"Largest group: {report['largest_group']} files of one image")
    lines.append(f"\nGroups with conflicting labels: {report['conflicting_groups']}")
    for conflict in report["conflicts"]:
        members = (f"{file} ({label})" for file, label in zip(conflict["files"], conflict["labels"], strict=True))
        lines.append(f"  group {conflict['group']}: {', '.join(members)}")
    lines.append(f"\nFiles skipped: {len(report['left_out'])}")
    lines += [f"  {entry['file']}: {entry['reason']}" for entry in report["left_out"]]
    lines.append(f"\n{report['seconds']:.0f} seconds")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; prints the report and writes it where asked."""
    parser = argparse.ArgumentParser(prog="python -m training.duplicates", description=__doc__)
    parser.add_argument("--data-dir", required=True, help="folder of Training/<class> and Testing/<class>, or <class>")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument("--csv", type=Path, help="write file, label, split and group of every image to this file")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    try:
        scans = load_scans(data_dir=options.data_dir)
    except DataError as error:
        parser.error(str(error))
    groups = duplicate_groups(scans.thumbnails)
    report = duplicate_report(groups, scans.labels, scans.label_names, scans.official_split)
    for conflict in report["conflicts"]:
        conflict["files"] = [scans.files[image] for image in conflict.pop("images")]
    report["left_out"] = [{"file": file, "reason": reason} for file, reason in scans.skipped]
    report["seconds"] = round(time.perf_counter() - start, 1)
    print(format_report(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["file", "label", "split", "group"])
            labels = [scans.label_names[label] for label in scans.labels]
            rows.writerows(zip(scans.files, labels, scans.official_split, groups.tolist(), strict=True))


if __name__ == "__main__":
    main()
