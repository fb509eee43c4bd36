"""Stop a run whose losses or weights are no longer finite, before anything of it is saved."""

from __future__ import annotations

import math

from torch import nn

from esrgan_deploy.errors import EsrganError
from esrgan_train.run import LAST, Run
from esrgan_train.step import Terms


class DivergedError(EsrganError):
    """A loss or a weight became NaN or infinite. The files that were saved before are unchanged."""


def check_losses(run: Run, terms: Terms) -> None:
    """Stop the run if a loss is not finite, before its step reaches the averaged weights or a file.

    Raises:
        DivergedError: the message names the step and the loss.
    """
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if run.recipe.precision == "16-mixed":
        bad = [
            name for name in bad if name != "gradient-norm"
        ]  # GradScaler skips such a step and lowers the loss scale
    if bad:
        raise DivergedError(f"step {run.step + 1}: {', '.join(bad)} is {terms[bad[0]]}; {_remedy(run)}")


def check_weights(run: Run) -> None:
    """Stop the run if a weight is not finite, before the weights are validated or saved.

    The losses alone do not tell: a finite loss can have a gradient that is not finite.

    Raises:
        DivergedError: the message names the step and the weights.
    """
    networks: dict[str, nn.Module] = {"generator": run.generator, "average": run.average}
    if run.model.discriminator is not None:
        networks["discriminator"] = run.model.discriminator.network
    for name, network in networks.items():
        for key, tensor in network.state_dict().items():
            if not tensor.isfinite().all():
                raise DivergedError(f"step {run.step}: the {name}'s {key} is not finite; {_remedy(run)}")


def _remedy(run: Run) -> str:
    remedy = "a lower optimiser.lr or a clip_gradient"
    if (run.folder / LAST).exists():
        return f"begin another run from what was saved before, start_from={run.folder / LAST}, with {remedy}"
    return f"nothing was saved before; begin again with {remedy}"
