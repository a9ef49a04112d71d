// Drives each Node SDK through five cases and prints what the SDK made of them, as one JSON object.
//
// Usage: node_sdks.mjs BASES, where BASES is a JSON object of base URLs by provider; run in the directory that holds
// node_modules. The provider answers by the model's name (case-plain, case-stream, case-tool, case-error, case-cancel).
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.cwd() + "/package.json");
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const KEY = "sk-made-up-key-for-tests";
const BASES = JSON.parse(process.argv[2]);
const HELLO = [{ role: "user", content: "Hello" }];
const PARAMETERS = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const TOOL = { type: "function", function: { name: "get_weather", parameters: PARAMETERS } };

const all = async (stream) => {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
};
const first = async (stream) => {
  for await (const event of stream) return event; // leaving the loop ends the stream
};

async function openaiCases() {
  const { default: OpenAI } = await load("openai");
  const client = new OpenAI({ baseURL: BASES.openai + "/v1", apiKey: KEY, maxRetries: 0 });
  const chat = (body) => client.chat.completions.create({ messages: HELLO, ...body });
  return {
    plain: () => chat({ model: "case-plain" }),
    stream: async () => all(await chat({ model: "case-stream", stream: true })),
    tool: () => chat({ model: "case-tool", tools: [TOOL] }),
    error: () => chat({ model: "case-error" }),
    cancel: async () => first(await chat({ model: "case-cancel", stream: true })),
  };
}

async function anthropicCases() {
  const { default: Anthropic } = await load("@anthropic-ai/sdk");
  const client = new Anthropic({ baseURL: BASES.anthropic, apiKey: KEY, maxRetries: 0 });
  const ask = (body) => client.messages.create({ max_tokens: 100, messages: HELLO, ...body });
  return {
    plain: () => ask({ model: "case-plain" }),
    stream: async () => all(await ask({ model: "case-stream", stream: true })),
    tool: () => ask({ model: "case-tool", tools: [{ name: "get_weather", input_schema: PARAMETERS }] }),
    error: () => ask({ model: "case-error" }),
    cancel: async () => first(await ask({ model: "case-cancel", stream: true })),
  };
}

async function googleCases() {
  const { GoogleGenAI } = await load("@google/genai");
  const { models } = new GoogleGenAI({ apiKey: KEY, httpOptions: { baseUrl: BASES.gemini } });
  const shown = ({ sdkHttpResponse, ...rest }) => rest;
  const tools = [{ functionDeclarations: [{ name: "get_weather", parametersJsonSchema: PARAMETERS }] }];
  return {
    plain: async () => shown(await models.generateContent({ model: "case-plain", contents: "Hello" })),
    stream: async () =>
      (await all(await models.generateContentStream({ model: "case-stream", contents: "Hello" }))).map(shown),
    tool: async () => shown(await models.generateContent({ model: "case-tool", contents: "Hello", config: { tools } })),
    error: () => models.generateContent({ model: "case-error", contents: "Hello" }),
    cancel: async () => shown(await first(await models.generateContentStream({ model: "case-cancel", contents: "Hello" }))),
  };
}

async function aiCases() {
  const { generateText, streamText, tool, jsonSchema } = await load("ai");
  const { createOpenAI } = await load("@ai-sdk/openai");
  const provider = createOpenAI({ baseURL: BASES.openai + "/v1", apiKey: KEY });
  const ask = (name) => ({ model: provider.chat(name), prompt: "Hello", maxRetries: 0 });
  const shown = ({ text, toolCalls, usage, finishReason }) => ({ text, toolCalls, usage, finishReason });
  return {
    plain: async () => shown(await generateText(ask("case-plain"))),
    stream: () => all(streamText(ask("case-stream")).textStream),
    tool: async () => {
      const get_weather = tool({ inputSchema: jsonSchema(PARAMETERS) });
      return shown(await generateText({ ...ask("case-tool"), tools: { get_weather } }));
    },
    error: () => generateText(ask("case-error")),
    cancel: () => first(streamText({ ...ask("case-cancel"), abortSignal: AbortSignal.timeout(5000) }).textStream),
  };
}

const sdks = { openai: openaiCases, "@anthropic-ai/sdk": anthropicCases, "@google/genai": googleCases, ai: aiCases };
const results = {};
for (const [name, cases] of Object.entries(sdks)) {
  results[name] = {};
  for (const [which, run] of Object.entries(await cases())) {
    try {
      results[name][which] = await run();
    } catch (error) {
      results[name][which] = { error: error.constructor.name, status: error.status ?? error.statusCode ?? null };
    }
  }
}
console.log(JSON.stringify(results));
process.exit(0);
