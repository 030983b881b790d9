"""Generated face chips in FairFace's layout: what is to be told is in the colours, so that it can be learnt."""

import csv
from pathlib import Path

import cv2
import numpy as np

from generated import draw_face
from nnface.spec import FAIRFACE_HEADS

HEADER = ["file", "age", "gender", "race", "service_test"]


def chip(labels: dict[str, int], rng: np.random.Generator, side: int = 64) -> np.ndarray:
    """A drawn face whose background tells gender (blue or red) and age (brightness), and a bar the race."""
    image = np.zeros((side, side, 3), np.uint8)
    image[..., 0 if labels["gender"] else 2] = 60 + 20 * labels["age"]
    draw_face(image, (side // 5, side // 5, 3 * side // 5, 3 * side // 5), rng)
    bar = side * (labels["race"] + 1) // 8
    image[-side // 8 :, :bar, 1] = 255
    return image


def fairface(root: Path, train: int = 60, val: int = 24, seed: int = 0) -> Path:
    """A data set in FairFace's layout."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("val", val)):
        (root / part).mkdir(parents=True)
        rows = []
        for number in range(1, count + 1):
            labels = {head: int(rng.integers(len(options))) for head, options in FAIRFACE_HEADS.items()}
            cv2.imwrite(str(root / part / f"{number}.jpg"), chip(labels, rng))
            words = {head: FAIRFACE_HEADS[head][k] for head, k in labels.items()}
            rows.append([f"{part}/{number}.jpg", words["age"], words["gender"], words["race"], "True"])
        write_labels(root, part, rows)
    return root


def write_labels(root: Path, part: str, rows: list[list[str]], header: list[str] = HEADER) -> Path:
    """A label file of these rows."""
    path = root / f"fairface_label_{part}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path
