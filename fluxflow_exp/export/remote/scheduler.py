"""The times of sampling as a scheduler of a diffusers pipeline: written into the pipeline's folder."""

from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config

from fluxflow_exp.models.text_to_image import OBJECTIVES


class FluxFlowScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """`objective`: what the model predicts, rectified_flow or v_prediction. `shift`: of the times, as in training."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, objective: str = "rectified_flow", shift: float = 1.0) -> None:
        self.path = OBJECTIVES[objective](shift=shift)
