"""Inference profiles: numeric recipes, two of which may give different labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Profile:
    """A numeric recipe for inference. Two profiles may give different labels.

    Attributes
    ----------
    tile_step : float
        Greatest distance of neighbouring patches as a share of the patch.
    zoom_order : int or None
        Order of the spline that brings a scan to the card's spacing, as TotalSegmentator does;
        None leaves all resampling to nnU-Net's plans.
    truncate : bool
        Cut the fraction off the zoomed grey values, as TotalSegmentator does.
    clear_rim : bool
        Make the rim of fractions around padding 0, as `truncate` would, and leave all others.
    mirrors : bool
        Average what the network says of a patch and of its mirror images, along the axes that its
        training allows: `mirror_axes` of a part.
    """

    name: str
    tile_step: float
    zoom_order: int | None = None
    truncate: bool = False
    clear_rim: bool = False
    mirrors: bool = False

    @property
    def steps(self) -> dict[str, Any]:
        """What enters `segmentation_key`; a step added since then only where it is taken.

        Mirroring is one of the profile's name and of the axes of a part.
        """
        steps = asdict(self)
        del steps["mirrors"]
        if not self.clear_rim:
            del steps["clear_rim"]
        if self.on_device:
            steps["network"] = FAST_NETWORK
        return steps

    @property
    def on_device(self) -> bool:
        """Resample and normalise where the network is, in float32.

        The labels are those of the parent but for rounding.
        """
        return recipe_of(self.name).removesuffix(BODY) == FAST

    @property
    def crops_to_body(self) -> bool:
        """Leave out the air around the body before anything else is done."""
        return recipe_of(self.name).endswith(BODY)

    @property
    def keeps_softmax(self) -> bool:
        """Keep how sure the network was of the size of each structure; the labels stay."""
        return self.name.endswith(SOFTMAX)


FAST = "fast"
FAST_NETWORK = "planes or bfloat16"
"""How `FAST` runs a network on a CPU; the processor decides which (decision 56)."""
BODY = "+body"
"""Ends the name of a profile that is to see the body only, such as ``ts218+body``."""
SOFTMAX = "+softmax"
"""Ends the name of a profile that keeps what volume intervals are made of, after `BODY` where both
are: ``ts218+body+softmax``."""
UNMIRRORED = "nnunet-nomirror"
"""As `nnunet` for a model that was trained for mirroring, in an eighth of the time."""
MRSEG_FAST = "mrseg-fast"
"""What MRSegmentator's ``--fast`` makes of nnU-Net's own steps."""
ELSEWHERE = "elsewhere"
"""Of label maps that others made: no network is run."""
PROFILES = {
    profile.name: profile
    for profile in (
        Profile("nnunet", tile_step=0.5, mirrors=True),
        Profile(UNMIRRORED, tile_step=0.5),
        Profile(MRSEG_FAST, tile_step=0.8),
        Profile("paper", tile_step=0.5, zoom_order=3, truncate=True),
        Profile("ts218", tile_step=0.8, zoom_order=1, truncate=True),
        Profile(FAST, tile_step=0.8, zoom_order=1, clear_rim=True),
        Profile(ELSEWHERE, tile_step=1.0),
    )
}
"""Every recipe this version knows, by name: nnU-Net's own; TotalSegmentator's when its MRI paper
was written, and that of its version 2.18 (reference: nnunet.py and resampling.py there);
MRSegmentator's; ours, the child of `ts218` and, for a model without ``spacing_mm``, of
`MRSEG_FAST` where the model offers that, else of `nnunet`; and none, of label maps that others
made."""


def recipe_of(profile: str) -> str:
    """The name of a profile without what does not change a label."""
    return profile.removesuffix(SOFTMAX)


def truncates(profile: str) -> bool:
    """Whether a profile of this name cuts the fractions off grey values; False if unknown."""
    known = PROFILES.get(recipe_of(profile).removesuffix(BODY))
    return known is not None and known.truncate
