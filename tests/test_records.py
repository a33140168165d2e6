"""What a results folder is, is told from the records in it: not from times, places or owners."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cohortvol.errors import ConfigError
from cohortvol.models.card import load_card
from cohortvol.store.files import sha256_of
from cohortvol.store.records import Job, Outdated, noted, rebase
from cohortvol.workflow import flow, plan
from cohortvol.workflow.flow import Flow
from make_like import MakeLike
from threshold_cohort import (
    Row,
    Settings,
    Source,
    ThresholdSegmenter,
    image_bytes,
    threshold_in_place_of_the_network,
)

NUMBERS = (4, 6, 8, 10)
RULES = ("ingest", "segment", "measure")


def jobs(*rules, shards=("0000", "0001")):
    return [f"{rule} {shard}" for shard in shards for rule in rules]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Four scans in two shards, run up to assemble."""
    folder = tmp_path_factory.mktemp("records")
    source = Source(folder / "source")
    for n in NUMBERS:
        source.write_image(f"{n}.nii.gz", image_bytes(n))
    with threshold_in_place_of_the_network():
        cohort = Cohort(folder, folder / "results")
        cohort.source.write()
        assert cohort.run() == ["manifest", *jobs(*RULES), "assemble"]
    shutil.copytree(folder, folder.parent / f"{folder.name}-saved")
    return folder


@pytest.fixture
def cohort(saved, tmp_path):
    """The same user, and the results brought elsewhere: no file there has its time."""
    shutil.rmtree(saved / "source")
    shutil.copytree(Path(f"{saved}-saved") / "source", saved / "source")
    results = tmp_path / "elsewhere" / "results"
    shutil.copytree(saved / "results", results, copy_function=shutil.copy)
    with threshold_in_place_of_the_network():
        yield Cohort(saved, results)


class Cohort:
    """A source, results, and a user who changes one thing."""

    def __init__(self, folder, results):
        self.source, self.results = Source(folder / "source"), results
        self.source.rows = [Row(f"sub-{n}", f"person-{n}", f"{n}.nii.gz", 40 + n) for n in NUMBERS]
        self.source.date = 1_800_000_000
        self.settings = Settings(shard_size=2)
        self.more = {}

    def told(self):
        """The jobs up to assemble of the next run."""
        self.source.write()
        card = load_card(self.source.model(self.settings))
        config = self.settings.config(self.source, self.results) | self.more
        why = plan.next_run(config, card).why
        return {name: text for name, text in why.items() if name not in ("analyse", "report")}

    def run(self):
        """The jobs of a run, in the order of the flow."""
        done = MakeLike(self.results).run(self.source, self.settings)
        assert done.good, done.failed
        return sorted(done.ran, key=done.told.index)

    def set(self, **changes):
        self.settings = replace(self.settings, **changes)

    def touch_everything(self):
        for path in (self.source.manifest, *self.results.rglob("*")):
            if path.is_file():
                os.utime(path, (10**9, 10**9))

    def lose_the_images(self):
        shutil.rmtree(self.source.folder / "images")

    def name_decisions(self):
        path = self.source.folder / "decisions.csv"
        path.write_text("scan_id,structure,decision,reviewer,date\n")
        self.more["decisions"] = str(path)


NOTHING = {
    "nothing": lambda cohort: None,
    "times of all files": Cohort.touch_everything,
    "a word on the model's card": lambda cohort: cohort.set(notes="a word"),
    "how many work": lambda cohort: cohort.set(workers=1),
    "a folder of models elsewhere": lambda cohort: setattr(
        cohort.source, "models_dir", cohort.results.parent / "models"
    ),
    "images that cannot be seen now": Cohort.lose_the_images,
}


@pytest.mark.parametrize("what", NOTHING)
def test_what_no_result_depends_on_runs_nothing(cohort, what):
    NOTHING[what](cohort)
    assert cohort.told() == {}
    if what != "images that cannot be seen now":  # which the check before a run may want
        assert cohort.run() == []


REACHES = {
    "an age": (
        lambda cohort: setattr(cohort.source.rows[0], "age_years", 99),
        ["manifest", "assemble"],
        "manifest or withdrawals changed",
        0,
    ),
    "the order of the rows": (
        lambda cohort: cohort.source.rows.reverse(),
        ["manifest", "assemble"],
        "manifest or withdrawals changed",
        0,
    ),
    "a new scan": (
        lambda cohort: cohort.source.rows.append(Row("new", "new", "4.nii.gz", 50)),
        ["manifest", *jobs(*RULES, shards=["0002"]), "assemble"],
        "manifest or withdrawals changed",
        1,
    ),
    "who withdrew": (
        lambda cohort: cohort.source.withdrawn.append("person-4"),
        ["manifest", "assemble"],
        "manifest or withdrawals changed",
        0,
    ),
    "the time of an image": (
        lambda cohort: cohort.source.touch("4.nii.gz"),
        ["manifest", *jobs(*RULES, shards=["0000"]), "assemble"],
        "images of another size or time: 1",
        0,
    ),
    "size of shards to come": (
        lambda cohort: cohort.set(shard_size=3),
        ["manifest"],
        "shard_size 3, was 2",
        0,
    ),
    "a rule of ingest": (
        lambda cohort: cohort.set(min_slices=7),
        [*jobs(*RULES), "assemble"],
        "min_slices 7, was 8",
        0,
    ),
    "weights": (
        lambda cohort: cohort.set(weights="b"),
        [*jobs("segment", "measure"), "assemble"],
        "segmentation_key ",
        4,
    ),
    "the model": (
        lambda cohort: cohort.set(model="other"),
        [*jobs("segment", "measure"), "assemble"],
        "segment/other/0000.parquet is not there",
        4,
    ),
    "a threshold of measure": (
        lambda cohort: cohort.set(min_largest_fraction=0.5),
        [*jobs("measure"), "assemble"],
        "min_largest_fraction 0.5, was 0.9",
        0,
    ),
    "a threshold of assemble": (
        lambda cohort: cohort.set(outlier_max_z=4.0),
        ["assemble"],
        "outlier_max_z 4.0, was 5.0",
        0,
    ),
}


@pytest.mark.parametrize("what", REACHES)
def test_a_change_reaches_what_depends_on_it_and_no_more(cohort, what):
    change, reached, why, predictions = REACHES[what]
    change(cohort)
    told, before = cohort.told(), ThresholdSegmenter.predictions
    assert list(told) == reached
    assert told[reached[0]].startswith(why)
    assert cohort.run() == reached
    assert ThresholdSegmenter.predictions - before == predictions
    assert cohort.told() == {}


def test_another_file_of_the_user_is_seen_by_its_content(cohort):
    cohort.name_decisions()
    assert cohort.told() == {"assemble": "decisions changed"}


def test_a_caption_draws_the_page_again_in_whatever_checkout(cohort, tmp_path, monkeypatch):
    def report():
        card = load_card(cohort.source.model(cohort.settings))
        asked = Flow(cohort.settings.config(cohort.source, cohort.results), card)
        return asked.of_cohort("report").digests

    found = []
    for checkout, caption in (("one", "Flow."), ("two", "Flow."), ("two", "The flow.")):
        folder = tmp_path / checkout / "reports" / "captions"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "flow.txt").write_text(caption)
        monkeypatch.setattr(flow, "path_of", (tmp_path / checkout).joinpath)
        found.append(report())
    assert found[0] == found[1] != found[2]


def test_files_that_are_gone_or_were_put_there_are_made_again(cohort):
    table = cohort.results / "measure/threshold/0001.parquet"
    whole = table.read_bytes()
    shutil.copy(cohort.results / "measure/threshold/0000.parquet", table)
    told = cohort.told()
    assert told["measure 0001"] == "measure/threshold/0001.parquet is not the file that was made"
    assert list(told) == ["measure 0001", "assemble"]
    table.unlink()
    assert cohort.told()["measure 0001"] == "measure/threshold/0001.parquet is not there"
    table.write_bytes(whole)
    assert cohort.told() == {}
    table.write_bytes(whole[:-9] + b"x" + whole[-8:])
    assert cohort.told()["measure 0001"] == "measure/threshold/0001.parquet is not there"  # damaged


def test_results_of_a_version_that_kept_no_records_are_made_again_from_their_receipts(cohort):
    shutil.rmtree(cohort.results / "made_of")
    told, before = cohort.told(), ThresholdSegmenter.predictions
    assert list(told) == ["manifest", *jobs(*RULES), "assemble"]
    assert set(told.values()) == {"it is not known what it was made of"}
    tables = {
        path: path.read_bytes() for path in cohort.results.rglob("*.parquet") if path.is_file()
    }
    cohort.run()
    assert ThresholdSegmenter.predictions == before
    assert {path: path.read_bytes() for path in tables} == tables


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b'{"inputs": 3, "outputs": 3, "settings": {}, "place": 1}', b"\xff"],
)
def test_a_record_that_is_no_record_is_none(cohort, content):
    (cohort.results / "made_of" / "assemble.json").write_bytes(content)
    assert cohort.told() == {"assemble": "it is not known what it was made of"}


JOB = Job("assemble", outputs=("b.txt",), inputs={"a": "a.txt"}, settings={"version": "0", "x": 1})


def test_a_job_that_fails_leaves_no_record_and_one_that_ends_says_what_made_it(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    with noted(JOB.text(tmp_path)):
        pass
    record = tmp_path / JOB.record
    value = json.loads(record.read_text())
    assert value["inputs"] == {"a": sha256_of(tmp_path / "a.txt")}
    assert value["settings"]["version"] != "0"  # that of the process that did it
    with pytest.raises(FileNotFoundError), noted(JOB.text(tmp_path)):
        record.read_text()
    assert Outdated(tmp_path).why(JOB, ()) == "it is not known what it was made of"
    with noted(None):
        pass
    with pytest.raises(ConfigError, match="--record: no description of a job"):
        noted("{").__enter__()


def test_digests_are_put_in_place_of_others_in_one_shard_alone(tmp_path):
    listed = {"list": "l.txt"}
    shards = [Job("ingest", shard, (f"ingest/{shard}.txt",), listed) for shard in ("0000", "0001")]
    (tmp_path / "ingest").mkdir()
    (tmp_path / "l.txt").write_text("before")
    for job in shards:
        (tmp_path / job.outputs[0]).write_text(job.shard)
        with noted(job.text(tmp_path)):
            pass
    before = sha256_of(tmp_path / "l.txt")
    (tmp_path / "l.txt").write_text("after")
    rebase(tmp_path, "0001", {before: sha256_of(tmp_path / "l.txt")})
    assert [Outdated(tmp_path).why(job, ()) for job in shards] == ["list changed", None]
