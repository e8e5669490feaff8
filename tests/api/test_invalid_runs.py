"""Each file of tests/data/invalid holds one mistake and, in its leading comments, what must be said of it."""

from pathlib import Path

import pytest

from trainyard_api.problems import InvalidRunError
from trainyard_api.validation import load_run_file

FOLDER = Path(__file__).parents[1] / "data" / "invalid"
HEADING = "# Problems:"


def expected_problems(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == HEADING
    comments = []
    for line in lines[1:]:
        if not line.startswith("# "):
            break
        comments.append(line[2:])
    return "\n".join(comments)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_invalid_run_is_refused_with_all_its_problems_and_remedies(path):
    with pytest.raises(InvalidRunError) as raised:
        load_run_file(path)
    assert "\n".join(str(problem) for problem in raised.value.problems) == expected_problems(path)


def test_the_folder_covers_every_class_of_mistake():
    assert len(list(FOLDER.glob("*.yaml"))) >= 70
