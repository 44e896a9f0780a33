"""The ablation: which runs it makes, and that a source left out is measured as a whole."""

import json

from tests.helpers.scans import make_scan, write_scans
from tests.helpers.training_runs import SETTINGS
from training.ablation import main, trials_of


def test_one_run_for_each_ingredient_and_source():
    flags = ["--frame", "--model", "resnet18", "--styles", "1", "--init-weights", "start.safetensors"]
    trials = trials_of(flags, ["a/x:hold=0.3,yes=tumor", "b/y"], ["--sizes 160:6", "--source a/x:hold=1/2"])
    assert [trial.name for trial in trials] == [
        "everything",
        "without --frame",
        "without --styles",
        "without --init-weights",
        "without x",
        "without y",
        "without any source",
        "with --sizes 160:6",
        "with --source a/x:hold=1/2",
    ]
    by_name = {trial.name: trial for trial in trials}
    everything = (*flags, "--source", "a/x:hold=0.3,yes=tumor", "b/y")
    assert by_name["everything"].flags == everything
    unframed = by_name["without --frame"]
    assert unframed.flags[:9] == (*flags[1:], "--frame", "false", "--source")
    assert "start.safetensors" not in by_name["without --init-weights"].flags
    assert by_name["without x"].sources == ("a/x:yes=tumor,hold=1", "b/y")
    assert by_name["without x"].flags == (*flags, "--source", "a/x:yes=tumor,hold=1", "b/y")
    assert by_name["without any source"].flags == tuple(flags)
    assert by_name["without any source"].sources == ("a/x:yes=tumor,hold=1", "b/y:hold=1")
    assert by_name["with --sizes 160:6"].flags == (*flags, "--sizes", "160:6", "--source", *everything[-2:])
    assert by_name["with --source a/x:hold=1/2"].sources == ("a/x:hold=1/2",)


def test_runs_are_trained_and_measured_on_what_they_did_not_see(tmp_path, monkeypatch, capsys):
    data, web = write_scans(tmp_path / "data", train=8, test=2), tmp_path / "web"
    for folder, label in (("yes", "glioma"), ("no", "notumor")):
        (web / folder).mkdir(parents=True)
        for seed in range(6):
            make_scan(label, 100 + seed).save(web / folder / f"{seed}.png")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = ["--output-dir", str(tmp_path / "runs"), "--data-dir", str(data)]
    sources = ["--source", f"{web}:yes=tumor,no=notumor,hold=0.5"]
    start = SETTINGS.index("--augmentation")  # an ingredient: without it there is one run less
    main([*given, *sources, *SETTINGS[:start], *SETTINGS[start + 2 :], "--mixed-precision", "no", "--sizes", "32:1"])
    trials = json.loads((tmp_path / "runs" / "ablation.json").read_text())["trials"]
    measured = {name: {kind: entry["n"] for kind, entry in kinds.items()} for name, kinds in trials.items()}
    assert measured == {
        "everything": {"test": 8, "web, tumor": 3, "web, no tumor": 3},
        "without web": {"test": 8, "web, tumor": 6, "web, no tumor": 6},
        "without any source": {"test": 8, "web, tumor": 6, "web, no tumor": 6},
    }
    assert "| without web |" in capsys.readouterr().out
