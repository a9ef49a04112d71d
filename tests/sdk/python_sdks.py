"""Drives each Python SDK through the same cases against several base URLs; prints what the SDK made of the answers.

Usage: python_sdks.py PLAN. The plan is a JSON object: `runs` maps a run's name to base URLs by provider (an SDK whose provider
has none is left as it is: the provider's own, or what the environment says), `faults` asks for the cases of a provider that
breaks down, `variables` gives base URLs by environment variable. One JSON line goes to standard output: run, SDK, case, result. Then the process
stays, clients and all, until its standard input closes: a stream that was left must have ended by then.

The provider answers by the model's name, which is SDK and case (openai.case-plain).
"""

import json
import os
import sys

KEY = "sk-made-up-key-for-tests"
HELLO = [{"role": "user", "content": "Hello"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": PARAMETERS}}
USAGE = {"include_usage": True}
PLAN = json.loads(sys.argv[1])
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


def plain(value):
    """Anything that an SDK returns, as JSON."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", warnings=False)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, str) and value.startswith("lc_run-"):
        return "made up by langchain"
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def pairs(headers):
    """Headers as the SDK shows them, in a fixed order; each of several of one name."""
    if headers is None:
        return None
    items = headers.multi_items() if hasattr(headers, "multi_items") else headers.items()
    return sorted([name.lower(), str(value)] for name, value in items)


def failure(error):
    """All that an application can learn from an exception of an SDK."""
    response = getattr(error, "response", None)
    headers = getattr(error, "headers", None) or getattr(response, "headers", None)
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    return {
        "class": type(error).__module__ + "." + type(error).__name__,
        "status": status if isinstance(status, int) else str(status),
        "message": str(error),
        "body": plain(getattr(error, "body", None) or getattr(error, "details", None)),
        "request_id": plain(getattr(error, "request_id", None)),
        "headers": pairs(headers),
    }


def base(argument, variable, url):
    """How an SDK is told its base URL: by an argument, or by a variable that it reads itself; or not at all."""
    if url is None:
        return {}
    if not PLAN["variables"]:
        return {argument: url}
    os.environ[variable] = url
    return {}


def versioned(url):
    return url and url + "/v1"


def add(*numbers):
    return sum(number or 0 for number in numbers)


def openai_tokens(usage):
    return usage and [usage["prompt_tokens"], usage["completion_tokens"]]


class Chat:
    """An SDK with OpenAI's chat format. Others override what differs."""

    def ask(self, model, tools=None):
        """The whole answer, and headers where the SDK shows them."""
        raw = self.create(model=model, messages=HELLO, **({"tools": tools} if tools else {}))
        return raw.parse(), raw.headers

    def stream(self, model):
        """Events, headers, and how to leave."""
        raw = self.create(model=model, messages=HELLO, stream=True, stream_options=USAGE)
        events = raw.parse()
        return events, raw.headers, events.close

    tool = TOOL

    def tokens(self, values):
        """Tokens in and out as the SDK reports them for an answer or the events of a stream."""
        found = [value["usage"] for value in values if value.get("usage")]
        return openai_tokens(found[-1]) if found else None


class OpenAI(Chat):
    def __init__(self, bases, **options):
        import openai

        options = {"max_retries": 0, **base("base_url", "OPENAI_BASE_URL", versioned(bases.get("openai"))), **options}
        self.client = openai.OpenAI(api_key=KEY, **options)
        self.create = self.client.chat.completions.with_raw_response.create


class OpenAIResponses(OpenAI):
    tool = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": False}

    def ask(self, model, tools=None):
        create = self.client.responses.with_raw_response.create
        raw = create(model=model, input="Hello", **({"tools": tools} if tools else {}))
        return raw.parse(), raw.headers

    def stream(self, model):
        raw = self.client.responses.with_raw_response.create(model=model, input="Hello", stream=True)
        events = raw.parse()
        return events, raw.headers, events.close

    def tokens(self, values):
        found = [usage for value in values if (usage := (value.get("response") or value).get("usage"))]
        return [found[-1]["input_tokens"], found[-1]["output_tokens"]] if found else None


class Anthropic(Chat):
    tool = {"name": "get_weather", "input_schema": PARAMETERS}

    def __init__(self, bases, **options):
        import anthropic

        options = {"max_retries": 0, **base("base_url", "ANTHROPIC_BASE_URL", bases.get("anthropic")), **options}
        self.client = anthropic.Anthropic(api_key=KEY, **options)
        raw = self.client.messages.with_raw_response.create
        self.create = lambda stream_options=None, **body: raw(max_tokens=100, **body)

    def tokens(self, values):
        total = {}
        for value in values:
            usage = value.get("usage") or (value.get("message") or {}).get("usage") or {}
            total.update({name: count for name, count in usage.items() if count is not None})
        read, written = total.get("cache_read_input_tokens"), total.get("cache_creation_input_tokens")
        return total and [add(total["input_tokens"], read, written), total["output_tokens"]]


class Google(Chat):
    def __init__(self, bases):
        from google import genai
        from google.genai import types

        where = base("base_url", "GOOGLE_GEMINI_BASE_URL", bases.get("gemini"))
        options = types.HttpOptions(api_version=bases.get("gemini version"), **where)
        # Closes its connections when it is dropped.
        self.client = genai.Client(api_key=KEY, http_options=options)
        self.models = self.client.models
        function = types.FunctionDeclaration(name="get_weather", parameters_json_schema=PARAMETERS)
        self.tool = types.Tool(function_declarations=[function])
        self.config = lambda tools: types.GenerateContentConfig(
            tools=tools, automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)
        )

    def ask(self, model, tools=None):
        answer = self.models.generate_content(model=model, contents="Hello", config=self.config(tools))
        return answer, answer.sdk_http_response.headers

    def stream(self, model):
        events = self.models.generate_content_stream(model=model, contents="Hello")
        return events, None, events.close

    def tokens(self, values):
        found = [value["usage_metadata"] for value in values if value.get("usage_metadata")]
        if not found:
            return None
        last = found[-1]
        asked = add(last["prompt_token_count"], last["tool_use_prompt_token_count"])
        return [asked, add(last["candidates_token_count"], last["thoughts_token_count"])]


class Mistral(Chat):
    def __init__(self, bases):
        from mistralai.client import Mistral as Client

        # It reads no variable: below `keytally run` its URL is written in code.
        own = os.environ.get("KEYTALLY_URL") if "HTTPS_PROXY" not in os.environ else None
        self.chat = Client(api_key=KEY, server_url=bases.get("mistral", own and own + "/mistral")).chat

    def ask(self, model, tools=None):
        return self.chat.complete(model=model, messages=HELLO, tools=tools), None

    def stream(self, model):
        events = self.chat.stream(model=model, messages=HELLO)
        return events, events.response.headers, events.response.close

    def tokens(self, values):
        return super().tokens([value.get("data", value) for value in values])


class Cohere(Chat):
    def __init__(self, bases):
        where = base("base_url", "CO_API_URL", bases.get("cohere"))
        # It reads the variable when it is imported.
        for name in [name for name in sys.modules if name.partition(".")[0] == "cohere"]:
            del sys.modules[name]
        import cohere

        self.client = cohere.ClientV2(api_key=KEY, **where)
        self.body = {"messages": HELLO, "request_options": {"max_retries": 0}}

    def ask(self, model, tools=None):
        raw = self.client.with_raw_response.chat(model=model, **self.body, **({"tools": tools} if tools else {}))
        return raw.data, raw.headers

    def stream(self, model):
        events = self.client.chat_stream(model=model, **self.body)
        return events, None, events.close

    def tokens(self, values):
        found = [usage for value in values if (usage := value.get("usage") or (value.get("delta") or {}).get("usage"))]
        if not found:
            return None
        counted = found[-1].get("billed_units") or found[-1]["tokens"]
        return [int(counted["input_tokens"]), int(counted["output_tokens"])]


class Groq(Chat):
    def __init__(self, bases):
        import groq

        client = groq.Groq(api_key=KEY, max_retries=0, **base("base_url", "GROQ_BASE_URL", bases.get("groq")))
        raw = client.chat.completions.with_raw_response.create
        self.create = lambda stream_options=None, **body: raw(**body)

    def tokens(self, values):
        # In a stream of groq's own the usage is in `x_groq`.
        found = [usage for value in values if (usage := value.get("usage") or (value.get("x_groq") or {}).get("usage"))]
        return openai_tokens(found[-1]) if found else None


class LiteLLM(Chat):
    def __init__(self, bases):
        import litellm

        litellm.suppress_debug_info = True
        where = base("api_base", "OPENAI_BASE_URL", versioned(bases.get("openai")))
        self.base = {"api_key": KEY, "max_retries": 0, "messages": HELLO, **where}
        self.completion = litellm.completion

    def ask(self, model, tools=None):
        answer = self.completion(model="openai/" + model, tools=tools, **self.base)
        return answer, answer._response_headers

    def stream(self, model):
        events = self.completion(model="openai/" + model, stream=True, stream_options=USAGE, **self.base)
        # litellm stamps each chunk with its own id and time.
        ours = ({**plain(event), "created": None} for event in events)
        return ours, events._response_headers, lambda: events.completion_stream.close()


class LangChain(Chat):
    def __init__(self, bases):
        from langchain_openai import ChatOpenAI

        options = {"api_key": KEY, "max_retries": 0, "include_response_headers": True, "stream_usage": True}
        options |= base("base_url", "OPENAI_BASE_URL", versioned(bases.get("openai")))
        self.model = lambda name: ChatOpenAI(model=name, **options)

    def ask(self, model, tools=None):
        model = self.model(model)
        return (model.bind_tools(tools) if tools else model).invoke("Hello"), None

    def stream(self, model):
        events = self.model(model).stream("Hello")
        return events, None, events.close

    def tokens(self, values):
        found = [value["usage_metadata"] for value in values if value.get("usage_metadata")]
        return [found[-1]["input_tokens"], found[-1]["output_tokens"]] if found else None


def asked(sdk, model, tools=None):
    answer, headers = sdk.ask(model, tools)
    answer = plain(answer)
    return {"answer": answer, "headers": pairs(headers), "tokens": sdk.tokens([answer])}


def streamed(sdk, model, most=None):
    """All events, or those that came until the stream broke; or the first ones, and the stream is left."""
    events, headers, close = sdk.stream(model)
    seen, error = [], None
    try:
        for event in events:
            seen.append(plain(event))
            if len(seen) == most:
                break
    except Exception as broken:
        error = failure(broken)
    if most is not None:
        close()
    return {"events": seen, "headers": pairs(headers), "tokens": sdk.tokens(seen), "error": error}


CASES = {
    "plain": asked,
    "stream": streamed,
    "tool": lambda sdk, model: asked(sdk, model, [sdk.tool]),
    "error": asked,
    "cancel": lambda sdk, model: streamed(sdk, model, most=2),
}
FAULTS = {"limit": asked, "truncate": streamed, "disconnect": streamed, "malformed": streamed}
# As many retries as the SDK does by itself.
RETRIES = {"retry": asked}
SDKS = {
    "openai": (OpenAI, CASES),
    "openai-responses": (OpenAIResponses, CASES),
    "anthropic": (Anthropic, CASES),
    "google-genai": (Google, CASES),
    "mistralai": (Mistral, CASES),
    "cohere": (Cohere, CASES),
    "groq": (Groq, CASES),
    "litellm": (LiteLLM, CASES),
    "langchain-openai": (LangChain, CASES),
    "openai-retrying": (lambda bases: OpenAI(bases, max_retries=2), RETRIES),
    "anthropic-retrying": (lambda bases: Anthropic(bases, max_retries=2), RETRIES),
}
KEPT = []


def run(bases, faults):
    results = {}
    for name, (make, cases) in SDKS.items():
        sdk = make(bases)
        KEPT.append(sdk)
        results[name] = {}
        for case, call in {**cases, **(FAULTS if faults and cases is CASES else {})}.items():
            try:
                results[name][case] = call(sdk, f"{name}.case-{case}")
            except Exception as error:
                results[name][case] = {"error": failure(error)}
    return results


if __name__ == "__main__":
    results = {name: run(bases, PLAN["faults"]) for name, bases in PLAN["runs"].items()}
    print(json.dumps(results, sort_keys=True), flush=True)
    sys.stdin.read()
