import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.expressions import EXPRESSIONS
from ml.metrics import (
    Coverage,
    coverage_at,
    evaluate_own_classes,
    evaluate_predictions,
    expected_calibration_error,
    format_metrics,
    interval_over_people,
    metrics_of,
    paired_test,
    reliability,
    share_interval,
    summarise_folds,
)

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


def test_folds_are_pooled_by_adding_their_confusion_matrices() -> None:
    other = evaluate_predictions([ANGER, FEAR], sure_of([FEAR, FEAR]))

    pooled = metrics_of(METRICS.confusion + other.confusion)

    together = evaluate_predictions([*LABELS, ANGER, FEAR], sure_of([*PREDICTED, FEAR, FEAR]))
    assert pooled.to_dict() == together.to_dict()
    assert pooled.accuracy == pytest.approx(4 / 7)
    assert pooled.per_class[FEAR].precision == pytest.approx(1 / 3)  # one of the three taken for fear
    assert pooled.per_class[ANGER].recall == pytest.approx(2 / 4)


@pytest.mark.parametrize("confusion", [np.zeros((8, 8)), np.ones((7, 7))])
def test_a_confusion_matrix_without_counts_or_of_another_size_is_refused(
    confusion: NDArray[np.int64],
) -> None:
    with pytest.raises(ValueError, match="is not one \\(8, 8\\) with counts"):
        metrics_of(confusion)


def test_folds_have_a_mean_a_sample_deviation_and_an_interval_by_t() -> None:
    summary = summarise_folds([0.5, 0.6, 0.7])

    assert (summary.folds, summary.mean, summary.deviation) == pytest.approx((3, 0.6, 0.1))
    # The 97.5 % quantile of t with two degrees of freedom, in closed form: 0.95 · sqrt(2 / 0.0975) = 4.3027.
    reach = 0.95 * (2 / 0.0975) ** 0.5 * 0.1 / 3**0.5
    assert summary.interval == pytest.approx((0.6 - reach, 0.6 + reach))


def test_the_old_readmes_jaffe_folds_have_the_mean_it_gave() -> None:
    jaffe = [0.850, 0.895, 1.0, 1.0, 1.0, 0.444, 0.529, 0.778, 0.833, 0.895]

    summary = summarise_folds(jaffe)

    assert summary.mean == pytest.approx(0.8224)
    assert summary.interval == pytest.approx((0.6839, 0.9609), abs=1e-4)


def test_an_interval_stays_within_what_a_share_can_be() -> None:
    assert summarise_folds([0.9, 0.99, 1.0]).interval == pytest.approx((0.8265, 1.0), abs=1e-4)
    assert summarise_folds([0.0, 0.1]).interval == pytest.approx((0.0, 0.05 + 12.7062 * 0.05), abs=1e-4)


def test_a_single_fold_has_neither_deviation_nor_interval() -> None:
    summary = summarise_folds([0.9])

    assert (summary.folds, summary.mean, summary.deviation, summary.interval) == (1, 0.9, None, None)


@pytest.mark.parametrize("shares", [[], [0.5, np.nan], [[0.5, 0.6]]])
def test_folds_without_a_number_each_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="one finite number a fold"):
        summarise_folds(shares)


def test_two_runs_are_compared_fold_by_fold() -> None:
    test = paired_test([0.8, 0.9, 1.0], [0.7, 0.7, 0.7])  # better by 0.1, 0.2 and 0.3

    assert (test.folds, test.difference, test.deviation) == pytest.approx((3, 0.2, 0.1))
    error = 0.1 * (1 / 3 + 1 / 2) ** 0.5  # of three folds each two thirds train and one third tests
    t = 0.2 / error
    assert test.t_p == pytest.approx(1 - t / (t**2 + 2) ** 0.5)  # closed form for two degrees of freedom
    assert test.wilcoxon_p == pytest.approx(2 / 8)  # all of one sign: two of the eight ways to sign them
    reach = 0.95 * (2 / 0.0975) ** 0.5 * error
    assert test.interval == pytest.approx((0.2 - reach, 0.2 + reach))
    # The same three of ten folds: nine tenths train, so they share more and each tests on less.
    of_ten = paired_test([0.8, 0.9, 1.0], [0.7, 0.7, 0.7], parts=10)
    assert of_ten.t_p is not None
    assert of_ten.t_p < (test.t_p or 0)


def test_the_sign_of_a_difference_says_which_run_is_better_and_nothing_else_changes() -> None:
    better, worse = [0.8, 0.9, 1.0, 0.7], [0.7, 0.8, 0.8, 0.75]

    forth, back = paired_test(better, worse), paired_test(worse, better)

    assert (forth.difference, back.difference) == pytest.approx((0.0875, -0.0875))
    # Ranks 1, 2.5, 2.5 and 4, the lowest against: four of the sixteen signings are as lopsided.
    assert forth.wilcoxon_p == back.wilcoxon_p == pytest.approx(4 / 16)
    assert forth.t_p == pytest.approx(back.t_p)


def test_differences_that_rounding_alone_tells_apart_are_ties() -> None:
    assert np.ptp(np.array([0.1, 0.2, 0.3]) - np.array([0.0, 0.1, 0.2])) > 0

    assert paired_test([0.1, 0.2, 0.3], [0.0, 0.1, 0.2]).t_p is None
    # Whatever the number of folds: not a rounding error that would pass for a difference.
    for folds in range(2, 11):
        level = np.arange(folds) / 20
        same = paired_test(level + 0.1, level)
        assert (same.deviation, same.t_p) == (0, None), folds


def test_no_p_value_is_made_up_where_there_is_nothing_to_test() -> None:
    alike = paired_test([0.9, 0.8], [0.9, 0.8])
    assert (alike.difference, alike.interval, alike.t_p, alike.wilcoxon_p) == (0, (0, 0), None, None)

    shifted = paired_test([0.9, 0.8, 0.7], [0.7, 0.6, 0.5])
    assert shifted.t_p is None
    assert shifted.wilcoxon_p == pytest.approx(2 / 8)

    single = paired_test([0.9], [0.7])
    assert single.difference == pytest.approx(0.2)
    assert (single.deviation, single.interval, single.t_p, single.wilcoxon_p) == (None, None, None, None)


def test_runs_with_unequal_numbers_of_folds_do_not_pair_up() -> None:
    with pytest.raises(ValueError, match="2 and 1 folds do not pair up"):
        paired_test([0.9, 0.8], [0.9])


def test_among_its_own_classes_a_set_is_not_asked_for_others() -> None:
    probabilities = np.zeros((2, 8))
    probabilities[0, [NEUTRAL, ANGER, HAPPINESS]] = 0.5, 0.3, 0.2  # neutral, which the set does not show
    probabilities[1, [NEUTRAL, ANGER, HAPPINESS]] = 0.6, 0.1, 0.3
    labels = [ANGER, HAPPINESS]
    assert evaluate_predictions(labels, probabilities).accuracy == 0
    assert evaluate_own_classes(labels, probabilities, [ANGER, HAPPINESS]).accuracy == 1
    logits = np.log(probabilities + 1e-9)
    assert evaluate_own_classes(labels, logits, [ANGER, HAPPINESS]).accuracy == 1
    # A part without a face of one class: the set has it all the same.
    assert evaluate_own_classes([ANGER], probabilities[:1], [ANGER, NEUTRAL]).accuracy == 0


def test_people_are_what_an_interval_counts() -> None:
    """A ratio of sums over people, by hand: 3 of 4, 1 of 2 and 0 of 2 faces right."""
    labels = np.full(8, ANGER)
    right = [1, 1, 1, 0, 1, 0, 0, 0]
    said = np.eye(8)[[ANGER if one else FEAR for one in right]]
    people = ["a"] * 4 + ["b"] * 2 + ["c"] * 2
    around = np.array([3 - 0.5 * 4, 1 - 0.5 * 2, 0 - 0.5 * 2])
    error = (3 / 2 * (around**2).sum()) ** 0.5 / 8
    low, high = interval_over_people(labels, said, [ANGER, FEAR], people) or (0, 0)
    assert low == max(0.5 - 4.302653 * error, 0)
    assert high == pytest.approx(min(0.5 + 4.302653 * error, 1))
    # As many people as faces: as if independent. A person twice as often is no further person.
    apart = interval_over_people(labels, said, [ANGER, FEAR], [str(number) for number in range(8)])
    twice = interval_over_people([*labels] * 2, [*said] * 2, [ANGER, FEAR], [*map(str, range(8))] * 2)
    assert apart is not None
    assert twice == pytest.approx(apart)
    assert apart[0] > 0
    assert interval_over_people(labels, said, [ANGER, FEAR], ["a"] * 8) is None
    assert interval_over_people(labels, np.eye(8)[labels], [ANGER, FEAR], people) is None
    assert interval_over_people(labels, said, [ANGER], people) is None, "no answer but the right one"
    two_of_three = np.eye(8)[[ANGER, ANGER, FEAR] * 10]
    everybody = [str(number) for number in range(10) for _ in range(3)]
    assert interval_over_people([ANGER] * 30, two_of_three, [ANGER, FEAR], everybody) is None


def test_each_expression_is_as_likely_beforehand_where_shares_are_taken_out() -> None:
    """Bayes by hand: said 0.6 neutral and 0.3 anger, of faces three in four neutral and one in ten angry."""
    said, shares = np.full((1, 8), 0.0125), np.full(8, 0.025)
    said[0, [NEUTRAL, ANGER]], shares[[NEUTRAL, ANGER]] = (0.6, 0.3), (0.75, 0.1)
    assert evaluate_own_classes([ANGER], said, [ANGER, NEUTRAL]).accuracy == 0
    assert evaluate_own_classes([ANGER], said, [ANGER, NEUTRAL], shares).accuracy == 1
    assert evaluate_own_classes([ANGER], said, [ANGER, NEUTRAL], np.full(8, 1 / 8)).accuracy == 0
    # And still no answer that the set does not show, however rare.
    shares[FEAR] = 1e-6
    assert evaluate_own_classes([ANGER], said, [ANGER, NEUTRAL], shares).accuracy == 1


def test_calibration_error_weighs_the_gap_of_every_bin_by_its_faces() -> None:
    """Three answers at 0.9 of which two are right, one wrong at 0.5: |2/3 - 0.9| and |0 - 0.5|."""
    confidences = np.array([0.9, 0.9, 0.9, 0.5])
    probabilities = np.zeros((4, 8))
    probabilities[:, ANGER], probabilities[:, FEAR] = confidences, 1 - confidences
    probabilities[3, FEAR], probabilities[3, NEUTRAL] = 0.25, 0.25
    labels = [ANGER, ANGER, FEAR, FEAR]
    expected = (3 * abs(2 / 3 - 0.9) + 1 * 0.5) / 4
    assert expected_calibration_error(labels, probabilities) == pytest.approx(expected)
    bins = reliability(labels, probabilities)
    assert len(bins) == 15
    assert [(row.faces, row.accuracy) for row in bins if row.faces] == [(1, 0), (3, pytest.approx(2 / 3))]
    assert all(row.low < row.confidence <= row.high for row in bins if row.faces)


def test_coverage_counts_what_is_said_and_how_much_of_it_is_right() -> None:
    probabilities = np.zeros((4, 8))
    probabilities[:, ANGER] = [0.9, 0.8, 0.7, 0.6]
    labels = [ANGER, FEAR, ANGER, FEAR]
    said = coverage_at(labels, probabilities, 0.7)
    assert (said.threshold, said.coverage) == (0.7, 0.75)
    assert said.accuracy == pytest.approx(2 / 3)
    assert coverage_at(labels, probabilities, 0.0).coverage == 1
    assert coverage_at(labels, probabilities, 0.95) == Coverage(0.95, 0.0, None)


def test_the_interval_of_a_share_is_wilson_s() -> None:
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert share_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
