import pytest

from ml.expressions import EXPRESSIONS, SYNONYMS, expression_index


def test_every_expression_knows_its_own_place() -> None:
    assert [expression_index(name) for name in EXPRESSIONS] == list(range(8))


def test_every_synonym_leads_to_an_expression() -> None:
    assert all(EXPRESSIONS[expression_index(word)] == name for word, name in SYNONYMS.items())


def test_case_and_surrounding_space_do_not_matter() -> None:
    assert EXPRESSIONS[expression_index(" Happy ")] == "happiness"


def test_an_unknown_word_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'smirk': known are anger, contempt, .*neutral"):
        expression_index("smirk")
