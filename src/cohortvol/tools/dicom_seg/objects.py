"""The objects themselves: segmentations of one scan, and the report of their volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import highdicom
import numpy as np
from highdicom import (
    AlgorithmIdentificationSequence,
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
)
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import (
    DeviceObserverIdentifyingAttributes,
    EnhancedSR,
    FindingSite,
    Measurement,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat

from cohortvol.tools.dicom_seg.codes import (
    LOWER_BOUND,
    MILLILITRE,
    QUALITY,
    category_of,
    flag,
    side_of,
    type_of,
)
from cohortvol.tools.dicom_seg.source import Slices

MAKER = "cohortvol"
SERIES_OF_SEG, SERIES_OF_REPORT = 1000, 2000
"""Added to the number of the series of the images."""


@dataclass(frozen=True)
class Made:
    """How the label map of a scan was made."""

    model: str
    profile: str
    segmentation_key: str
    version: str


@dataclass(frozen=True)
class Volume:
    """A volume of one structure that may be told: a row of ``volumes.parquet``."""

    structure: str
    volume_ml: float
    is_lower_bound: bool
    qc_flags: tuple[str, ...]


def uid_of(key: str, *what: object) -> str:
    """An identifier that is the same whenever the same is written."""
    return str(generate_uid(entropy_srcs=[key, *map(str, what)]))


def segmentation(
    labels: np.ndarray, names: Mapping[int, str], slices: Slices, made: Made, key: str, layer: int
) -> Segmentation:
    """One layer of a label map as a binary segmentation, a segment for every structure found.

    Parameters
    ----------
    labels : (I, J, K) integer array
        Columns, rows, slices; 0 is background.
    names : mapping of int to str
        Label index to structure, of every label that is in `labels`, in the order of segments.
    slices : Slices
        The images, on the same grid.
    key : str
        What the identifiers of the objects are made of.
    layer : int
        From 0; its object's number in the series.
    """
    numbers = np.zeros(max(names) + 1, np.uint8 if len(names) < 2**8 else np.uint16)
    numbers[list(names)] = np.arange(1, len(names) + 1)
    algorithm = AlgorithmIdentificationSequence(
        name=f"{MAKER} {made.model}",
        family=codes.cid7162.ArtificialIntelligence,
        version=made.version,
        parameters={"profile": made.profile, "segmentation_key": made.segmentation_key},
    )
    segments = [
        _segment(number, name, algorithm, uid_of(key, "structure", name))
        for number, name in enumerate(names.values(), start=1)
    ]
    positions = [PlanePositionSequence("PATIENT", place) for place in slices.positions_mm.tolist()]
    made_of = Segmentation(
        source_images=slices.images,
        pixel_array=numbers[labels].transpose(2, 1, 0),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=uid_of(key, "series"),
        series_number=_number(slices) + SERIES_OF_SEG,
        sop_instance_uid=uid_of(key, "segmentation", layer),
        instance_number=layer + 1,
        manufacturer=MAKER,
        manufacturer_model_name=made.model,
        software_versions=made.version,
        device_serial_number=made.segmentation_key,
        pixel_measures=PixelMeasuresSequence(
            slices.spacing_mm.tolist(), slices.thickness_mm, slices.step_mm
        ),
        plane_orientation=PlaneOrientationSequence("PATIENT", slices.axes.tolist()),
        plane_positions=positions,
    )
    made_of.SeriesDescription = f"{MAKER} {made.model}"[:64]
    shared = made_of.SharedFunctionalGroupsSequence[0]
    step = DSfloat(slices.step_mm, auto_format=True)  # which need not be the thickness
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = step
    return made_of


def _segment(
    number: int, structure: str, algorithm: AlgorithmIdentificationSequence, tracking_uid: str
) -> SegmentDescription:
    segment = SegmentDescription(
        segment_number=number,
        segment_label=structure[:64],
        segmented_property_category=category_of(structure),
        segmented_property_type=type_of(structure),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=tracking_uid,
        tracking_id=structure,
    )
    side = side_of(structure)
    if side is not None:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [highdicom.sr.CodedConcept.from_code(side)]
    return segment


def report(
    segmentations: Sequence[Segmentation],
    volumes: Mapping[str, Volume],
    slices: Slices,
    made: Made,
    key: str,
) -> EnhancedSR:
    """Volumes of segments as measurements of TID 1500.

    Parameters
    ----------
    segmentations : sequence of Segmentation
        Of all layers.
    volumes : mapping of str to Volume
        By structure, of those whose volume may be told; the others are in no measurement.
    """
    series = str(slices.images[0].SeriesInstanceUID)
    groups = [
        _measured(volumes[str(segment.TrackingID)], one, segment, series)
        for one in segmentations
        for segment in one.SegmentSequence
        if str(segment.TrackingID) in volumes
    ]
    observer = DeviceObserverIdentifyingAttributes(
        uid=uid_of(made.segmentation_key, "device"), name=f"{MAKER} {made.model}",
        manufacturer_name=MAKER, model_name=made.model, serial_number=made.segmentation_key,
    )  # fmt: skip
    content = MeasurementReport(
        ObservationContext(observer_device_context=ObserverContext(codes.DCM.Device, observer)),
        codes.cid100.ImagingProcedure,
        groups,
        codes.DCM.ImagingMeasurementReport,
    )
    made_of = EnhancedSR(
        evidence=[*segmentations, *slices.images],
        content=content[0],
        series_instance_uid=uid_of(key, "series of the report"),
        series_number=_number(slices) + SERIES_OF_REPORT,
        sop_instance_uid=uid_of(key, "report"),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
    )
    made_of.SeriesDescription = f"{MAKER} {made.model}, volumes"[:64]
    made_of.ManufacturerModelName, made_of.SoftwareVersions = made.model, made.version
    return made_of


def _measured(
    volume: Volume, found_in: Segmentation, segment: Dataset, series: str
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    side = side_of(volume.structure)
    told = [LOWER_BOUND] if volume.is_lower_bound else []
    told += [flag(code) for code in volume.qc_flags]
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(segment.TrackingUID, segment.TrackingID),
        referenced_segment=ReferencedSegment(
            found_in.SOPClassUID, found_in.SOPInstanceUID, segment.SegmentNumber,
            source_series=SourceSeriesForSegmentation(series),
        ),
        finding_category=category_of(volume.structure),
        finding_type=type_of(volume.structure),
        finding_sites=[] if side is None else [FindingSite(type_of(volume.structure), side)],
        measurements=[Measurement(codes.SCT.Volume, volume.volume_ml, MILLILITRE)],
        qualitative_evaluations=[QualitativeEvaluation(QUALITY, code) for code in told],
    )  # fmt: skip


def _number(slices: Slices) -> int:
    given: Any = slices.images[0].get("SeriesNumber")
    return 0 if given in (None, "") else int(given)
