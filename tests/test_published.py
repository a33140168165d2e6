"""A second public page is made only where nobody, or many, came, went or changed."""

from __future__ import annotations

import json
import stat

import numpy as np
import pandas as pd
import pytest

from cohortvol.errors import ConfigError, OutputError
from cohortvol.stages.report.tables import published
from report_fixture import STRUCTURES, make_scans, make_volumes

CHOSEN = {name: STRUCTURES[name] for name in ("liver", "spleen")}


@pytest.fixture(scope="module")
def people():
    """Scans of people with ids of their own, and their volumes."""
    scans = make_scans(400, seed=11)
    scans["subject_id"] = [f"S{number:04d}" for number in range(len(scans))]
    scans["sex"] = scans["sex"].fillna("F")
    return scans, make_volumes(scans, CHOSEN, seed=11)[["scan_id", "structure", "volume_ml"]]


@pytest.fixture(scope="module")
def before(people):
    return counts(*people)


def counts(scans: pd.DataFrame, volumes: pd.DataFrame) -> published.Counts:
    return published.count_people(scans, volumes[volumes["scan_id"].isin(scans["scan_id"])])


def altered(people, way: str, who: list[int]) -> published.Counts:
    """The people after those at these places left, came, changed, or came in place of others."""
    scans, volumes = people
    if way == "left":
        return counts(scans.drop(index=who), volumes)
    if way == "age":
        return counts(scans.assign(age_years=scans["age_years"].mask(scans.index.isin(who), 41.5)),
                      volumes)  # fmt: skip
    if way == "volume":
        names = scans.loc[who, "scan_id"]
        changed = volumes["volume_ml"].mask(volumes["scan_id"].isin(names), 77.0)
        return counts(scans, volumes.assign(volume_ml=changed))
    if way == "other ids":
        renamed = scans.assign(subject_id="T" + scans["subject_id"]).drop(index=who)
        return counts(renamed, volumes)
    assert way == "all measured again"
    return counts(scans.drop(index=who), volumes.assign(volume_ml=volumes["volume_ml"] * 1.001))


WAYS = ("left", "age", "volume", "other ids", "all measured again")


def of_sex(people, sex: str, n: int, seed: int = 0) -> list[int]:
    scans, _ = people
    known = scans.index[(scans["sex"] == sex) & (scans["state"] == "done")]
    return sorted(np.random.default_rng(seed).choice(known, n, replace=False))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_a_page_that_differs_by_fewer_than_ten_people_is_refused(people, before, way, n):
    for seed in range(2):
        who = of_sex(people, "FM"[seed % 2], n, seed)
        now = altered(people, way, who)
        assert published.too_near(before, now), (way, n, seed)
        assert published.too_near(now, before), (way, n, seed)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("women", "men", "made"), [(14, 0, True), (14, 2, False), (9, 8, True), (1, 30, False)]
)
def test_of_either_sex_nobody_or_five_differ(people, before, way, women, men, made):
    who = of_sex(people, "F", women) + (of_sex(people, "M", men) if men else [])
    why = published.too_near(before, altered(people, way, who))
    assert (why == "") == made, why


def test_the_same_people_may_be_published_again(people):
    assert published.too_near(counts(*people), counts(*people)) == ""


def test_the_order_of_rows_and_scans_without_a_person_do_not_matter(people):
    scans, volumes = people
    shuffled = counts(scans.sample(frac=1, random_state=1), volumes.sample(frac=1, random_state=2))
    assert shuffled == counts(scans, volumes)
    nobody = scans.drop(columns="subject_id")
    assert published.too_near(counts(nobody, volumes), counts(nobody.iloc[3:], volumes))


def test_a_page_is_compared_with_every_earlier_one(people, tmp_path):
    path = tmp_path / "private" / "published.json"
    scans, volumes = people
    pages = [scans, scans.drop(index=of_sex(people, "F", 20)), scans.iloc[1:]]
    published.check_and_keep(path, counts(pages[0], volumes), {})
    published.check_and_keep(path, counts(pages[1], volumes), {})
    assert published.too_near(counts(pages[1], volumes), counts(pages[2], volumes)) == ""
    with pytest.raises(OutputError, match="fewer than 10 people differ from page 1 of 2"):
        published.check_and_keep(path, counts(pages[2], volumes), {})
    assert len(json.loads(path.read_text())["pages"]) == 2


def test_what_is_kept_names_nobody_and_is_for_the_owner_alone(people, tmp_path):
    path = tmp_path / "private" / "published.json"
    for _ in range(2):
        published.check_and_keep(path, counts(*people), {"scans": "0" * 64})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    text = path.read_text()
    scans, _ = people
    assert not [name for name in (*scans["subject_id"], *scans["scan_id"]) if name in text]
    [page] = json.loads(text)["pages"]
    n = sum(sum(page["people"]["ids"][sex]) for sex in published.SEXES)
    assert n == len(scans)
    shared = np.array([page["people"]["ids"][sex] for sex in ("F", "M")])
    assert shared.mean() > 0.7  # people in a class


@pytest.mark.parametrize(
    "text", ["", "{}", '{"pages": [{}]}', '{"pages": [{"people": {"ids": 1}}]}']
)
def test_a_damaged_file_is_no_leave_to_publish(people, tmp_path, text):
    path = tmp_path / "published.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="damaged"):
        published.check_and_keep(path, counts(*people), {})
