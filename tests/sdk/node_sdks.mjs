// Drives each Node SDK through the same cases against several base URLs; prints what the SDK made of the answers.
//
// Usage: node_sdks.mjs PLAN, in the directory that holds node_modules. The plan is a JSON object: `runs` maps a run's name
// to base URLs by provider (an SDK whose provider has none is left as it is), `faults` asks for the cases of a provider that breaks down, `variables` gives base URLs by
// environment variable. One JSON line goes to standard output: run, SDK, case, result. Then the process stays until its
// standard input closes: a stream that was left must have ended by then. The provider answers by the model's name, which is SDK and case (openai.case-plain).
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.cwd() + "/package.json");
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const PLAN = JSON.parse(process.argv[2]);
const KEY = "sk-made-up-key-for-tests";
const HELLO = [{ role: "user", content: "Hello" }];
const PARAMETERS = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

// How an SDK is told its base URL: by an argument, or by a variable that it reads itself; or not at all.
const versioned = (url) => url && url + "/v1";
const base = (argument, variable, url) => {
  if (url === undefined) return {};
  if (!PLAN.variables) return { [argument]: url };
  process.env[variable] = url;
  return {};
};

// Headers as the SDK shows them, in a fixed order.
const pairs = (headers) =>
  headers ? [...(headers.entries?.() ?? Object.entries(headers))].map(([k, v]) => [k.toLowerCase(), v]).sort() : null;

// All that an application can learn from an error of an SDK.
const failure = (error) => ({
  class: error.constructor.name,
  status: error.status ?? error.statusCode ?? null,
  message: error.message,
  cause: error.cause?.message ?? null,
  body: error.error ?? error.responseBody ?? null,
  request_id: error.requestID ?? null,
  headers: pairs(error.headers ?? error.responseHeaders),
});

const last = (values, usage) => values.map(usage).filter(Boolean).at(-1);

// Each SDK: `ask` for a whole answer, `stream` for events, `tokens` in and out as the SDK reports them.
async function openai(bases, maxRetries = 0) {
  const { default: OpenAI } = await load("openai");
  const client = new OpenAI({ ...base("baseURL", "OPENAI_BASE_URL", versioned(bases.openai)), apiKey: KEY, maxRetries });
  const tool = { type: "function", function: { name: "get_weather", parameters: PARAMETERS } };
  const create = (body) => client.chat.completions.create({ messages: HELLO, ...body }).withResponse();
  return {
    async ask(model, tools) {
      const { data, response } = await create({ model, ...(tools && { tools: [tool] }) });
      return [data, response.headers];
    },
    async stream(model) {
      const { data, response } = await create({ model, stream: true, stream_options: { include_usage: true } });
      return [data, response.headers, () => data.controller.abort()];
    },
    tokens(values) {
      const usage = last(values, (value) => value.usage);
      return usage ? [usage.prompt_tokens, usage.completion_tokens] : null;
    },
  };
}

async function openaiResponses(bases) {
  const { default: OpenAI } = await load("openai");
  const client = new OpenAI({ ...base("baseURL", "OPENAI_BASE_URL", versioned(bases.openai)), apiKey: KEY, maxRetries: 0 });
  const tool = { type: "function", name: "get_weather", parameters: PARAMETERS, strict: false };
  const create = (body) => client.responses.create({ input: "Hello", ...body }).withResponse();
  return {
    async ask(model, tools) {
      const { data, response } = await create({ model, ...(tools && { tools: [tool] }) });
      return [data, response.headers];
    },
    async stream(model) {
      const { data, response } = await create({ model, stream: true });
      return [data, response.headers, () => data.controller.abort()];
    },
    tokens(values) {
      const usage = last(values, (value) => (value.response ?? value).usage);
      return usage ? [usage.input_tokens, usage.output_tokens] : null;
    },
  };
}

async function anthropic(bases, maxRetries = 0) {
  const { default: Anthropic } = await load("@anthropic-ai/sdk");
  const client = new Anthropic({ ...base("baseURL", "ANTHROPIC_BASE_URL", bases.anthropic), apiKey: KEY, maxRetries });
  const tool = { name: "get_weather", input_schema: PARAMETERS };
  const create = (body) => client.messages.create({ max_tokens: 100, messages: HELLO, ...body }).withResponse();
  return {
    async ask(model, tools) {
      const { data, response } = await create({ model, ...(tools && { tools: [tool] }) });
      return [data, response.headers];
    },
    async stream(model) {
      const { data, response } = await create({ model, stream: true });
      return [data, response.headers, () => data.controller.abort()];
    },
    tokens(values) {
      const total = {};
      for (const value of values) {
        for (const [name, count] of Object.entries(value.usage ?? value.message?.usage ?? {})) {
          if (count != null) total[name] = count;
        }
      }
      if (total.input_tokens === undefined) return null;
      const cached = (total.cache_read_input_tokens ?? 0) + (total.cache_creation_input_tokens ?? 0);
      return [total.input_tokens + cached, total.output_tokens];
    },
  };
}

async function google(bases) {
  const { GoogleGenAI } = await load("@google/genai");
  const version = bases["gemini version"];
  const where = base("baseUrl", "GOOGLE_GEMINI_BASE_URL", bases.gemini);
  const httpOptions = { ...where, ...(version && { apiVersion: version }) };
  const { models } = new GoogleGenAI({ apiKey: KEY, httpOptions });
  const tools = [{ functionDeclarations: [{ name: "get_weather", parametersJsonSchema: PARAMETERS }] }];
  return {
    async ask(model, withTools) {
      const config = withTools ? { tools } : {};
      const answer = await models.generateContent({ model, contents: "Hello", config });
      return [answer, answer.sdkHttpResponse.headers];
    },
    async stream(model) {
      const leave = new AbortController();
      const config = { abortSignal: leave.signal };
      const events = await models.generateContentStream({ model, contents: "Hello", config });
      return [events, null, () => leave.abort()];
    },
    tokens(values) {
      const usage = last(values, (value) => value.usageMetadata);
      if (!usage) return null;
      const asked = (usage.promptTokenCount ?? 0) + (usage.toolUsePromptTokenCount ?? 0);
      return [asked, (usage.candidatesTokenCount ?? 0) + (usage.thoughtsTokenCount ?? 0)];
    },
  };
}

async function ai(bases) {
  const { generateText, streamText, tool, jsonSchema } = await load("ai");
  const { createOpenAI } = await load("@ai-sdk/openai");
  const provider = createOpenAI({ ...base("baseURL", "OPENAI_BASE_URL", versioned(bases.openai)), apiKey: KEY });
  const ask = (name) => ({ model: provider.chat(name), prompt: "Hello", maxRetries: 0 });
  const tools = { get_weather: tool({ inputSchema: jsonSchema(PARAMETERS) }) };
  // Ids that the SDK makes up are left out.
  const shown = ({ text, toolCalls, usage, finishReason, response }) => ({
    text, toolCalls, usage, finishReason, id: response.id, model: response.modelId, body: response.body,
  });
  return {
    // Events that the SDK makes up before the provider has answered.
    made: ["start", "start-step"],
    async ask(model, withTools) {
      const answer = await generateText({ ...ask(model), ...(withTools && { tools }) });
      return [shown(answer), answer.response.headers];
    },
    async stream(model) {
      const leave = new AbortController();
      const { fullStream } = streamText({ ...ask(model), abortSignal: leave.signal, onError() {} });
      const events = (async function* () {
        for await (const event of fullStream) {
          if (event.type === "error") throw event.error;
          // Clock and measurements of the SDK itself.
          const { performance, response, ...rest } = event;
          yield { ...rest, ...(response && { response: { ...response, timestamp: null } }) };
        }
      })();
      return [events, null, () => leave.abort()];
    },
    tokens(values) {
      const usage = last(values, (value) => value.totalUsage ?? value.usage);
      return usage?.inputTokens === undefined ? null : [usage.inputTokens, usage.outputTokens];
    },
  };
}

async function asked(sdk, model, tools) {
  const [answer, headers] = await sdk.ask(model, tools);
  return { answer, headers: pairs(headers), tokens: sdk.tokens([answer]) };
}

// All events, or those that came until the stream broke; or the first `most`, and the stream is left.
async function streamed(sdk, model, most) {
  const [events, headers, leave] = await sdk.stream(model);
  const seen = [];
  let counted = 0;
  let error = null;
  try {
    for await (const event of events) {
      seen.push(event);
      if (sdk.made?.includes(event.type)) continue;
      counted += 1;
      if (counted === most) {
        leave();
        break;
      }
    }
  } catch (broken) {
    error = failure(broken);
  }
  return { events: seen, headers: pairs(headers), tokens: sdk.tokens(seen), error };
}

const CASES = {
  plain: asked,
  stream: streamed,
  tool: (sdk, model) => asked(sdk, model, true),
  error: asked,
  cancel: (sdk, model) => streamed(sdk, model, 2),
};
const FAULTS = { limit: asked, truncate: streamed, disconnect: streamed, malformed: streamed };
// As many retries as the SDK does by itself.
const RETRIES = { retry: asked };
const SDKS = {
  openai: [openai, CASES],
  "openai-responses": [openaiResponses, CASES],
  anthropic: [anthropic, CASES],
  "google-genai": [google, CASES],
  ai: [ai, CASES],
  "openai-retrying": [(bases) => openai(bases, 2), RETRIES],
};

async function run(bases, faults) {
  const results = {};
  for (const [name, [make, cases]] of Object.entries(SDKS)) {
    const sdk = await make(bases);
    results[name] = {};
    for (const [which, call] of Object.entries({ ...cases, ...(faults && cases === CASES && FAULTS) })) {
      try {
        results[name][which] = await call(sdk, `${name}.case-${which}`);
      } catch (error) {
        results[name][which] = { error: failure(error) };
      }
    }
  }
  return results;
}

const results = {};
for (const [name, bases] of Object.entries(PLAN.runs)) results[name] = await run(bases, PLAN.faults);
console.log(JSON.stringify(results));
process.stdin.resume().on("end", () => process.exit(0));
