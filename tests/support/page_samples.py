"""The samples of the endpoint's page, as printed but for where the prompt and the picture are."""

from server.fal.schemas import EXAMPLE_IMAGE, EXAMPLE_PROMPT

PICTURE_HOST = "https://v3b.fal.media"

CURL = r"""curl --request POST \
  --url https://fal.run/fal-ai/cosmos-predict-2.5/image-to-video \
  --header "Authorization: Key $FAL_KEY" \
  --header "Content-Type: application/json" \
  --data '{
     "prompt": "PROMPT",
     "image_url": "IMAGE"
   }'
"""

PYTHON = """import fal_client

def on_queue_update(update):
    if isinstance(update, fal_client.InProgress):
        for log in update.logs:
           print(log["message"])

result = fal_client.subscribe(
    "fal-ai/cosmos-predict-2.5/image-to-video",
    arguments={
        "prompt": "PROMPT",
        "image_url": "IMAGE"
    },
    with_logs=True,
    on_queue_update=on_queue_update,
)
print(result)
"""

JAVASCRIPT = """import { fal } from "@fal-ai/client";

const result = await fal.subscribe("fal-ai/cosmos-predict-2.5/image-to-video", {
  input: {
    prompt: "PROMPT",
    image_url: "IMAGE"
  },
  logs: true,
  onQueueUpdate: (update) => {
    if (update.status === "IN_PROGRESS") {
      update.logs.map((log) => log.message).forEach(console.log);
    }
  },
});
console.log(result.data);
console.log(result.requestId);
"""


def printed(sample: str, pictures: str, prompt: str = EXAMPLE_PROMPT) -> str:
    """A sample with the page's own prompt, unless another is given, and its picture's path."""
    image = EXAMPLE_IMAGE.replace(PICTURE_HOST, pictures)
    return sample.replace("PROMPT", prompt).replace("IMAGE", image)
