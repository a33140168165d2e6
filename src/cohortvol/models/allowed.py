"""Names that plans may give: nnU-Net looks up by name whatever they say, so only these get through.

Light on purpose: plans are held to these lists before a job starts, where torch need not be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cohortvol.errors import ModelError
from cohortvol.models.files import shown

_UNETS = "dynamic_network_architectures.architectures.unet"
ARCHITECTURES = {
    f"{_UNETS}.PlainConvUNet": f"{_UNETS}.PlainConvUNet",
    f"{_UNETS}.ResidualEncoderUNet": f"{_UNETS}.ResidualEncoderUNet",
    # Where nnU-Net still looks for it when plans are older than its version 2.4.
    "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet": (
        f"{_UNETS}.ResidualEncoderUNet"
    ),
}
"""Class named in the plans, to the class that is built."""
OPERATIONS = {
    *(f"torch.nn.modules.conv.Conv{n}d" for n in (2, 3)),
    *(f"torch.nn.Conv{n}d" for n in (2, 3)),
    *(f"torch.nn.modules.instancenorm.InstanceNorm{n}d" for n in (2, 3)),
    *(f"torch.nn.InstanceNorm{n}d" for n in (2, 3)),
    *(f"torch.nn.modules.dropout.Dropout{n}d" for n in (2, 3)),
    "torch.nn.LeakyReLU",
    "torch.nn.modules.activation.LeakyReLU",
    "torch.nn.ReLU",
    "torch.nn.modules.activation.ReLU",
}
IMPORTED_ARGUMENTS = {"conv_op", "norm_op", "dropout_op", "nonlin"}
PREPROCESSORS = {"DefaultPreprocessor"}
RESAMPLERS = {
    "resample_data_or_seg_to_shape",
    "resample_torch_fornnunet",
    "resample_torch_simple",
    "no_resampling_hack",
}
NORMALIZATIONS = {
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
}
LABEL_MANAGERS = {"LabelManager"}
RESAMPLING = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")


def check_names(
    plans: Mapping[str, Any],
    configuration: Mapping[str, Any],
    architecture: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    imported: Collection[str] = (),
) -> None:
    """Raise ModelError where a name stands outside its list.

    Parameters
    ----------
    plans : mapping
        Of ``plans.json``.
    configuration : mapping
        The one that is used, with what it inherits. A name that is not there is not judged.
    architecture, arguments, imported : optional
        Class of the network, its arguments, and those among them that are names, as nnU-Net reads
        them from plans of any age; what stands in `configuration` if not given.
    """
    network = configuration.get("architecture", {})
    architecture = architecture or network.get("network_class_name")
    arguments = network.get("arch_kwargs", {}) if arguments is None else arguments
    imported = imported or network.get("_kw_requires_import", ())
    _check("architecture", architecture, ARCHITECTURES)
    for argument in imported:
        _check("imported argument", argument, IMPORTED_ARGUMENTS)
        _check("operation", arguments.get(argument), OPERATIONS)
    _check("preprocessor", configuration.get("preprocessor_name"), PREPROCESSORS)
    for step in RESAMPLING:
        _check(step, configuration.get(step), RESAMPLERS)
    for scheme in configuration.get("normalization_schemes", ()):
        _check("normalization", scheme, NORMALIZATIONS)
    _check("label manager", plans.get("label_manager"), LABEL_MANAGERS)


def _check(what: str, name: Any, allowed: Collection[str]) -> None:
    if name is not None and (not isinstance(name, str) or name not in allowed):
        raise ModelError(
            f"plans.json names the {what} {shown(str(name))!r}, which is not allowed\n"
            f"  allowed: {', '.join(sorted(allowed))}"
        )
