"""The jobs of a run: what each reads and makes, and the settings that its results depend on.

The rules below ``workflow/`` run these jobs; `cohortvol.workflow.plan` asks which of them must run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cohortvol import __version__
from cohortvol.models.card import Card, choose_profile, segmentation_key, shows_abdomen
from cohortvol.shipped import path_of
from cohortvol.store.files import DIGESTS, digest_of, sha256_of
from cohortvol.store.records import INDEX, LIST, SHARD, Job

RULES = (
    "manifest",
    "ingest",
    "segment",
    "measure",
    "agreement",
    "assemble",
    "analyse",
    "report",
)

MEASURING_VERSION = "2"
"""Raised when a label map would give other rows of volumes; part of every key."""

TEMPLATES = "reports"
"""Folder of the page's templates, where all lies that comes with the package."""

LISTS = f"manifest/shards/{SHARD}.parquet"


def measuring_settings(config: Mapping[str, Any], intervals: str) -> str:
    """16 hex digits that stand for the settings on which rows and pictures depend.

    Parameters
    ----------
    config : mapping
        The whole configuration, checked.
    intervals : str
        Stands for what the model's intervals are worth.
    """
    table = config["measure"]["plausible_ml"]
    plausible = sha256_of(Path(table)) if table and Path(table).is_file() else None
    settings = {**config["measure"], "plausible_ml": plausible}
    parts = [MEASURING_VERSION, settings, config["roi"], config["previews"], intervals]
    return digest_of(parts)[:16]


class Flow:
    """The jobs that a configuration asks for.

    Parameters
    ----------
    config : mapping
        The whole configuration, checked.
    card : Card
        Of the model, restricted to the structures wanted.
    """

    def __init__(self, config: Mapping[str, Any], card: Card) -> None:
        self.config, self.card = config, card
        self.results = Path(config["results"])
        self._other = config["agreement"]["model"]

    def jobs(self, shards: Sequence[str], sources: Mapping[str, str | None]) -> list[Job]:
        """Every job, each behind those that it needs.

        Parameters
        ----------
        shards : sequence of str
            Shards in use.
        sources : mapping of str to str or None
            Digests of what the manifest stage reads.
        """
        rules = ["ingest", "segment", "measure", *(["agreement"] if self._other else [])]
        return [
            self.manifest(sources),
            *(self.of_shard(rule, shard) for shard in shards for rule in rules),
            *(self.of_cohort(rule) for rule in ("assemble", "analyse", "report")),
        ]

    def manifest(self, sources: Mapping[str, str | None]) -> Job:
        """The job that reads the manifest."""
        names = (
            "shard_size", "bad_rows", "sex_codes", "age_range_years", "covariates", "bids",
            "hash_ids",
        )  # fmt: skip
        table = Path(self.config["manifest"])
        # Paths of images are relative to the manifest, and links to them lie in the folder. Digests
        # of these places are kept, as a path may hold a name.
        links = os.path.abspath(self.results) if self.config["hash_ids"] else None
        places = {
            "place_of_images": _short_digest(
                os.path.abspath(table if table.is_dir() else table.parent)
            ),
            "place_of_links": links and _short_digest(links),
        }
        return Job(
            "manifest",
            outputs=("manifest/scans.parquet", "manifest/shards.parquet", INDEX),
            digests=sources,
            settings={**{name: self.config[name] for name in names}, **places},
            lists=LISTS,
        )

    def of_shard(self, rule: str, shard: str) -> Job:
        """One of the jobs of a shard."""
        tables = {
            stage: f"{stage}/{self.card.id}/{shard}.parquet"
            for stage in ("segment", "measure", "agreement")
        }
        ingest = f"ingest/{shard}.parquet"
        made: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
            "ingest": ((ingest,), {LIST: LISTS.replace(SHARD, shard)}),
            "segment": ((tables["segment"],), {"ingest": ingest}),
            "measure": (
                (
                    *([self._previews.replace(SHARD, shard)] if self.config["previews"] else []),
                    tables["measure"],
                ),
                {
                    "ingest": ingest,
                    "segment": tables["segment"],
                    "plausible_ml": _given(self.config["measure"]["plausible_ml"]),
                },
            ),
            "agreement": (
                (tables["agreement"],),
                {"segment": tables["segment"], "measure": tables["measure"], **self._others(shard)},
            ),
        }
        outputs, inputs = made[rule]
        return Job(rule, shard, outputs, inputs, settings=self.settings[rule])

    def of_cohort(self, rule: str) -> Job:
        """One of the jobs behind the shards."""
        model, config = self.card.id, self.config
        tables: dict[str, Any] = {"volumes": "volumes.parquet", "scans": "scans.parquet"}
        made: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
            "assemble": (
                ("volumes.parquet", "scans.parquet", "assemble.json", DIGESTS),
                {
                    "manifest": "manifest/scans.parquet",
                    "ingest": f"ingest/{SHARD}.parquet",
                    "segment": f"segment/{model}/{SHARD}.parquet",
                    "measure": f"measure/{model}/{SHARD}.parquet",
                    **({"agreement": f"agreement/{model}/{SHARD}.parquet"} if self._other else {}),
                    "decisions": _given(config["decisions"]),
                },
            ),
            "analyse": (
                (
                    "analyse/analyse.json",
                    f"analyse/{DIGESTS}",
                    "analyse/slopes.parquet",
                    "analyse/slopes.csv",
                ),
                {**tables, "literature": _given(config["analyse"]["literature"])},
            ),
            "report": (
                (
                    *(["contact_sheet.csv"] if self.has_contact_sheet else []),
                    "report/index.html",
                    "report/figures/flow.png",
                    "report/tables/slopes.csv",
                    f"report/{DIGESTS}",
                ),
                {
                    **tables,
                    "analyse": f"analyse/{DIGESTS}",
                    "planted": _given(config["report"]["planted"]),
                    **({"previews": self._previews} if config["previews"] else {}),
                },
            ),
        }
        outputs, inputs = made[rule]
        digests = {"templates": _templates()} if rule == "report" else {}
        return Job(rule, "", outputs, inputs, digests, self.settings[rule])

    @property
    def has_contact_sheet(self) -> bool:
        """Whether a run writes which scan each picture of the report is."""
        return bool(self.config["previews"] and not self.config["report"]["public"])

    @property
    def _previews(self) -> str:
        return f"measure/{self.card.id}/previews/{SHARD}.parquet"

    @cached_property
    def measuring(self) -> str:
        """Stands for the settings of measure, where volumes stand in for label maps."""
        return measuring_settings(self.config, self._intervals)

    @property
    def ingest(self) -> dict[str, Any]:
        """The settings of ingest, of which one may follow from the model."""
        return ingest_settings(self.config, self.card)

    @property
    def _intervals(self) -> str:
        return _short_digest(self.card.volume_interval)

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What the results of each job of a shard or of the cohort depend on, beside files."""
        config, card = self.config, self.card
        profile = config["segment"]["profile"]
        # Labels follow what they depend on and nothing else; the cheap stages every release.
        version = {"version": __version__}
        ages = {"age_range_years": config["age_range_years"]}
        kept = {"keep_label_maps": config["keep_label_maps"]}
        return {
            "ingest": self.ingest,
            "segment": {
                "segmentation_key": segmentation_key(card, profile),
                "profile": choose_profile(card, profile).name,
                "measuring": None if config["keep_label_maps"] else self.measuring,
                **kept,
            },
            "measure": {
                **_without(config["measure"], "plausible_ml"),
                "roi": config["roi"],
                "previews": config["previews"],
                "intervals": self._intervals,
                "measuring_version": MEASURING_VERSION,
                **kept,
                **version,
            },
            "agreement": {"other_model": self._other, **version},
            "assemble": {
                **config["assemble"],
                "model": card.id,
                "min_dice": config["agreement"]["min_dice"] if self._other else None,
                "skip_unknown": bool(config["withdrawals"]),
                **ages,
                **version,
            },
            "analyse": {**_without(config["analyse"], "literature"), **ages, **version},
            "report": {
                **_without(config["report"], "planted"),
                "previews": config["previews"],
                **version,
            },
        }

    def _others(self, shard: str) -> dict[str, str]:
        """What the comparison of a shard reads of the other model."""
        folder = self.config["agreement"]["results"]
        if folder is not None:
            return {"other_volumes": os.path.abspath(Path(folder, "volumes.parquet"))}
        return {
            f"other_{stage}": f"{stage}/{self._other}/{shard}.parquet"
            for stage in ("segment", "measure")
        }


BEHIND = {
    "segment": ("ingest",),
    "measure": ("ingest", "segment"),
    "agreement": ("segment", "measure"),
    "assemble": ("ingest", "segment", "measure", "agreement"),
    "analyse": ("assemble",),
    "report": ("measure", "assemble", "analyse"),
}
"""Rules behind whose jobs a job runs again: of its own shard, or of all. What the manifest stage
writes is compared by content, as most of it is written again unchanged."""


def _given(path: str | None) -> tuple[str, ...]:
    """A file of the user, if one is named."""
    return () if path is None else (os.path.abspath(path),)


def _templates() -> str:
    """Digest of the page's templates, wherever they lie."""
    folder = path_of(TEMPLATES)
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return digest_of(
        [[path.relative_to(folder.parent).as_posix(), sha256_of(path)] for path in found]
    )


def _short_digest(value: Any) -> str:
    return digest_of(value)[:16]


def _without(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def ingest_settings(config: Mapping[str, Any], card: Card) -> dict[str, Any]:
    """What ingest is told: its section, ``orientation: auto`` decided by the model; channels of
    the model, where it has several; and companions, where there are some.
    """
    section = _without(config["ingest"], "watch")
    if section["orientation"] == "auto":
        section["orientation"] = "check" if shows_abdomen(card) else "off"
    if card.channels:
        section["channels"] = list(card.channels)
    if config["companions"]:
        section["companions"] = json.dumps(config["companions"], sort_keys=True)
    return section
