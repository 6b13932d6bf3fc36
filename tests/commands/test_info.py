"""info: layers, bound methods and explainers of a model, before work starts."""

from xcertify.commands import main


def test_layers_methods_and_explainers_are_listed(folder, capsys):
    assert main(["info", "table.keras", "--seconds", "0.1"]) == 0
    shown = capsys.readouterr().out
    for word in ("hidden", "crown", "SufficientReason", "Saliency"):
        assert word in shown


def test_errors_say_what_is_wrong(folder, error_of):
    assert "info needs MODEL" in error_of("info")
    assert "no such file: none.keras" in error_of("info", "none.keras")
    assert "digits.npy" in error_of("info", "digits.npy")
    message = error_of("info", "table.keras", "--input", "digits.npy", "--seconds", "0.1")
    assert "(5,)" in message or "shape" in message
