"""``nnface evaluate`` runs a model over a benchmark; ``nnface score`` scores prediction files that are there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import click

from nnface.commands.options import THREADS, refuse_idle
from nnface.commands.output import require_place
from nnface.datasets import fairface as fairface_data
from nnface.datasets import fddb as fddb_data
from nnface.datasets.widerface_predictions import read_predictions, write_predictions
from nnface.datasets.widerface_truth import choose, read_list, read_truth
from nnface.errors import UsageError
from nnface.evaluation import fddb as fddb_benchmark
from nnface.evaluation import widerface as benchmark
from nnface.evaluation.figures import figures_json
from nnface.files import make_folder, write_atomic
from nnface.metrics.wider import Prediction, Truth
from nnface.report import require

FOLDER = click.Path(path_type=Path)
_json = click.option("--json", "json_file", metavar="FILE", help="Write the figures, 0 to 1, as JSON; - for stdout.")
_save = click.option("--save", type=FOLDER, metavar="DIR", help="Write JSON, plots and an HTML page into this folder.")
_list = click.option("--list", "list_file", type=FOLDER, metavar="FILE", help="Only these pictures: event/name a line.")
_model = click.option("--model", default="default", show_default=True, help="A model file, or a name of the zoo.")
_device = click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
_threads = click.option("--threads", type=THREADS, help="Threads of the runtime.  [default: the physical cores]")
_batch = click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Pictures at once.")


@click.group()
def score() -> None:
    """Score prediction files that are there."""


@click.group()
def evaluate() -> None:
    """Run a model over a benchmark and score it."""


@score.command("widerface")
@click.argument("predictions", type=FOLDER)
@click.option("--truth", type=FOLDER, metavar="DIR", required=True, help="Folder of the four ground-truth .mat files.")
@_list
@click.option(
    "--against", type=FOLDER, metavar="DIR", help="Other prediction files: print by how much these are better."
)
@_json
@_save
def score_widerface(
    predictions: Path,
    truth: Path,
    list_file: Path | None,
    against: Path | None,
    json_file: str | None,
    save: Path | None,
) -> None:
    """Score WIDER FACE prediction files, PREDICTIONS/event/name.txt, as easy, medium and hard.

    Scores are stretched over the files that are scored, as the benchmark does.
    """
    _check(json_file, save)
    faces = _truth(truth, list_file)
    files = read_predictions(predictions, list(faces.boxes))
    if files.unsorted:
        click.echo(f"nnface: {files.unsorted} files were not sorted by falling score; they were sorted", err=True)
    other = None if against is None else read_predictions(against, list(faces.boxes)).predictions
    result = benchmark.score(files.predictions, faces)
    differences = None if other is None else benchmark.compare(files.predictions, other, faces)
    about = {"predictions": str(predictions), "protocol": "as in the files"}
    _finish(result, about, json_file, save, differences, str(against or ""))


@evaluate.command("widerface")
@_model
@click.option("--data", type=FOLDER, metavar="DIR", required=True, help="Folder that holds WIDER_val/images.")
@click.option(
    "--protocol",
    default="vga",
    show_default=True,
    metavar="vga|original|1600|N|multiscale",
    help="Size of the pictures.",
)
@click.option(
    "--truth", type=FOLDER, metavar="DIR", help="Folder of the four .mat files.  [default: DATA/ground_truth]"
)
@_list
@click.option("--predictions", type=FOLDER, metavar="DIR", help="Write the official prediction files here.")
@click.option(
    "--split",
    type=click.Choice(["val", "test"]),
    default="val",
    show_default=True,
    help="The truth of test is not published: its --predictions folder is what the challenge takes.",
)
@_json
@_save
@_device
@_threads
@_batch
def evaluate_widerface(
    model: str,
    data: Path,
    protocol: str,
    truth: Path | None,
    list_file: Path | None,
    predictions: Path | None,
    split: str,
    json_file: str | None,
    save: Path | None,
    device: str,
    threads: int | None,
    batch: int,
) -> None:
    """Measure a detector on WIDER FACE: average precision on easy, medium and hard.

    Protocols: vga (long side 640), original (the picture's own size), 1600 (short side 1600, long at most 2150), N
    (long side N), multiscale (several, mirrored too, merged by box voting). A network of fixed input uses its own.
    """
    from nnface.evaluation.protocol import Measured, parse_protocol

    if split == "test":
        for option in ("truth", "list_file"):
            refuse_idle(option, "belongs to --split val: the truth of test is not published")
    chosen = parse_protocol(protocol)
    _check(json_file, save)
    faces = _truth(truth or data / "ground_truth", list_file) if split == "val" else None
    if faces is not None:
        pictures = benchmark.find_pictures(data, list(faces.boxes))
    elif predictions is None or json_file or save:
        raise UsageError(
            "the truth of the test split is not published: it takes --predictions, and no --json or --save"
        )
    else:
        pictures = benchmark.walk_pictures(data)
        if list_file is not None:
            pictures = benchmark.find_pictures(data, read_list(list_file), "test")
    detector = Measured(model, chosen, device, threads)
    found = _found(detector, pictures, batch, predictions)
    if faces is None:
        click.echo(f"{len(found)} prediction files at {detector.name} are in {predictions}")
        return
    about = {"model": model, "protocol": detector.name, "device": detector.device, "data": str(data)}
    _finish(benchmark.score(found, faces), about, json_file, save)


@evaluate.command("faces")
@_model
@click.option(
    "--data",
    required=True,
    metavar="NAME:PATH",
    help="Pictures and their faces: coco:FILE, yolo:DIR, voc:DIR or widerface:DIR.",
)
@click.option(
    "--all",
    "whole",
    is_flag=True,
    help="Every picture of train and val, which the model must not have been trained on.  [default: the part val, or "
    "where there is none, the tenth that no training sees]",
)
@click.option(
    "--protocol", metavar="vga|original|1600|N", help="Size of the pictures.  [default: the one that the model is for]"
)
@click.option("--compare", metavar="MODEL", help="Another detector: print by how much --model is better, paired.")
@_json
@_save
@_device
@_threads
@_batch
def evaluate_faces(
    model: str,
    data: str,
    whole: bool,
    protocol: str | None,
    compare: str | None,
    json_file: str | None,
    save: Path | None,
    device: str,
    threads: int | None,
    batch: int,
) -> None:
    """Measure a detector on pictures of your own whose faces are labelled.

    Average precision by the rules of WIDER FACE, where easy, medium and hard are faces higher than 50, 30 and 10
    pixels; and what is right and what is found, of faces higher than 30 pixels, at the score from which the model
    reports faces.
    """
    from nnface.evaluation import faces as own

    _check(json_file, save)
    samples = own.read(data, whole=whole)
    pictures, truth = own.pictures(samples), own.truth(samples)
    names = [model, compare] if compare else [model]
    detectors = [own.opened(name, protocol, device, threads) for name in names]
    found = [_found(detector, pictures, batch) for detector in detectors]
    differences = benchmark.compare(found[0], found[1], truth) if compare else None
    points = [own.reported(*pair, truth) for pair in zip(detectors, found, strict=True)]
    about = {"model": model, "protocol": detectors[0].name, "device": detectors[0].device, "data": data}
    if json_file != "-":
        own.points_table(names, points).show()
    figures = {"min_score": points[0].score, "precision": points[0].precision, "recall": points[0].recall}
    _finish(benchmark.score(found[0], truth), about, json_file, save, differences, compare or "", data, figures)


@evaluate.command("fddb")
@_model
@click.option("--data", type=FOLDER, metavar="DIR", required=True, help="Folder of FDDB-folds and the pictures.")
@click.option(
    "--protocol", default="vga", show_default=True, metavar="vga|original|1600|N", help="Size of the pictures."
)
@_json
@_save
@_device
@_threads
@_batch
def evaluate_fddb(
    model: str,
    data: Path,
    protocol: str,
    json_file: str | None,
    save: Path | None,
    device: str,
    threads: int | None,
    batch: int,
) -> None:
    """Measure a detector on FDDB: the discrete ROC, true-positive rate by the number of false positives."""
    from nnface.evaluation.protocol import Measured, parse_protocol

    chosen = parse_protocol(protocol)
    _check(json_file, save)
    truth = fddb_data.read_truth(data)
    pictures = fddb_data.find_pictures(data, list(truth))
    detector = Measured(model, chosen, device, threads)
    found = _found(detector, pictures, batch)
    roc = fddb_benchmark.score(found, truth)
    about = {"model": model, "protocol": detector.name, "device": detector.device, "data": str(data)}
    if json_file != "-":
        fddb_benchmark.rates_table(roc, detector.name).show()
    _write_json(json_file, fddb_benchmark.rates_json(roc))
    if save is not None:
        fddb_benchmark.save(roc, save, about)


@evaluate.command("fairface")
@click.option("--model", default="attributes", show_default=True, help="A classifier: a file, or a name of the zoo.")
@click.option("--data", type=FOLDER, metavar="DIR", required=True, help="FairFace's folder, of either padding.")
@click.option("--part", type=click.Choice(["val", "train"]), default="val", show_default=True, help="Which pictures.")
@click.option(
    "--crop",
    type=click.Choice(["none", "faces"]),
    default="none",
    show_default=True,
    help="none: the pictures are chips (padding 0.25); faces: find and align the face in the middle (padding 1.25).",
)
@click.option("--detector", default="default", show_default=True, help="What finds the faces, with --crop faces.")
@click.option("--compare", metavar="MODEL", help="Another classifier: print by how much --model is better, paired.")
@_json
@_save
@_device
@_threads
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Faces at once.")
def evaluate_fairface(
    model: str,
    data: Path,
    part: Literal["val", "train"],
    crop: str,
    detector: str,
    compare: str | None,
    json_file: str | None,
    save: Path | None,
    device: str,
    threads: int | None,
    batch: int,
) -> None:
    """Measure a classifier on FairFace: accuracy, and for whom it fails."""
    from nnface.commands.output import progress
    from nnface.evaluation import fairface as attributes
    from nnface.evaluation import fairness_report
    from nnface.predict.classifier import Classifier
    from nnface.predict.detector import Detector

    if crop != "faces":
        refuse_idle("detector", "finds the faces with --crop faces; give that too")
    _check(json_file, save)
    classifier = Classifier(model, device=device, threads=threads, batch=batch)
    finder = Detector(detector, device=device, threads=threads) if crop == "faces" else None
    faces = fairface_data.read(data, part)
    samples = attributes.fitting(classifier, faces)
    found = []
    with progress("faces", len(samples)) as done:
        for item in attributes.run(classifier, samples, finder):
            found.append(item)
            done()
    result = attributes.score(classifier.meaning, found)
    gains = differences = None
    if compare is not None:
        other = Classifier(compare, device=device, threads=threads, batch=batch)
        others = list(attributes.run(other, attributes.fitting(other, faces), finder))
        gains = attributes.compare(classifier.meaning, found, other.meaning, others)
        differences = fairness_report.differences_table(gains, compare)
    about = {"model": model, "data": f"{data}, {part}", "crop": crop, "device": device}
    if crop == "faces":
        about["detector"] = detector
    if json_file != "-":
        fairness_report.figures_table(result).show()
        fairness_report.certainty_table(result).show()
        if differences is not None:
            differences.show()
    _write_json(json_file, figures_json(result.figures, _rows(gains), compare or ""))
    if save is not None:
        fairness_report.save(result, save, about, differences)


@evaluate.command("utkface")
@click.option("--model", default="attributes", show_default=True, help="A classifier: a file, or a name of the zoo.")
@click.option("--data", type=FOLDER, metavar="DIR", required=True, help="Folder of AGE_GENDER_RACE_DATE.jpg pictures.")
@click.option(
    "--crop",
    type=click.Choice(["faces", "none"]),
    default="faces",
    show_default=True,
    help="faces: find and align the face in the middle; none: the pictures are chips as FairFace's.",
)
@click.option("--detector", default="default", show_default=True, help="What finds the faces, with --crop faces.")
@_json
@_save
@_device
@_threads
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Faces at once.")
def evaluate_utkface(
    model: str,
    data: Path,
    crop: str,
    detector: str,
    json_file: str | None,
    save: Path | None,
    device: str,
    threads: int | None,
    batch: int,
) -> None:
    """Measure a classifier on UTKFace: years become FairFace's bins, and races the four that both know.

    Its "others" have no race here; a model of seven races answers with the sum of its two Asian ones, and without
    Latino_Hispanic and Middle Eastern.
    """
    from nnface.commands.output import progress, say
    from nnface.datasets import utkface
    from nnface.evaluation import fairface as attributes
    from nnface.evaluation import fairness_report
    from nnface.predict.classifier import Classifier
    from nnface.predict.detector import Detector

    if crop != "faces":
        refuse_idle("detector", "finds the faces with --crop faces; give that too")
    _check(json_file, save)
    classifier = Classifier(model, device=device, threads=threads, batch=batch)
    attributes.check_heads(classifier)
    finder = Detector(detector, device=device, threads=threads) if crop == "faces" else None
    samples, left_out = utkface.read(data)
    if left_out:
        say(f"{len(left_out)} pictures whose names lack a label were left out, the first {left_out[0]}")
    found = []
    with progress("faces", len(samples)) as done:
        for item in attributes.run(classifier, samples, finder):
            found.append(item)
            done()
    result = attributes.score(*attributes.joined_races(classifier.meaning, found))
    if json_file != "-":
        fairness_report.figures_table(result, "UTKFace").show()
        fairness_report.certainty_table(result).show()
    _write_json(json_file, figures_json(result.figures))
    if save is not None:
        about = {"model": model, "data": str(data), "crop": crop, "device": device}
        fairness_report.save(result, save, about | ({"detector": detector} if finder else {}), name="UTKFace")


@evaluate.command("celebamask")
@click.option("--model", default="parser", show_default=True, help="A parser: a file, or a name of the zoo.")
@click.option("--data", type=FOLDER, metavar="DIR", required=True, help="A prepared folder: images/, masks/, lists.")
@click.option(
    "--part",
    type=click.Choice(["train", "val", "test", "holdout"]),
    default="test",
    show_default=True,
    help="Which portraits: those of DATA/PART.txt; all of a folder that has no lists.",
)
@click.option("--list", "list_file", type=FOLDER, metavar="FILE", help="These portraits instead: a name a line.")
@click.option("--compare", metavar="MODEL", help="Another parser: print by how much --model is better, paired.")
@_json
@_save
@_device
@_threads
def evaluate_celebamask(
    model: str,
    data: Path,
    part: str,
    list_file: Path | None,
    compare: str | None,
    json_file: str | None,
    save: Path | None,
    device: str,
    threads: int | None,
) -> None:
    """Measure a parser on CelebAMask-HQ: F1 and IoU of each part, over the pixels of the set, at 512 pixels.

    The pictures are portraits, labelled as they are, and scored at a long side of 512 whatever the network's input is.
    """
    from nnface.commands.output import progress
    from nnface.datasets import celebamask as portraits
    from nnface.evaluation import celebamask as parsers
    from nnface.predict.segmenter import Segmenter

    _check(json_file, save)
    samples = portraits.read(data, part, [] if list_file is None else [list_file])

    def measured(name: str) -> tuple[parsers.Parse, parsers.Result]:
        segmenter = Segmenter(name, device=device, threads=threads)
        found = []
        with progress("portraits", len(samples)) as done:
            for item in parsers.run(segmenter.labels, samples):
                found.append(item)
                done()
        return segmenter.labels, parsers.score(found)

    parse, result = measured(model)
    gains = differences = None
    if compare is not None:
        gains = parsers.compare(result, measured(compare)[1])
        differences = parsers.differences_table(gains, compare)
    if json_file != "-":
        parsers.figures_table(result).show()
        parsers.parts_table(result).show()
        if differences is not None:
            differences.show()
    _write_json(json_file, figures_json(result.figures, _rows(gains), compare or ""))
    if save is not None:
        about = {"model": model, "data": f"{data}, {list_file or part}", "device": device}
        parsers.save(result, save, about, samples, parse, differences)


def _truth(folder: Path, list_file: Path | None) -> Truth:
    truth = read_truth(folder)
    return truth if list_file is None else choose(truth, read_list(list_file), list_file)


def _found(
    detector: benchmark.Detect, pictures: Mapping[str, Path], batch: int, predictions: Path | None = None
) -> dict[str, Prediction]:
    """What a detector finds in each picture, by its key; each is written to the folder ``predictions`` at once."""
    from nnface.commands.output import progress

    found = {}
    with progress("pictures", len(pictures)) as done:
        for key, prediction in benchmark.run(detector, pictures, batch):
            found[key] = prediction
            if predictions is not None:
                write_predictions(predictions, {key: prediction})
            done()
    return found


def _finish(
    result: benchmark.Result,
    about: dict[str, str],
    json_file: str | None,
    save: Path | None,
    differences: Mapping[str, tuple[float, float, float]] | None = None,
    other: str = "",
    title: str = "WIDER FACE",
    more: Mapping[str, float] | None = None,
) -> None:
    table = None if differences is None else benchmark.differences_table(differences, other)
    if json_file != "-":
        benchmark.figures_table(result, about["protocol"], title).show()
        if result.heights:
            benchmark.heights_table(result).show()
        if table is not None:
            table.show()
    _write_json(json_file, figures_json({**result.figures, **(more or {})}, differences, other))
    if save is not None:
        benchmark.save(result, save, about, table, title)


def _rows(
    gains: Mapping[str, tuple[float, tuple[float, float]]] | None,
) -> Mapping[str, tuple[float, float, float]] | None:
    return None if gains is None else {name: (gain, *bounds) for name, (gain, bounds) in gains.items()}


def _write_json(target: str | None, text: str) -> None:
    if target == "-":
        click.echo(text, nl=False)
    elif target is not None:
        write_atomic(target, text)


def _check(json_file: str | None, save: Path | None) -> None:
    """Before hours of work: can the result be written?"""
    if save is not None:
        require()
        make_folder(save)
    if json_file is not None and json_file != "-":
        require_place(json_file)
