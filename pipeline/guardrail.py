"""What may be asked for and what may be shown. Called for every job from the first version on.

No guardrail model is built in yet. A checkpoint that requires one is refused unless the operator,
who then answers for a guardrail of their own, says `off`. No torch here.
"""

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    # The API process chooses a guardrail and has no other use for numpy.
    import numpy as np
    import numpy.typing as npt

Frame: TypeAlias = "npt.NDArray[np.uint8]"
"""[height, width, 3] sRGB."""

GuardrailChoice = Literal["required", "off"]


class GuardrailMissing(PipelineError):
    """The checkpoint requires a guardrail and none is installed."""

    code = "guardrail_missing"


class Guardrail(Protocol):
    """Judges every prompt and every frame."""

    def check_prompt(self, prompt: str) -> None:
        """Raise `ContentPolicyViolation` if the prompt may not be used."""

    def check_frame(self, frame: Frame) -> Frame:
        """The frame to show in place of `frame`, or `ContentPolicyViolation`."""


class NoGuardrail:
    """Lets everything pass: for checkpoints that require none, or an operator who said `off`."""

    def check_prompt(self, prompt: str) -> None:
        """Every prompt passes."""

    def check_frame(self, frame: Frame) -> Frame:
        """Every frame passes unchanged."""
        return frame


def choose_guardrail(
    required_by: Literal["required", "none"], choice: GuardrailChoice, source: str
) -> Guardrail:
    """The guardrail for a checkpoint.

    Args:
        required_by: what the checkpoint says.
        choice: what the operator says.
        source: the file where the checkpoint says it, for the error.

    Raises:
        GuardrailMissing: the checkpoint requires a guardrail and the operator did not say `off`.
    """
    if required_by == "required" and choice != "off":
        raise GuardrailMissing(
            f"The checkpoint requires a guardrail ({source}), and none is installed. "
            "Its licence asks for one that suits your use: if you filter prompts and videos "
            "yourself, start with --guardrail off."
        )
    return NoGuardrail()
