"""Drives each Python SDK through five cases and prints what the SDK made of them, as one JSON object.

Usage: python_sdks.py BASES, where BASES is a JSON object of base URLs by provider. The provider answers by the model's
name (case-plain, case-stream, case-tool, case-error, case-cancel). Run once against the provider and once through the
sidecar, the output must be the same.
"""

import json
import os
import sys

KEY = "sk-made-up-key-for-tests"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
BASES = json.loads(sys.argv[1])
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


def plain(value):
    """Anything that an SDK returns as JSON; fields that an SDK makes up itself (times, random ids) left out."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", warnings=False)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in ("sdk_http_response", "created", "run_id")}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def run(cases):
    results = {}
    for name, case in cases.items():
        try:
            results[name] = plain(case())
        except Exception as error:  # the error case's result, and a difference in any other
            status = getattr(error, "status_code", None) or getattr(error, "code", None)
            results[name] = {"error": type(error).__name__, "status": status if isinstance(status, int) else str(status)}
    return results


def cancelled(stream, close=None):
    """The first event of a stream that is then left."""
    first = plain(next(iter(stream)))
    (close or getattr(stream, "close"))()
    return first


def openai_cases():
    from openai import OpenAI

    client = OpenAI(base_url=BASES["openai"] + "/v1", api_key=KEY, max_retries=0)
    chat = client.chat.completions.create
    return {
        "plain": lambda: chat(model="case-plain", messages=HELLO),
        "stream": lambda: list(chat(model="case-stream", messages=HELLO, stream=True)),
        "tool": lambda: chat(model="case-tool", messages=HELLO, tools=[TOOL]),
        "error": lambda: chat(model="case-error", messages=HELLO),
        "cancel": lambda: cancelled(chat(model="case-cancel", messages=HELLO, stream=True)),
        "responses": lambda: client.responses.create(model="case-plain", input="Hello"),
        "responses stream": lambda: list(client.responses.create(model="case-stream", input="Hello", stream=True)),
    }


def anthropic_cases():
    from anthropic import Anthropic

    create = Anthropic(base_url=BASES["anthropic"], api_key=KEY, max_retries=0).messages.create
    ask = {"max_tokens": 100, "messages": HELLO}
    tool = {"name": "get_weather", "input_schema": TOOL["function"]["parameters"]}
    return {
        "plain": lambda: create(model="case-plain", **ask),
        "stream": lambda: list(create(model="case-stream", stream=True, **ask)),
        "tool": lambda: create(model="case-tool", tools=[tool], **ask),
        "error": lambda: create(model="case-error", **ask),
        "cancel": lambda: cancelled(create(model="case-cancel", stream=True, **ask)),
    }


def google_cases():
    from google import genai
    from google.genai import types

    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=BASES["gemini"]))
    function = types.FunctionDeclaration(
        name="get_weather", parameters_json_schema=TOOL["function"]["parameters"]
    )
    tools = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[function])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    ask, stream = client.models.generate_content, client.models.generate_content_stream
    return {
        "plain": lambda: ask(model="case-plain", contents="Hello"),
        "stream": lambda: list(stream(model="case-stream", contents="Hello")),
        "tool": lambda: ask(model="case-tool", contents="Hello", config=tools),
        "error": lambda: ask(model="case-error", contents="Hello"),
        "cancel": lambda: cancelled(stream(model="case-cancel", contents="Hello")),
    }


def mistral_cases():
    try:
        from mistralai import Mistral
    except ImportError:
        from mistralai.client import Mistral

    chat = Mistral(api_key=KEY, server_url=BASES["mistral"]).chat

    def cancel():
        with chat.stream(model="case-cancel", messages=HELLO) as events:
            return plain(next(iter(events)))

    def stream():
        with chat.stream(model="case-stream", messages=HELLO) as events:
            return list(events)

    return {
        "plain": lambda: chat.complete(model="case-plain", messages=HELLO),
        "stream": stream,
        "tool": lambda: chat.complete(model="case-tool", messages=HELLO, tools=[TOOL]),
        "error": lambda: chat.complete(model="case-error", messages=HELLO),
        "cancel": cancel,
    }


def cohere_cases():
    import cohere

    client = cohere.ClientV2(api_key=KEY, base_url=BASES["cohere"])
    return {
        "plain": lambda: client.chat(model="case-plain", messages=HELLO),
        "stream": lambda: list(client.chat_stream(model="case-stream", messages=HELLO)),
        "tool": lambda: client.chat(model="case-tool", messages=HELLO, tools=[TOOL]),
        "error": lambda: client.chat(model="case-error", messages=HELLO),
        "cancel": lambda: cancelled(client.chat_stream(model="case-cancel", messages=HELLO)),
    }


def groq_cases():
    from groq import Groq

    chat = Groq(base_url=BASES["groq"], api_key=KEY, max_retries=0).chat.completions.create
    return {
        "plain": lambda: chat(model="case-plain", messages=HELLO),
        "stream": lambda: list(chat(model="case-stream", messages=HELLO, stream=True)),
        "tool": lambda: chat(model="case-tool", messages=HELLO, tools=[TOOL]),
        "error": lambda: chat(model="case-error", messages=HELLO),
        "cancel": lambda: cancelled(chat(model="case-cancel", messages=HELLO, stream=True)),
    }


def litellm_cases():
    import litellm

    litellm.suppress_debug_info = True
    base = {"api_base": BASES["openai"] + "/v1", "api_key": KEY, "num_retries": 0, "messages": HELLO}

    def text(stream):
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    def cancel():
        stream = litellm.completion(model="openai/case-cancel", stream=True, **base)
        first = next(stream).choices[0].delta.content
        stream.completion_stream.close()
        return first

    return {
        "plain": lambda: litellm.completion(model="openai/case-plain", **base),
        "stream": lambda: text(litellm.completion(model="openai/case-stream", stream=True, **base)),
        "tool": lambda: litellm.completion(model="openai/case-tool", tools=[TOOL], **base),
        "error": lambda: litellm.completion(model="openai/case-error", **base),
        "cancel": cancel,
    }


def langchain_cases():
    from langchain_openai import ChatOpenAI

    def model(case):
        return ChatOpenAI(base_url=BASES["openai"] + "/v1", api_key=KEY, model=case, max_retries=0)

    def text(chunks):
        return [chunk.content for chunk in chunks]

    def cancel():
        stream = model("case-cancel").stream("Hello")
        first = next(stream).content
        stream.close()
        return first

    return {
        "plain": lambda: {"content": (m := model("case-plain").invoke("Hello")).content, "usage": m.usage_metadata},
        "stream": lambda: text(model("case-stream").stream("Hello")),
        "tool": lambda: model("case-tool").bind_tools([TOOL]).invoke("Hello").tool_calls,
        "error": lambda: model("case-error").invoke("Hello"),
        "cancel": cancel,
    }


SDKS = {
    "openai": openai_cases,
    "anthropic": anthropic_cases,
    "google-genai": google_cases,
    "mistralai": mistral_cases,
    "cohere": cohere_cases,
    "groq": groq_cases,
    "litellm": litellm_cases,
    "langchain-openai": langchain_cases,
}

if __name__ == "__main__":
    print(json.dumps({name: run(cases()) for name, cases in SDKS.items()}, sort_keys=True))
