"""What a model says of itself is data: a sample of ``benchmarks/hostile_models.py``."""

from __future__ import annotations

import pytest
import torch

import hostile_changes
import hostile_imports
import hostile_models
import hostile_trial
import nnunet_fixture
from cohortvol import config
from cohortvol.errors import ConfigError, ModelError
from cohortvol.models import catalogue
from cohortvol.models.files import check_id, problems, schema
from cohortvol.models.folders import check_labels

pytestmark = pytest.mark.slow

MODELS = list(hostile_models.model_cases())
IMPORTS = list(hostile_imports.import_cases())
BY_ARRAYS = ("files/parts/main/fold_all.safetensors", "weights/")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return nnunet_fixture.results_folder(tmp_path_factory.mktemp("trained"))


def some(cases, every):
    """Each kind of case, and the sound ones."""
    kinds = {}
    for case in cases:
        kinds.setdefault(case.name.split(" ")[0], []).append(case)
    chosen = [case for of_kind in kinds.values() for case in of_kind[::every]]
    return sorted({case.name: case for case in chosen}.items())


@pytest.mark.parametrize(("name", "case"), some(MODELS, 9), ids=lambda value: "")
def test_a_model_that_is_broken_or_means_harm_is_refused_in_a_line(name, case, tmp_path):
    outcome = hostile_trial.verify(case, tmp_path)
    assert outcome.wrong == "", f"{name}: {outcome}"


@pytest.mark.parametrize(("name", "case"), some(IMPORTS, 2), ids=lambda value: "")
def test_an_import_of_what_is_broken_or_means_harm_leaves_nothing(name, case, tmp_path, trained):
    outcome = hostile_trial.imported(case, tmp_path, trained)
    assert outcome.wrong == "", f"{name}: {outcome}"


@pytest.mark.parametrize("model_id", [one for one in hostile_changes.IDS if isinstance(one, str)])
def test_an_odd_id_never_becomes_a_path(model_id, tmp_path, trained):
    with pytest.raises(ModelError, match="model id"):
        check_id(model_id)
    with pytest.raises(ConfigError, match=r"agreement\.model"):
        config.check({"agreement": {"model": model_id}})


def test_import_asks_for_the_id_before_it_makes_anything(tmp_path, trained):
    outcome = hostile_trial.imported_as(f"../{hostile_changes.ESCAPED}", tmp_path, trained)
    assert outcome.wrong == "", outcome
    assert "model id '../ESCAPED': use letters" in outcome.said


@pytest.mark.parametrize("name", ["a{b}c", "<x>", "a\nb", "a\n", ""])
@pytest.mark.parametrize("setting", ["model", "models_dir"])
def test_a_path_that_snakemake_would_read_as_a_pattern_is_refused(name, setting):
    with pytest.raises(ConfigError, match=setting):
        config.check({setting: name})


def test_the_known_models_have_names_that_can_be_folders_and_structures():
    card = schema("card")["$defs"]
    for model in catalogue.load().values():
        check_id(model.id)
        for part in model.parts:
            check_id(part.name)
            for name in part.structures.values():
                assert problems(name, card["structure"]) == []
            translated = {index: part.structures.get(name) for index, name in part.labels.items()}
            check_labels({i: name for i, name in translated.items() if name}, part.labels)


def test_names_are_held_to_one_pattern_wherever_they_come_from():
    card, settings = schema("card")["$defs"], config.schema()["properties"]
    from cohortvol.tools.train.recipe import _schema as recipe

    assert settings["agreement"]["properties"]["model"]["pattern"] == card["id"]["pattern"]
    assert settings["roi"]["items"]["pattern"] == card["structure"]["pattern"]
    assert recipe()["$defs"]["structure"]["pattern"] == card["structure"]["pattern"]
