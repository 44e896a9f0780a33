"""How fast our explanations are beside captum, pytorch-grad-cam and torch-cam, and whether the maps are the same.

    python tests/benchmarks/explanations.py [--model bundled/resnet18] [--image FILE ...] [--threads 2] [--full]

Each case runs in a process of its own, so that peak memory is its own; the cases take turns, and of all turns the
fastest counts, as no machine is ever quiet. Without --image the picture is a made-up scan.
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
from brain_xai.methods.target_layer import target_layer
from brain_xai.preprocess import Preprocessing
from tests.helpers.scans import make_scan

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GRIDS = ((15, 8), (32, 16))  # window and stride in pixels at the model's size
REACHES = (3, 2)
OTHERS = ("occlusion", "consensus", "layer_activation")  # no gradient, or made of other methods


@dataclass(frozen=True)
class Case:
    """One way to a map: `run(picture)` returns the attribution or None; `reference` names the case it should equal.

    `passes` is how many forward passes of one picture the work takes where nothing is saved.
    """

    name: str
    run: Callable[["Picture"], np.ndarray | None]
    reference: str | None = None
    passes: int | None = None
    baseline: str = "bare forward pass"


@dataclass(frozen=True, eq=False)
class Picture:
    """A scan as the model sees it, and the class to explain."""

    image: object
    pixel_values: torch.Tensor
    target: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled/resnet18", help="a checkpoint; a ResNet-50 is measured beside it")
    parser.add_argument("--image", nargs="*", default=[], help="scans; a made-up one where none is given")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--rounds", type=int, default=2, help="turns of every case")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu for a busy machine: processor time, with --threads 1",
    )
    parser.add_argument("--full", action="store_true", help="also the fine grid on the ResNet-50, which takes minutes")
    settings = parser.parse_args()
    torch.set_num_threads(1)  # a process with running threads cannot be forked
    # What is imported here is not measured.
    missing = [name for name in ("captum.attr", "pytorch_grad_cam", "torchcam.methods") if not _imported(name)]
    for classifier, grids in (
        (load_checkpoint(settings.model), GRIDS),
        (_resnet50(), GRIDS if settings.full else GRIDS[1:]),
    ):
        images = settings.image or [make_scan("glioma", 1, side=256)]
        if classifier.info.architecture == "resnet50":
            images = images[:1]  # it takes its time, and random weights agree on nothing
        pictures = [_picture(classifier, image) for image in images]
        results = measure(_cases(classifier, grids, pictures, missing), pictures, settings)
        print(f"\n## {classifier.info.id}, {'×'.join(map(str, classifier.preprocessing.size))}\n")
        turns = f"{settings.threads} thread(s), {settings.clock} time, fastest of {settings.rounds} turns"
        print(f"{len(pictures)} picture(s), {turns}. Other work on the machine makes single figures wrong by tens of")
        print(
            "percent. *Faster* is meant against captum with one window a pass, *share of the limit* is the bare forward"
        )
        print("passes that all windows take ÷ the time taken: above 100 % the windows cost less than a pass each.\n")
        print(table(results))
    for name in missing:
        print(f"\nSkipped, not installed: {name}")


def measure(cases: list[Case], pictures: list[Picture], settings: argparse.Namespace) -> dict[str, dict]:
    """Run every case on every picture: {name: {case, seconds (sum), megabytes (most), maps (one a picture)}}."""
    results = {case.name: {"case": case, "turns": [], "megabytes": 0.0} for case in cases}
    for _ in range(settings.rounds):
        for case in cases:
            seconds, megabytes, maps = _in_a_process(case, pictures, settings)
            result = results[case.name]
            result["turns"].append(seconds)
            result["megabytes"] = max(result["megabytes"], megabytes)
            result["maps"] = maps
            print(f"{case.name}: {sum(seconds):.3f} s, {megabytes:.0f} MB", file=sys.stderr)
    for result in results.values():
        result["seconds"] = np.min(result["turns"], axis=0).sum()
    return results


def table(results: dict[str, dict]) -> str:
    """Return the results as Markdown."""
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


def _cases(classifier: Classifier, grids: tuple, pictures: list[Picture], missing: list[str]) -> list[Case]:
    def bare(picture: Picture) -> None:
        classifier.logits(picture.pixel_values)

    def every_gradient_method(picture: Picture) -> None:
        for key in METHODS:
            if key not in OTHERS:
                _explained(classifier, picture, key)

    def every_gradient_method_and_occlusion(picture: Picture) -> None:
        every_gradient_method(picture)
        _explained(classifier, picture, "occlusion")

    cases = [
        Case("bare forward pass", bare, passes=len(pictures)),
        Case("ours: prediction + Grad-CAM", lambda picture: _explained(classifier, picture, "grad_cam")),
        Case("ours: prediction + every gradient method", every_gradient_method),
        Case("ours: prediction + occlusion", lambda picture: _explained(classifier, picture, "occlusion")),
        Case("ours: prediction + every gradient method + occlusion", every_gradient_method_and_occlusion),
    ]
    layer = classifier.model.get_submodule(target_layer(classifier).name)
    if "pytorch_grad_cam" not in missing:
        cases.append(Case("pytorch-grad-cam GradCAM", lambda picture: _pytorch_grad_cam(classifier, layer, picture)))
    if "torchcam.methods" not in missing:
        cases.append(Case("torch-cam GradCAM", lambda picture: _torch_cam(classifier, layer, picture)))
    for window, stride in grids:
        cases += _occlusion_cases(classifier, window, stride, pictures, "captum.attr" not in missing)
    return cases


def _occlusion_cases(
    classifier: Classifier, window: int, stride: int, pictures: list[Picture], captum: bool
) -> list[Case]:
    size = classifier.preprocessing.size
    passes = len(pictures) * int(1 + np.prod([-(-(side - window) // stride) + 1 for side in size]))
    shares = {"window": window / size[0], "stride": stride / size[0]}
    black = (0 - torch.tensor(classifier.preprocessing.mean)) / torch.tensor(classifier.preprocessing.std)

    def captums(at_once: int) -> Callable[[Picture], np.ndarray]:
        def run(picture: Picture) -> np.ndarray:
            from captum.attr import Occlusion

            engine = Occlusion(classifier.model)
            shape, steps = (3, window, window), (3, stride, stride)
            options = {"baselines": black.view(1, 3, 1, 1), "target": picture.target, "perturbations_per_eval": at_once}
            return engine.attribute(picture.pixel_values, shape, steps, **options)[0, 0].numpy()

        return run

    def ours(reach: int | None) -> Callable[[Picture], np.ndarray]:
        return lambda picture: occlusion(
            classifier, picture.pixel_values, picture.target, lambda *_: None, **shares, reach=reach
        )[0]

    grid = f"{window}/{stride}"
    one, many = (f"captum Occlusion {grid}, {at_once} a pass" for at_once in (1, 32))
    return [
        *([Case(one, captums(1), one, passes), Case(many, captums(32), one, passes)] if captum else []),
        Case(f"ours {grid}, exact", ours(None), one, passes),
        *(Case(f"ours {grid}, reach {reach}", ours(reach), one, passes) for reach in REACHES),
    ]


def _explained(classifier: Classifier, picture: Picture, key: str) -> None:
    try:
        explain(classifier, picture.image, key)
    except MethodNotApplicable:
        return


def _pytorch_grad_cam(classifier: Classifier, layer: torch.nn.Module, picture: Picture) -> None:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=classifier.model, target_layers=[layer]) as engine:
        engine(
            input_tensor=picture.pixel_values.clone().requires_grad_(), targets=[ClassifierOutputTarget(picture.target)]
        )


def _torch_cam(classifier: Classifier, layer: torch.nn.Module, picture: Picture) -> None:
    from torchcam.methods import GradCAM

    pixel_values = picture.pixel_values.clone().requires_grad_()
    with GradCAM(classifier.model, target_layer=layer) as engine:
        engine(picture.target, classifier.model(pixel_values))


def _in_a_process(case: Case, pictures: list[Picture], settings: argparse.Namespace) -> tuple[list[float], float, list]:
    """Run a case in a fork of this process; return seconds a picture, peak memory above the start in MB, and maps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.npy"
        process = multiprocessing.get_context("fork").Process(target=_run, args=(case, pictures, settings, path))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{case.name} failed")
        return np.load(path, allow_pickle=True).tolist()  # written a line above, by ourselves


def _run(case: Case, pictures: list[Picture], settings: argparse.Namespace, path: Path) -> None:
    torch.set_num_threads(settings.threads)
    clock = time.process_time if settings.clock == "cpu" else time.perf_counter
    warnings.simplefilter("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, maps = [], []
    try:
        for picture in pictures:
            runs = []
            # What happens once per process is not counted, where a second run does not take long.
            while not runs or (len(runs) < 10 and sum(runs) < 1):
                started = clock()
                attribution = case.run(picture)
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


def _picture(classifier: Classifier, image: object) -> Picture:
    pixel_values = classifier.prepare(image).pixel_values
    return Picture(image, pixel_values, int(classifier.logits(pixel_values).argmax()))


def _resnet50() -> Classifier:
    torch.manual_seed(0)
    # Residual branches that start at zero, as timm's do, would leave nothing to compare.
    model = timm.create_model("resnet50", num_classes=4, zero_init_last=False).eval().requires_grad_(False)
    info = CheckpointInfo("resnet50, random weights", "0", "resnet50")
    return Classifier(model, ("a", "b", "c", "d"), Preprocessing((224, 224), **IMAGENET), info)


if __name__ == "__main__":
    main()
