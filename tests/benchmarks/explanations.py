"""Compare our explanations with Captum, pytorch-grad-cam and torch-cam: time, memory, and whether the maps agree.

    python tests/benchmarks/explanations.py [--model bundled/resnet18] [--image FILE ...] [--threads 2] [--full]

Each case runs in its own process, so that its peak memory can be measured. The cases take turns and the fastest turn
counts, because no machine is ever quiet. Without --image the image is a synthetic scan.
"""

import argparse
import importlib
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this script is started by its path
from brain_xai import METHODS, MethodNotApplicable, explain, load_checkpoint
from brain_xai.classifier import CheckpointInfo, Classifier
from brain_xai.methods.occlusion import occlusion
from brain_xai.methods.request import Request
from brain_xai.methods.target_layer import target_layer
from brain_xai.preprocess import Preprocessing
from tests.helpers.scans import make_scan

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GRIDS = ((15, 8), (32, 16))  # window and stride in pixels at the model's size
REACHES = (3, 2)
OTHERS = ("occlusion", "consensus", "layer_activation")  # they use no gradient, or combine other methods


@dataclass(frozen=True)
class Case:
    """One way to compute a map.

    Attributes:
        name: Its name in the table.
        run: Returns the attribution of a scan, or None.
        reference: The name of the case that it should agree with.
        passes: How many forward passes of one image it takes if nothing is saved.
    """

    name: str
    run: Callable[["Scan"], np.ndarray | None]
    reference: str | None = None
    passes: int | None = None


@dataclass(frozen=True, eq=False)
class Scan:
    """An image, what the model sees of it, and the class to explain."""

    image: object
    pixel_values: torch.Tensor
    target: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled/resnet18", help="a checkpoint; a ResNet-50 is measured, too")
    parser.add_argument("--image", nargs="*", default=[], help="scans; without any a synthetic one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--rounds", type=int, default=2, help="turns per case")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time, for a busy machine and --threads 1",
    )
    parser.add_argument("--alone", action="store_true", help="without the ResNet-50")
    parser.add_argument("--full", action="store_true", help="also the fine grid on the ResNet-50, which takes minutes")
    settings = parser.parse_args()
    torch.set_num_threads(1)  # a process with running threads cannot be forked
    # Importing these here keeps it out of the measured time.
    missing = [name for name in ("captum.attr", "pytorch_grad_cam", "torchcam.methods") if not _imported(name)]
    measured = [(load_checkpoint(settings.model), GRIDS)]
    if not settings.alone:
        measured.append((_resnet50(), GRIDS if settings.full else GRIDS[1:]))
    for classifier, grids in measured:
        images = settings.image or [make_scan("glioma", 1, side=256)]
        if classifier.info.architecture == "resnet50":
            images = images[:1]  # it is slow, and with random weights ranks mean little
        scans = [_scan(classifier, image) for image in images]
        results = measure(_cases(classifier, grids, scans, missing), scans, settings)
        print(f"\n## {classifier.info.id}, {'×'.join(map(str, classifier.preprocessing.size))}\n")
        turns = f"{settings.threads} thread(s), {settings.clock} time, fastest of {settings.rounds} turns"
        print(f"{len(scans)} scan(s), {turns}. Other work on the machine can change single figures by tens of percent.")
        print(
            "*Faster* compares with Captum at one window per pass. *Share of the limit* is the time of one forward pass"
        )
        print("per window ÷ the measured time: above 100 %, a window costs less than a forward pass.\n")
        print(table(results))
    for name in missing:
        print(f"\nSkipped, not installed: {name}")


def measure(cases: list[Case], scans: list[Scan], settings: argparse.Namespace) -> dict[str, dict]:
    """Run every case on every scan: {name: {case, turns, seconds (sum), megabytes (most), maps (one per scan)}}."""
    results = {case.name: {"case": case, "turns": [], "megabytes": 0.0} for case in cases}
    for _ in range(settings.rounds):
        for case in cases:
            seconds, megabytes, maps = _run_in_process(case, scans, settings)
            result = results[case.name]
            result["turns"].append(seconds)
            result["megabytes"] = max(result["megabytes"], megabytes)
            result["maps"] = maps
            print(f"{case.name}: {sum(seconds):.3f} s, {megabytes:.0f} MB", file=sys.stderr)
    for result in results.values():
        result["seconds"] = np.min(result["turns"], axis=0).sum()
    return results


def table(results: dict[str, dict]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| case | seconds | faster | × bare pass | share of the limit | peak MB | max. difference | rank correlation |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    bare = results["bare forward pass"]["seconds"]
    for name, result in results.items():
        case, seconds = result["case"], result["seconds"]
        faster = f"{results[case.reference]['seconds'] / seconds:.1f}" if case.reference in results else ""
        share = f"{case.passes * bare / len(result['maps']) / seconds:.0%}" if case.passes else ""
        agreement = ["", ""]
        if case.reference in results and result["maps"][0] is not None:
            pairs = list(zip(result["maps"], results[case.reference]["maps"], strict=True))
            ranks = [spearmanr(ours.ravel(), theirs.ravel()).statistic for ours, theirs in pairs]
            agreement[0] = f"{max(np.abs(ours - theirs).max() for ours, theirs in pairs):.1g}"
            agreement[1] = f"{np.median(ranks):.3f}" + (f" (least {min(ranks):.3f})" if len(ranks) > 1 else "")
        cells = [
            name,
            f"{seconds:.3f}",
            faster,
            f"{seconds / bare:.2f}",
            share,
            f"{result['megabytes']:.0f}",
            *agreement,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cases(classifier: Classifier, grids: tuple, scans: list[Scan], missing: list[str]) -> list[Case]:
    gradient_methods = [key for key in METHODS if key not in OTHERS]

    def explain_by(*keys: str) -> Callable[[Scan], None]:
        def run(scan: Scan) -> None:
            for key in keys:
                _explain(classifier, scan, key)

        return run

    def predict(scan: Scan) -> None:
        classifier.logits(scan.pixel_values)

    cases = [
        Case("bare forward pass", predict, passes=len(scans)),
        Case("ours: prediction + Grad-CAM", explain_by("grad_cam")),
        Case("ours: prediction + every gradient method", explain_by(*gradient_methods)),
        Case("ours: prediction + occlusion", explain_by("occlusion")),
        Case("ours: prediction + every gradient method + occlusion", explain_by(*gradient_methods, "occlusion")),
    ]
    layer = classifier.model.get_submodule(target_layer(classifier).name)
    if "pytorch_grad_cam" not in missing:
        cases.append(Case("pytorch-grad-cam GradCAM", lambda scan: _pytorch_grad_cam(classifier, layer, scan)))
    if "torchcam.methods" not in missing:
        cases.append(Case("torch-cam GradCAM", lambda scan: _torch_cam(classifier, layer, scan)))
    for window, stride in grids:
        cases += _occlusion_cases(classifier, window, stride, scans, "captum.attr" not in missing)
    return cases


def _occlusion_cases(classifier: Classifier, window: int, stride: int, scans: list[Scan], captum: bool) -> list[Case]:
    size = classifier.preprocessing.size
    passes = len(scans) * int(1 + np.prod([-(-(side - window) // stride) + 1 for side in size]))
    fractions = {"window": window / size[0], "stride": stride / size[0]}

    def run_captum(at_once: int) -> Callable[[Scan], np.ndarray]:
        def run(scan: Scan) -> np.ndarray:
            from captum.attr import Occlusion

            engine = Occlusion(classifier.model)
            shape, steps = (3, window, window), (3, stride, stride)
            options = {"baselines": classifier.black, "target": scan.target, "perturbations_per_eval": at_once}
            return engine.attribute(scan.pixel_values, shape, steps, **options)[0, 0].numpy()

        return run

    def run_ours(reach: int | None) -> Callable[[Scan], np.ndarray]:
        return lambda scan: occlusion(Request(classifier, scan.pixel_values, scan.target), **fractions, reach=reach)[0]

    grid = f"{window}/{stride}"
    one, many = (f"Captum Occlusion {grid}, {at_once} per pass" for at_once in (1, 32))
    return [
        *([Case(one, run_captum(1), one, passes), Case(many, run_captum(32), one, passes)] if captum else []),
        Case(f"ours {grid}, exact", run_ours(None), one, passes),
        *(Case(f"ours {grid}, reach {reach}", run_ours(reach), one, passes) for reach in REACHES),
    ]


def _explain(classifier: Classifier, scan: Scan, key: str) -> None:
    try:
        explain(classifier, scan.image, key)
    except MethodNotApplicable:
        return


def _pytorch_grad_cam(classifier: Classifier, layer: torch.nn.Module, scan: Scan) -> None:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=classifier.model, target_layers=[layer]) as engine:
        engine(input_tensor=scan.pixel_values.clone().requires_grad_(), targets=[ClassifierOutputTarget(scan.target)])


def _torch_cam(classifier: Classifier, layer: torch.nn.Module, scan: Scan) -> None:
    from torchcam.methods import GradCAM

    pixel_values = scan.pixel_values.clone().requires_grad_()
    with GradCAM(classifier.model, target_layer=layer) as engine:
        engine(scan.target, classifier.model(pixel_values))


def _run_in_process(case: Case, scans: list[Scan], settings: argparse.Namespace) -> tuple[list[float], float, list]:
    """Run a case in a fork of this process; return seconds per scan, peak memory above the start in MB, and maps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.npy"
        process = multiprocessing.get_context("fork").Process(target=_run, args=(case, scans, settings, path))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{case.name} failed")
        return np.load(path, allow_pickle=True).tolist()  # written by the process above


def _run(case: Case, scans: list[Scan], settings: argparse.Namespace, path: Path) -> None:
    torch.set_num_threads(settings.threads)
    clock = time.process_time if settings.clock == "cpu" else time.perf_counter
    warnings.simplefilter("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, maps = [], []
    try:
        for scan in scans:
            runs = []
            # Repeat short runs, so that work done once per process does not count.
            while not runs or (len(runs) < 10 and sum(runs) < 1):
                started = clock()
                attribution = case.run(scan)
                runs.append(clock() - started)
            seconds.append(min(runs))
            maps.append(attribution)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    result = np.empty(3, dtype=object)
    result[:] = [seconds, megabytes, maps]
    np.save(path, result, allow_pickle=True)


def _imported(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return False
    return True


def _scan(classifier: Classifier, image: object) -> Scan:
    pixel_values = classifier.prepare(image).pixel_values
    return Scan(image, pixel_values, int(classifier.logits(pixel_values).argmax()))


def _resnet50() -> Classifier:
    torch.manual_seed(0)
    # timm initializes residual branches to zero, which would leave nothing to compare.
    model = timm.create_model("resnet50", num_classes=4, zero_init_last=False).eval().requires_grad_(False)
    info = CheckpointInfo("resnet50, random weights", "0", "resnet50")
    return Classifier(model, ("a", "b", "c", "d"), Preprocessing((224, 224), **IMAGENET), info)


if __name__ == "__main__":
    main()
