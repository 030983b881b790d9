"""What the documents say is true: the README's commands run, the links lead somewhere, the tables are the data's."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import generated
from nnface import zoo
from processes import ENVIRONMENT
from test_evaluate_widerface import PICTURES, write_truth
from tiny_models import squares

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*.md")])

# What turns the recipe's days into a second; the command itself stays as it stands in the README.
SHORT = [
    "loop.steps=2",
    "loop.batch=2",
    "loop.workers=0",
    "loop.evaluate_every=2",
    "crops.size=64",
    "schedule.warmup=0",
]

NEEDS_WEIGHTS = pytest.mark.skipif(not zoo.entries(), reason="this tree has no bundled weights")
SECTIONS = [
    pytest.param(["nnface"], marks=NEEDS_WEIGHTS),  # the first screen
    pytest.param(["Find faces"], marks=NEEDS_WEIGHTS),
    pytest.param(["Parts, colours, blurring"], marks=NEEDS_WEIGHTS),
    pytest.param(["Perceived attributes"], marks=NEEDS_WEIGHTS),
    pytest.param(["Train", "Evaluate"]),
    pytest.param(["Import and export"]),
]


def blocks(language: str) -> dict[str, list[str]]:
    """The fenced blocks in a language, by the heading that they stand under."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^(?=#+ )", README, flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0].lstrip("# ")
        if texts := re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            found[heading] = texts
    return found


def commands(block: str) -> list[list[str]]:
    """The words of each line; comments are left out."""
    return [shlex.split(line, comments=True) for line in block.splitlines() if line.strip()]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what the README's commands speak of, small and generated."""
    (tmp_path / "photos").mkdir()
    shutil.copy(ROOT / "examples/nasa_sts106_crew.jpg", tmp_path / "team.jpg")
    shutil.copy(ROOT / "examples/nasa_sts106_crew.jpg", tmp_path / "photos/crew.jpg")
    shutil.copy(ROOT / "examples/coffee.jpg", tmp_path / "photos/coffee.jpg")
    (tmp_path / "chips").mkdir()
    astronaut = cv2.imread(str(ROOT / "examples/astronaut.jpg"))
    cv2.imwrite(str(tmp_path / "chips/astronaut.png"), astronaut[40:200, 145:305])
    data = generated.widerface(tmp_path / "data/widerface", pictures=6)
    write_truth(data / "ground_truth")
    for key, faces in PICTURES.items():
        path = data / f"WIDER_val/images/{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), squares(320, 256, *faces, side=32))
    for part in ("images/val", "labels/val"):
        (tmp_path / "own" / part).mkdir(parents=True)
    shutil.copy(ROOT / "examples/astronaut.jpg", tmp_path / "own/images/val")
    (tmp_path / "own/labels/val/astronaut.txt").write_text("0 0.44 0.23 0.2 0.28\n")
    return tmp_path


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run it with the README's ``nnface``, which is the one beside this Python."""
    environment = ENVIRONMENT | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done


@pytest.mark.parametrize("headings", SECTIONS, ids=lambda headings: "-".join(headings).replace(" ", "_").lower())
def test_the_commands_run(place: Path, headings: list[str]) -> None:
    if "Import and export" in headings:
        torch = pytest.importorskip("torch")
        from nnface.models.create import create

        torch.save(create("retinaface-mobilenet025").state_dict(), place / "mobilenet0.25_Final.pth")
    for heading in headings:
        for block in blocks("sh").get(heading, []):
            for command in commands(block):
                if command[:2] == ["nnface", "train"]:
                    command += [word for setting in SHORT for word in ("--set", setting)]
                run(command, place)
        for block in blocks("python").get(heading, []):
            assert run([sys.executable, "-c", block], place).stdout
    if "Find faces" in headings:
        rows = [json.loads(line) for line in (place / "faces.jsonl").read_text("utf-8").splitlines()]
        assert [(row["file"], len(row["faces"])) for row in rows] == [("photos/coffee.jpg", 0), ("photos/crew.jpg", 7)]
        assert sorted(path.name for path in (place / "marked").iterdir()) == ["coffee.faces.jpg", "crew.faces.jpg"]
    if "Evaluate" in headings:
        assert set(json.loads((place / "score.json").read_text("utf-8"))) == {"easy", "medium", "hard"}


def test_no_command_is_left_out() -> None:
    run_here = {heading for section in SECTIONS for heading in section.values[0]}  # type: ignore[attr-defined]
    assert set(blocks("sh")) | set(blocks("python")) == run_here
    assert all(command[0] == "nnface" for texts in blocks("sh").values() for t in texts for command in commands(t))


def test_two_commands_set_up() -> None:
    first = re.search(r"(?:^    .*\n)+", README, re.MULTILINE)
    assert first is not None
    assert [line.split("#")[0].split() for line in first[0].splitlines()] == [["make", "demo"], ["make", "test"]]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {"demo", "test", "test-slow", "develop", "lint"} <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "http://", "#")):
            assert (document.parent / target.split("#")[0]).exists(), f"{document}: {target}"


def test_the_tables_are_made_from_the_results() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/tables.py", "--check"], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run python benchmarks/tables.py"
    assert "<!-- table: widerface-holdout -->" in README


def test_every_photograph_has_its_credit() -> None:
    credits = (ROOT / "examples/CREDITS.md").read_text("utf-8")
    pictures = list((ROOT / "examples").glob("*.jpg"))
    assert all(f"`{path.name}`" in credits for path in pictures)
    assert len(re.findall(r"^\| `", credits, re.MULTILINE)) == len(pictures) > 5
    assert sum(path.stat().st_size for path in pictures) < 2.5e6
