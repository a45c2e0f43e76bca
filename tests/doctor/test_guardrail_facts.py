"""`doctor` asks the guardrail's endpoint, as a server would."""

import asyncio
from pathlib import Path

from moderation_site import flagged, moderations, status
from servers import settings_in

from pipeline.guardrail import GuardrailKind
from server.doctor.collect import _checkpoint


async def test_an_endpoint_is_asked_for_verdicts(tmp_path: Path) -> None:
    async with moderations() as endpoint:
        settings = settings_in(tmp_path, guardrail=endpoint.url)
        facts = await asyncio.to_thread(_checkpoint, settings)
        assert facts["guardrail"] is GuardrailKind.ENDPOINT
        assert facts["guardrail_problem"] is None
        endpoint.judge = lambda part: (
            flagged(False) if part["type"] == "text" else status("404 Not Found")
        )
        facts = await asyncio.to_thread(_checkpoint, settings)
        assert "status 404" in facts["guardrail_problem"]
