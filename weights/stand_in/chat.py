"""Qwen2.5-VL's special tokens, and the part of its chat template that deals with text."""

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = [
    "<|im_start|>",
    END_OF_TURN,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]


def chat_template(text: str = "{}") -> str:
    """The template; `text` says what becomes of each text, which is `{}` there."""

    def shown(name: str) -> str:
        return "{{ " + text.format(name) + " }}"

    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}" + shown("message['content']") + "{% else %}"
        "{% for part in message['content'] %}{% if 'text' in part %}"
        + shown("part['text']")
        + "{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
