"""docs/observability.md, the dashboard and the alerts have the metrics that a server exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
from http_sites import Site, answer, running
from paths import DOCS, ROOT
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from queue_calls import SUBMIT, result_of
from scrapes import scrape
from servers import request_of, serving, settings_in

PAGE = (DOCS / "observability.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "cosmos-serve.json").read_text())
RULES = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|(.*?)\|", re.MULTILINE)
LABELS_OF_PROMETHEUS = {"instance", "job", "le"}


async def exported(folder: Path) -> dict[str, Metric]:
    """What a server exports that has made a video and sent a webhook, by the names of the page."""
    settings = settings_in(folder, fetch_allow_nets="127.0.0.0/8")
    async with serving(settings) as client:
        async for site in running(Site(answers={"/hook": answer()}), None):
            params = {"fal_webhook": site.url("/hook")}
            sent = await client.post(SUBMIT, params=params, json=request_of())
            await result_of(client, sent.json()["request_id"])
            while "cosmos_webhook_tries_total{" not in (text := (await scrape(client)).text):
                pass
    families = text_string_to_metric_families(text)
    return {
        family.name + ("_total" if family.type == "counter" else ""): family for family in families
    }


def labels_of(metric: Metric) -> set[str]:
    """Its labels, without those of Prometheus itself."""
    return {label for sample in metric.samples for label in sample.labels} - {"le"}


def expressions() -> Iterator[str]:
    """Those of the dashboard, with the interval that Grafana fills in, and those of the alerts."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "5m")
    for folded, plain in re.findall(r"^ +expr: (?:>-\n((?: {10}.+\n)+)|(.+)$)", RULES, re.M):
        yield folded or plain


def used() -> dict[str, set[str]]:
    """The metrics of all expressions, by the names of the page, and the labels that they name."""
    found: dict[str, set[str]] = {}

    def note(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            name = re.sub(r"_(bucket|sum|count)$", "", part.name or "")
            labels = {matcher.name for matcher in part.matchers.matchers}
            found.setdefault(name, set()).update(labels - LABELS_OF_PROMETHEUS)

    for expression in expressions():
        promql_parser.walk(promql_parser.parse(expression), note)
    return found


async def test_page_dashboard_and_alerts_have_what_a_server_exports(tmp_path: Path) -> None:
    metrics = await exported(tmp_path)
    told = {name: (kind, re.findall(r"\w+", labels)) for name, kind, labels in ROW.findall(PAGE)}
    assert told.keys() == metrics.keys()
    for name, (kind, labels) in told.items():
        assert (name, kind, set(labels)) == (name, metrics[name].type, labels_of(metrics[name]))

    found = used()
    # Whether a server answers, Prometheus itself knows.
    assert found.pop("up") == set()
    assert found.keys() <= metrics.keys()
    unused = metrics.keys() - found.keys()
    assert {name for name in unused if not name.startswith("process_")} == set()
    for name, named in found.items():
        assert named <= labels_of(metrics[name]), name


def test_every_alert_is_on_the_page() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES)
    assert len(alerts) > 10
    assert re.findall(r"`(Cosmos\w+)`", PAGE) == alerts


def test_panels_do_not_overlap_and_ask_questions() -> None:
    places: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert places.setdefault((x, y), panel["title"]) == panel["title"]
        assert panel["type"] == "row" or panel["title"].endswith("?")
