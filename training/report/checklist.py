"""A filled checklist for a model card, after CLAIM, from the run's own files.

Source: Mongan, Moy and Kahn 2020, "Checklist for Artificial Intelligence in Medical Imaging (CLAIM)", Radiology: AI.
"""

from training.report.tables import with_interval

NOT_DONE = "Not done."


def checklist(config: dict, metrics: dict, explanations: dict | None = None) -> str:
    """Return the checklist as Markdown, a line for each item; the arguments are those of `model_card`."""
    data, test, training = metrics["data"], metrics["test"], metrics["training"]
    sizes = ", ".join(f"{name} {n:,}" for name, n in data["n"].items())
    interval = test["interval"]
    maps = "See Explanations." if explanations else "Not measured."
    height, width = config["pretrained_cfg"]["input_size"][1:]
    answers = {
        "Study design": "Retrospective, on public pictures; a method study, no clinical question.",
        "Data source": f"`{data['source']}`, fingerprint `{data['fingerprint']}`.",
        "Inclusion": f"Every readable picture: {data['images']:,}; left out as unreadable: {data['left_out']:,}.",
        "Selection of subjects": "As collected by others; patients, scanners and sequences are not recorded.",
        "De-identification": "Left to the publishers of the data; the pictures carry no header.",
        "Missing data": "No patient, age, sex or scanner is known, so nothing is reported by group of people.",
        "Reference standard": "The folder a picture lies in. Who labelled it, and how, is not documented throughout.",
        "Annotators and agreement": "Not documented.",
        "Partitions": f"{metrics['split'].capitalize()} split, seed {metrics['seed']}: {sizes}.",
        "Level of disjointness": "By picture, with all its copies"
        + (", except that this split keeps copies on both sides." if metrics["split"] == "official" else ".")
        + " Not by patient.",
        "Sample size": f"All there is; {test['groups']:,} different pictures in the test set. No power calculation.",
        "Preprocessing": f"Grey, {height} × {width} pixels, height and width scaled apart; the same code as in use.",
        "Model": f"`{config['architecture']}` of timm, one output for each class; see config.json.",
        "Initialisation": f"{metrics['init']}.",
        "Training": f"{training['epochs']} epochs; every setting is in config.json and in the command above.",
        "Choice of the final model": f"Best macro-F1 on validation, epoch {training['best_epoch']}.",
        "Ensembling": "No.",
        "Metrics and uncertainty": f"{interval['level']:.0%} interval, {interval['method']}, "
        f"{interval['samples']:,} samples.",
        "Robustness": NOT_DONE,
        "Explainability": maps,
        "External testing": NOT_DONE,
        "Performance": f"Accuracy {with_interval(test['accuracy'])}, macro-F1 {with_interval(test['macro_f1'])}.",
        "Failure analysis": "See Confusion matrix: the most frequent errors, and the misses.",
        "Limitations and bias": "See Training data and its known faults.",
        "Intended use": "Research and teaching. Not for care.",
        "Registration and protocol": "No.",
        "Availability": "Code, weights, settings and metrics are public or in this folder.",
        "Funding": "Not stated.",
    }
    return "\n".join(f"- **{item}.** {answer}" for item, answer in answers.items())
