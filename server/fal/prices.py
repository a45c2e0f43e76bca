"""What the operator says that a video costs. Nothing is charged here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from server.config.errors import SettingsError
from server.config.settings import Settings
from server.fal.endpoints import ENDPOINTS

UNIT = "video"
_DIGITS = 9
"""After the point: sums of prices show no rounding of floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of one video, by endpoint; 0 where none is named."""

    of: Mapping[str, float] = field(default_factory=dict)
    currency: str = "USD"

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The prices that the settings name.

        Raises:
            SettingsError: one is of an endpoint that there is not.
        """
        for endpoint, _ in settings.prices:
            if endpoint not in ENDPOINTS:
                raise SettingsError(
                    f"COSMOS_PRICES names {endpoint!r}, which is no endpoint: there are "
                    f"{', '.join(ENDPOINTS)}."
                )
        return cls(of=dict(settings.prices), currency=settings.currency)

    def unit_price(self, endpoint: str) -> float:
        """The price of one video."""
        return self.of.get(endpoint, 0.0)

    def cost(self, videos: Mapping[str, float]) -> float:
        """The price of so many videos of each endpoint."""
        return round(sum(self.unit_price(each) * n for each, n in videos.items()), _DIGITS)
