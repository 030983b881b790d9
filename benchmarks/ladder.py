"""One step of a ladder: a model beside the one before it, on the tenth of train that was kept for choosing.

    python benchmarks/ladder.py detect --data coco:wider.json --model runs/b/best.safetensors --against default \
        --step "portraits laid over crops" --cost 1.3 --command "nnface train detector-default-640 ..."

TASK is detect, attributes or parse. ``--views 1`` measures a classifier or parser at one view, whatever its Spec says.
``--data`` is what the training was given (detection: the sources of its recipe's ``evaluation``; of several detection
sources the figures are the mean over them, and there is no interval). The row goes to ``results/ladder-TASK.json``, in
place of one with the same ``--step``, and ``benchmarks/tables.py`` writes the tables; without ``--step`` it is printed
only, as when shares of a mean of weights are ranked.
The difference from ``--against`` has the 95 % interval of a bootstrap that draws the same pictures for both: where that
holds 0 the step is no difference. The tenth has a say in which checkpoint a run keeps, so its figures flatter a little;
the hold-out has none.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nnface import Classifier, Segmenter
from nnface.datasets.samples import DetectionSample, split
from nnface.evaluation import celebamask, fairface, widerface
from nnface.evaluation.protocol import Measured, parse_protocol
from nnface.files import write_atomic
from nnface.metrics import wider
from nnface.metrics.fairness import accuracy
from nnface.training.start import read_chips, read_portraits, read_sources

RESULTS = Path(__file__).resolve().parents[1] / "results"
Figures = dict[str, float]
Differences = dict[str, tuple[float, float, float]]


class Asked(NamedTuple):
    """How the models see what they are measured on."""

    protocol: str
    """Of a detector, as ``nnface evaluate widerface --protocol``."""
    views: Any
    """Of a chip or portrait; None: as each model's Spec says."""


def chosen(sources: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The tenth of each source that trainings never see."""
    return [sample for samples in sources.values() for sample in split(samples)[1]]


def detect(data: Sequence[str], model: str, against: str | None, asked: Asked) -> tuple[Figures, Differences]:
    """Average precision by face height, at a long side."""
    if len(sources := read_sources(data)) > 1:
        each = [detect_in(samples, model, None, asked)[0] for samples in sources.values()]
        figures = {name: sum(row[name] for row in each) / len(each) for name in each[0]}
        return figures | {"mean": sum(figures.values()) / len(figures)}, {}
    (samples,) = sources.values()
    return detect_in(samples, model, against, asked)


def detect_in(
    source: Sequence[DetectionSample], model: str, against: str | None, asked: Asked
) -> tuple[Figures, Differences]:
    """The same for the tenth of one source."""
    samples = {str(number): sample for number, sample in enumerate(split(source)[1])}
    truth = wider.by_height({k: s.boxes for k, s in samples.items()}, {k: s.ignored for k, s in samples.items()})
    pictures = {k: s.path for k, s in samples.items()}

    def predictions(name: str) -> dict[str, wider.Prediction]:
        return dict(widerface.run(Measured(name, parse_protocol(asked.protocol)), pictures, 8))

    found = predictions(model)
    figures = dict(widerface.score(found, truth, details=False).figures)
    return figures, {} if against is None else widerface.compare(found, predictions(against), truth)


def attributes(data: Sequence[str], model: str, against: str | None, asked: Asked) -> tuple[Figures, Differences]:
    """Accuracy of each head, and of race for the race that fares worst."""
    samples = chosen(read_chips(data))

    def told(name: str) -> tuple[Any, list[Any]]:
        classifier = Classifier(name, views=asked.views)
        return classifier.meaning, list(fairface.run(classifier, samples))

    meaning, found = told(model)
    labels, logits, _there = fairface.gather(meaning, found)
    answers = {head: logits[head].argmax(1) for head in meaning.heads}
    figures = {head: accuracy(labels[head], answers[head]).value for head in meaning.heads}
    races = range(len(meaning.heads["race"]))
    figures["worst race"] = min(float((answers["race"] == k)[labels["race"] == k].mean()) for k in races)
    if against is None:
        return figures, {}
    gains = fairface.compare(meaning, found, *told(against))
    return figures, {head: (gains[head][0], *gains[head][1]) for head in meaning.heads}


def parse(data: Sequence[str], model: str, against: str | None, asked: Asked) -> tuple[Figures, Differences]:
    """F1 over the 14 frequent parts and over all 18."""
    samples = chosen(read_portraits(data))

    def measured(name: str) -> celebamask.Result:
        return celebamask.evaluate(Segmenter(name, views=asked.views).labels, samples)

    result = measured(model)
    gains = {} if against is None else celebamask.compare(result, measured(against))
    return dict(result.figures), {name: (gain, *bounds) for name, (gain, bounds) in gains.items()}


def main() -> None:
    tasks = {"detect": detect, "attributes": attributes, "parse": parse}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--data", action="append", required=True, metavar="KIND:PATH")
    parser.add_argument("--model", required=True)
    parser.add_argument("--against", help="the model of the step before")
    parser.add_argument("--protocol", default="vga", help="of a detector")
    parser.add_argument("--views", type=int, choices=(1, 2, 4), help="of chips or portraits; else as each Spec says")
    parser.add_argument("--step", help="what was changed, in words; without it nothing is written")
    parser.add_argument("--cost", type=float, help="CPU-hours of this step's training")
    parser.add_argument("--command", help="that trains it")
    options = parser.parse_args()
    if options.task == "detect" and options.views:
        parser.error("--views is of classifiers and parsers")
    if options.step and (options.cost is None or options.command is None):
        parser.error("--step needs --cost and --command, for a row says what it took")
    if options.against and options.task == "detect" and len(options.data) > 1:
        parser.error("--against takes one --data: there is no interval over several sources")
    asked = Asked(options.protocol, options.views)
    figures, differences = tasks[options.task](options.data, options.model, options.against, asked)
    if not options.step:
        print(json.dumps({name: round(100 * value, 2) for name, value in figures.items()}))
        return
    path = RESULTS / f"ladder-{options.task}.json"
    rows = json.loads(path.read_text("utf-8"))["rows"] if path.is_file() else []
    row = {
        "step": options.step,
        "figures": {name: round(100 * value, 2) for name, value in figures.items()},
        "differences": {name: [round(100 * v, 2) for v in values] for name, values in differences.items()},
        "cpu_hours": options.cost,
        "command": options.command,
        **({"protocol": options.protocol} if options.task == "detect" else {}),
        **({"views": options.views} if options.views else {}),
    }
    rows = [row if old["step"] == options.step else old for old in rows]
    rows += [row] if row not in rows else []
    write_atomic(path, json.dumps({"rows": rows}, indent=1) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
