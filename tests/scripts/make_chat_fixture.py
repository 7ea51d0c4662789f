#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/chat/templates.json: chat templates in the usual variations, and what transformers makes of them.

  python3 tests/scripts/make_chat_fixture.py          # needs transformers and jinja2; made with transformers 5.23.0
"""
import json
import os

import jinja2

from transformers.utils.chat_template_utils import _compile_jinja_template

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
DEFAULT = "{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
QWEN = (
    "{% set pictures = namespace(value=0) %}{% set films = namespace(value=0) %}{% for m in messages %}" + DEFAULT
    + "<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}<|im_end|>\n{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{% set pictures.value = pictures.value + 1 %}{% if add_vision_id %}Picture {{ pictures.value }}: {% endif %}" + PICTURE
    + "{% elif part['type'] == 'video' %}{% set films.value = films.value + 1 %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIMPLE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}
        {{- "\n" }}{{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou weigh what you see.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "tool" and (messages[loop.index0 - 1].role != "tool") %}
        {{- '<|im_start|>user' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
INDENTED = """{# what follows is indented #}
{% for m in messages %}
  {% if m.role == 'system' %}
<|im_start|>words\n{{ m.content }}<|im_end|>
    {%- else +%}
 <|im_start|>{{ m.role -}}
   : {{ m.content }}<|im_end|>
  {% endif %}
  text stays {% if false %}never{% endif %} here
{% endfor %}

{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}


"""
SET = (
    "{% if messages[0].role == 'system' %}{% set words = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set words %}Default {{ 1 + 2 * 3 }} words.{% endset %}{% set rest = messages %}{% endif %}"
    "<|im_start|>system\n{{ words }}<|im_end|>\n{% for m in rest[::-1] if m.role != 'none' %}<|im_start|>{{ loop.index }}/{{ loop.length }}"
    " {{ m['role'] | upper }}\n{{ m['content'] }}<|im_end|>\n{% else %}nobody{% endfor %}<|im_start|>assistant\n"
)
TEMPLATES = {
    "qwen": QWEN,
    "no default system": QWEN.replace(DEFAULT, ""),
    "another default system": QWEN.replace("a helpful assistant", "an expert for pictures"),
    "no line end behind a turn": QWEN.replace("<|im_end|>\n", "<|im_end|>"),
    "two line ends behind a turn": QWEN.replace("<|im_end|>\n", "<|im_end|>\n\n"),
    "line end at the end": QWEN + "\n",
    "two line ends at the end": QWEN + "\n\n",
    "carriage returns": QWEN.replace("\n", "\r\n"),
    "no line end behind assistant": QWEN.replace("assistant\n{% endif", "assistant{% endif"),
    "pictures numbered": QWEN.replace("if add_vision_id", "if true"),
    "pictures numbered by lines": QWEN.replace("Picture {{ pictures.value }}: ", "Picture {{ pictures.value }}:\n").replace("if add_vision_id", "if not add_vision_id"),
    "texts trimmed": QWEN.replace("{{ m['content'] }}", "{{ m['content'] | trim }}").replace("{{ part['text'] }}", "{{ part.text.strip() }}"),
    "only lists": QWEN.replace("{% if m['content'] is string %}{{ m['content'] }}<|im_end|>\n{% else %}", "").replace("{% endfor %}<|im_end|>\n{% endif %}", "{% endfor %}<|im_end|>\n"),
    "simple": SIMPLE,
    "simple, tokens by name": "{{ bos_token }}{{ eos_token }}" + SIMPLE,
    "simple, an answer that thinks": SIMPLE.replace("assistant\n", "assistant\n<think>\n\n</think>\n"),
    "simple, marked for masks": SIMPLE.replace("{{ m['content'] }}", "{% generation %}{{ m['content'] }}{% endgeneration %}"),
    "tools": TOOLS,
    "indented": INDENTED,
    "set": SET,
    "choice": "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' }}{{ m.content if m.content is string else m.content[-1]['text'] }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}",
    "asks for a word": SIMPLE.replace("{{ m['content'] }}", "{% if 'Rate' in m.content %}Then: {% elif 'rate' not in m.content %}First: {% endif %}{{ m.content }}"),
    "asks how it begins and ends": SIMPLE.replace("{{ m['content'] }}", "{{ m.content.startswith(' ') }} {{ m.content.strip().startswith('Rate') }} {{ (m.content | trim).endswith('.') }} {{ m.content }}"),
    "asks what it is": SIMPLE.replace("{{ m['content'] }}", "{{ m.content == '\\nRate  it: {{ x }} ' }}{{ m.content.strip() in ['Be strict.', 'no'] }}{{ m.content | length }}{{ 'some' if m.content.strip() else 'none' }} {{ m.content }}"),
    "asks of what it puts together": SIMPLE.replace("{{ m['content'] }}", "{% set all = m.role ~ ': ' ~ m.content %}{{ all == 'system:  Be strict.\\n' }}{{ ': x' in all }} {{ all }}"),
    "asks for equal messages": SIMPLE.replace("{{ m['content'] }}", "{{ m == messages[0] }}{{ m == {'content': '\\nRate  it: {{ x }} ', 'role': 'user'} }} {{ m.content }}"),
    "in the order of the keys": SIMPLE.replace("{{ m['content'] }}", "{% for key, value in m.items() %}{{ key }} = {{ value }};{% endfor %}{{ m.keys() | join(',') }}{% for key in {'b': 1, 'a': 2, 'b': 3} %}{{ key }}{% endfor %}"),
    "asks for a word in a list": QWEN.replace("{{ part['text'] }}", "{% if 'Rate' in part.text %}Now: {% endif %}{{ part.text | trim }}"),
}
SYSTEM, USER = " Be strict.\n", "\nRate  it: {{ x }} "


def conversation(system, images, as_list):
    def content(text, count):
        return [{"type": "image"}] * count + [{"type": "text", "text": text}] if as_list else text

    return ([{"role": "system", "content": content(SYSTEM, 0)}] if system else []) + [{"role": "user", "content": content(USER, images)}]


rows = []
for name, template in TEMPLATES.items():
    cases = []
    for images in (0, 1, 2):
        for system in (False, True):
            as_list = images > 0 or name == "only lists"
            messages = conversation(system, images, as_list)
            try:
                text = _compile_jinja_template(template).render(messages=messages, add_generation_prompt=True, tools=None, documents=None, eos_token="<|im_end|>")
            except (TypeError, jinja2.UndefinedError):  # it takes the list of parts for a text
                continue
            # A template for texts alone prints a list or loses the pictures: no prompt of ours.
            if text.count("<|image_pad|>") == images and "{'type'" not in text:
                cases.append({"images": images, "system": system, "text": text})
    rows.append({"name": name, "template": template, "cases": cases})
path = os.path.join(os.path.dirname(__file__), "..", "fixtures", "chat", "templates.json")
with open(path, "w", encoding="utf-8") as file:
    json.dump({"system": SYSTEM, "user": USER, "templates": rows}, file, indent=1)
    file.write("\n")
