"""help and version, as words."""

from __future__ import annotations

from tests.conftest import Place


def test_words_do_what_options_do(place: Place) -> None:
    assert place.run("help").out == place.run("--help").out
    assert place.run("version").out == place.run("--version").out


def test_help_of_a_command(place: Place) -> None:
    shown = place.run("help", "import")
    assert shown.code == 0, shown.err
    assert shown.out == place.run("import", "--help").out


def test_a_command_that_there_is_not_is_an_error_with_the_nearest(place: Place) -> None:
    done = place.run("help", "pln")
    assert (done.code, done.out) == (2, "")
    assert "there is no command 'pln'" in done.err
    assert "did you mean plan?" in done.err
