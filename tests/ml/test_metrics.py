import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.expressions import EXPRESSIONS
from ml.metrics import evaluate_predictions, format_metrics

ANGER, FEAR, HAPPINESS, NEUTRAL = (EXPRESSIONS.index(n) for n in ("anger", "fear", "happiness", "neutral"))


def sure_of(predicted: Sequence[int]) -> NDArray[np.float32]:
    return np.eye(8, dtype=np.float32)[list(predicted)]


# Two of three angry faces right and the third taken for neutral; one of two happy faces taken for fear.
LABELS = [ANGER, ANGER, ANGER, HAPPINESS, HAPPINESS]
PREDICTED = [ANGER, ANGER, NEUTRAL, HAPPINESS, FEAR]
METRICS = evaluate_predictions(LABELS, sure_of(PREDICTED))


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert METRICS.accuracy == pytest.approx(3 / 5)


def test_each_class_has_precision_recall_f1_and_support() -> None:
    anger, happiness = METRICS.per_class[ANGER], METRICS.per_class[HAPPINESS]
    assert (anger.name, anger.support) == ("anger", 3)
    assert (anger.precision, anger.recall, anger.f1) == pytest.approx((1, 2 / 3, 4 / 5))
    assert (happiness.name, happiness.support) == ("happiness", 2)
    assert (happiness.precision, happiness.recall, happiness.f1) == pytest.approx((1, 1 / 2, 2 / 3))


def test_macro_f1_counts_only_classes_that_occur_in_the_labels() -> None:
    assert METRICS.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_a_class_predicted_but_never_shown_has_zeros() -> None:
    fear = METRICS.per_class[FEAR]
    assert (fear.precision, fear.recall, fear.f1, fear.support) == (0, 0, 0, 0)


def test_confusion_has_labels_as_rows_and_predictions_as_columns() -> None:
    expected = np.zeros((8, 8), int)
    expected[ANGER, ANGER] = 2
    expected[ANGER, NEUTRAL] = expected[HAPPINESS, HAPPINESS] = expected[HAPPINESS, FEAR] = 1
    np.testing.assert_array_equal(METRICS.confusion, expected)


def test_the_most_probable_expression_counts_however_narrow_its_lead() -> None:
    nearly_even = np.full((1, 8), 0.124)
    nearly_even[0, FEAR] = 0.132
    assert evaluate_predictions([FEAR], nearly_even).accuracy == 1


def test_metrics_become_json_and_keep_their_values() -> None:
    document = json.loads(json.dumps(METRICS.to_dict()))
    assert document["accuracy"] == pytest.approx(0.6)
    assert document["per_class"][ANGER]["recall"] == pytest.approx(2 / 3)
    assert document["confusion"][ANGER][NEUTRAL] == 1


@pytest.mark.parametrize(
    ("labels", "probabilities", "reason"),
    [
        ([], np.empty((0, 8)), "not \\(N,\\) and \\(N, 8\\)"),
        ([0, 1], sure_of([0]), "not \\(N,\\) and \\(N, 8\\)"),
        ([0], np.ones((1, 7)), "not \\(N,\\) and \\(N, 8\\)"),
        ([8], sure_of([0]), "from 0 to 7"),
        ([-1], sure_of([0]), "from 0 to 7"),
        ([0], np.full((1, 8), np.nan), "not a finite number"),
    ],
)
def test_arrays_that_cannot_be_compared_are_refused(
    labels: list[int], probabilities: NDArray[np.float64], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        evaluate_predictions(labels, probabilities)


def test_the_table_for_a_terminal_is_aligned_and_complete() -> None:
    summary, classes, confusion = format_metrics(METRICS).split("\n\n")
    assert summary.splitlines() == ["accuracy  0.600  (5 faces)", "macro-F1  0.733"]

    class_lines = classes.splitlines()
    assert class_lines[0].split() == ["precision", "recall", "F1", "support"]
    assert class_lines[1 + ANGER].split() == ["anger", "1.000", "0.667", "0.800", "3"]
    assert len({len(line) for line in class_lines}) == 1

    confusion_lines = confusion.splitlines()
    assert confusion_lines[0].split() == ["true", "\\", "predicted", *EXPRESSIONS]
    assert confusion_lines[1 + HAPPINESS].split() == ["happiness", *"00011000"]
    assert len({len(line) for line in confusion_lines}) == 1
