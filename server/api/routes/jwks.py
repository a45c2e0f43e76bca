"""The public key that webhooks are signed with, where verifiers look for it at fal.

fal has it on its `rest` hosts only; here every host and prefix answers, so that a verifier needs
to be told nothing but this server's name.
"""

from fastapi import APIRouter, Response

from server.api.dependencies import ServicesDep
from server.fal.urls import Service
from server.webhooks.signing import KeySet

MAX_AGE_S = 3600
"""How long a verifier may keep the set. fal's documents allow a day; a key that was restored or
replaced should not be unknown for so long."""

router = APIRouter(tags=[Service.DISCOVERY])


async def key_set(services: ServicesDep, response: Response) -> KeySet:
    """The key that webhooks are signed with."""
    response.headers["cache-control"] = f"public, max-age={MAX_AGE_S}"
    padded = services.settings.webhook_jwks_padded
    return services.webhooks.key.key_set(padded=padded)


for service in (Service.REST, Service.RUN, Service.QUEUE, Service.DISCOVERY):
    path = f"/{service.value}/.well-known/jwks.json"
    is_described = service is Service.DISCOVERY
    router.get(path, response_description="A key set.", include_in_schema=is_described)(key_set)
    router.head(path, include_in_schema=False)(key_set)
