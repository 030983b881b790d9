"""How often detectors take an animal for a face: pictures of cats and dogs without people, ours and other projects'.

    python benchmarks/animals.py --pictures DIR --out results/animals.json \
        --peer yunet_n:640:0.6 --model default --model fast

The pictures are a sample of the Oxford-IIIT pets (Parkhi et al., CVPR 2012; CC BY-SA 4.0): ``sample_images`` of the
repository LTSACH/AILearningHub, ten of each of 37 breeds; none was trained on. Eight in which a person's face is to be
seen are left out. A picture counts where a box of more than 24 pixels in height has the score from which the detector
reports: our Spec's, a peer's as its own project sets it, ``NAME:SIZE:SCORE``.
"""

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from peers import load

from nnface import Detector
from nnface.errors import NnfaceError
from nnface.files import write_atomic
from nnface.image import Pixels, read
from nnface.metrics.fairness import wilson
from nnface.metrics.operating_point import SMALLEST
from nnface.metrics.wider import Prediction

ROOT = Path(__file__).resolve().parents[1]
PEOPLE = {
    "Maine_Coon_119",
    "american_pit_bull_terrier_156",
    "chihuahua_109",
    "leonberger_123",
    "leonberger_167",
    "samoyed_151",
    "scottish_terrier_109",
    "shiba_inu_162",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of the sample")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", type=Path, default=ROOT / "../shared/peers", help="the folder with peers.py")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME:SIZE:SCORE")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="ours")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    paths = sorted(path for path in options.pictures.rglob("*.jpg") if path.stem not in PEOPLE)
    if not paths:
        raise NnfaceError(f"{options.pictures} holds no .jpg; give the folder sample_images")
    images = [read(path) for path in paths]
    detectors = [_ours(name) for name in options.model] + [_peer(options.peers, text) for text in options.peer]
    rows = []
    for name, score, detect in detectors:
        taken = sum(_reports(detect(image), score) for image in images)
        low, high = wilson(taken, len(images))
        share = round(100 * taken / len(images), 1)
        bounds = [round(100 * low, 1), round(100 * high, 1)]
        rows.append({"detector": name, "score": score, "taken": share, "intervals": {"taken": bounds}})
        print(f"{name}  from {score}: a face on {taken} of {len(images)}", flush=True)
    given = " ".join([f"--peer {text}" for text in options.peer] + [f"--model {text}" for text in options.model])
    report = {
        "what": f"{len(images)} pictures of cats and dogs without people's faces (Oxford-IIIT pets, a sample)",
        "command": f"python benchmarks/animals.py --pictures DIR {given}",
        "pictures": len(images),
        "date": datetime.now(UTC).date().isoformat(),
        "rows": rows,
    }
    write_atomic(options.out, json.dumps(report, indent=1) + "\n")


def _reports(found: Prediction, least: float) -> bool:
    boxes, scores = (np.asarray(part) for part in found)
    boxes = boxes.reshape(-1, 4)
    return bool(((scores >= least) & (boxes[:, 3] - boxes[:, 1] > SMALLEST)).any())


def _ours(name: str) -> tuple[str, float, Callable[[Pixels], Prediction]]:
    detector = Detector(name, threads=1)

    def detect(image: Pixels) -> Prediction:
        faces = detector(image)
        return faces.boxes, np.asarray(faces.scores)

    return f"nnface {name}, long side {detector.spec.input.size}", detector.min_score, detect


def _peer(folder: Path, text: str) -> tuple[str, float, Callable[[Pixels], Prediction]]:
    name, size, score = text.split(":")
    detect = load(folder).create(name, int(size), float(score) - 1e-6)
    return f"{name}, long side {size}", float(score), lambda image: detect(image)[:2]


if __name__ == "__main__":
    main()
