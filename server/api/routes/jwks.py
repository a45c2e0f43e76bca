"""The public key that webhooks are signed with, where verifiers look for it at fal.

fal has it on its `rest` hosts only; here every host and prefix answers, so that a verifier needs
to be told nothing but this server's name.
"""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from server.api.dependencies import ServicesDep
from server.fal.urls import Service

MAX_AGE_S = 3600
"""How long a verifier may keep the set. fal's documents allow a day; a key that was restored or
made anew should not be unknown for so long."""

router = APIRouter()


async def jwks(services: ServicesDep) -> Response:
    """The key set. It is public, and asks for no key."""
    padded = services.settings.webhook_jwks_padded
    return JSONResponse(
        services.signing_key.key_set(padded=padded),
        headers={"cache-control": f"public, max-age={MAX_AGE_S}"},
    )


for service in (Service.REST, Service.RUN, Service.QUEUE, Service.DISCOVERY):
    router.add_api_route(f"/{service.value}/.well-known/jwks.json", jwks, methods=["GET", "HEAD"])
