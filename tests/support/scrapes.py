"""What a scrape of `/metrics` gave, read by Prometheus' own parser."""

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every number by its name and labels; the text is Prometheus' own format."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scrape:
    """What one scrape gave."""

    def __init__(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.text
        self.text = answer.text
        self._samples = samples(answer.text)

    def number(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        return self._samples.get((name, frozenset((labels or {}).items())))


async def scrape(client: httpx.AsyncClient) -> Scrape:
    return Scrape(await client.get("/metrics"))
