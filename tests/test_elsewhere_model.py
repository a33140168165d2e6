"""Models of label maps made elsewhere: known programs, tables of labels, and half a network."""

from __future__ import annotations

import json

import pytest

from cohortvol import cli
from cohortvol.errors import ConfigError, ModelError, TableError
from cohortvol.models.card import choose_profile, load_card, segmentation_key
from cohortvol.models.label_table import read_labels
from cohortvol.stages import segment
from cohortvol.tools.doctor import model as of_model
from elsewhere_fixture import TABLE, model_of


@pytest.mark.parametrize(
    ("name", "n_structures", "some"),
    [
        ("total_mr", 50, {5: "liver", 22: "heart"}),
        ("vibesegmentator", 71, {5: "liver", 68: "intervertebral_discs", 36: "inferior_vena_cava"}),
        ("mrsegmentator", 40, {}),
    ],
)
def test_the_labels_of_published_programs_are_known(tmp_path, capsys, name, n_structures, some):
    words = ["models", "label-table", name, "--id", "given", "--models-dir", str(tmp_path)]
    assert cli.run(words) == 0
    card = load_card(tmp_path / "given")
    assert len(card.labels) == n_structures
    assert some.items() <= card.labels.items()
    assert 20 in card.elsewhere
    assert (20 in card.labels) == (name != "vibesegmentator")
    shown = capsys.readouterr().out
    assert ("Known and left out: unused." in shown) == (name == "vibesegmentator")
    assert cli.run(["models", "verify", "given", "--models-dir", str(tmp_path)]) == 0
    assert cli.run(["models", "list", "--models-dir", str(tmp_path)]) == 0
    assert "no network: label maps" in capsys.readouterr().out
    assert cli.run(words) == 64, "the folder is there"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label\tname\n", "no rows"),
        ("label\tcolour\n1\tred\n", "neither a column name"),
        ("label\tname\n1\tliver\n1\tspleen\n", "label 1 stands there twice"),
        ("label\tname\n1\tliver\n2\tliver\n", "name liver stands there twice"),
        ("label\tname\n-1\tliver\n", "line 2: '-1' is no whole number"),
        ("label\tname\n70000\tliver\n", "line 2: '70000' is no whole number"),
        ("label\tname\n0\tliver\n", "label 0 is background, not liver"),
        ("label\tname\n1\t\n", "line 2: it has no name"),
        ("label\tname\tlayer\n1\tliver\tx\n", "'x' is no whole number"),
        ("label\tname\tlayer\n1\tliver\t1\n", "in layers 1, not 0, 1"),
        ("label\tname\tstructure\n1\tliver\t\n", "no label of the table has a structure"),
        ("label\tname\tlayer\tstructure\n1\ta\t0\tliver\n2\tb\t1\tliver\n", "is in 2 layers"),
        ("label\tname\n1\ta/b\n", "it must be"),
    ],
)
def test_a_table_that_says_nothing_certain_is_refused(tmp_path, text, said):
    with pytest.raises((ConfigError, ModelError, TableError), match="given") as caught:
        model_of(tmp_path, text)
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["given.tsv"], "nothing is left"


def test_a_vocabulary_that_is_misspelt_is_told():
    with pytest.raises(ConfigError, match="did you mean 'vibesegmentator'"):
        read_labels("vibesegmentater")


def test_rows_without_labels_are_counted_and_background_is_no_label(tmp_path):
    table = tmp_path / "names.csv"
    table.write_text("name\nliver\nspleen\n")
    assert [(one.label, one.structure) for one in read_labels(str(table))] == [
        (1, "liver"),
        (2, "spleen"),
    ]
    table.write_text("index,name\n0,background\n4,liver\n")
    assert [one.label for one in read_labels(str(table))] == [4]


def test_the_key_follows_the_table_and_a_network_is_never_asked_for(tmp_path, capsys):
    card = load_card(model_of(tmp_path))
    renamed = load_card(model_of(tmp_path, TABLE.replace("milz", "rate"), "renamed"))
    assert segmentation_key(card) != segmentation_key(renamed)
    with pytest.raises(ModelError, match=r"hold no softmax.*\n.*segment.profile to elsewhere"):
        choose_profile(card, "elsewhere+softmax")
    assert of_model.canary(card, pytest.fail).verdict == "SKIP"
    with pytest.raises(ModelError, match="were made elsewhere, so there is no network"):
        segment.Segmenter.load(card.folder)
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    words = ["models", "calibrate", "given", "--labelled", str(labelled)]
    assert cli.run([*words, "--models-dir", str(tmp_path)]) == 64
    capsys.readouterr()


@pytest.mark.parametrize(
    "change",
    [
        {"profiles": ["elsewhere", "nnunet"]},
        {"profiles": ["nnunet"], "default_profile": "nnunet"},
        {"elsewhere": {}},
        {"elsewhere": {"1": "liver"}},
        {"elsewhere": {"1": "liver", "2": "liver", "9": "x"}},
        {"elsewhere": {"1": "../liver", "2": "b", "9": "x"}},
    ],
)
def test_a_card_that_is_half_a_network_is_refused(tmp_path, change):
    path = model_of(tmp_path) / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, **change}))
    with pytest.raises(ModelError):
        load_card(path.parent)
