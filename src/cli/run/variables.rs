//! Which variables a command gets, so that its SDKs call the sidecar: data, and what becomes of a value that is there.
//!
//! In: the environment and the catalogue. Out: a [`Plan`] of paths on the proxy port, with providers to add for servers
//! that the catalogue does not know. A value of the user's decides where calls go: its server becomes the upstream of a
//! path of its own. What cannot be expressed so is left as it is and said. Values are never shown: they may hold a
//! password.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use url::Url;

use crate::call::Protocol;
use crate::config::Environment;
use crate::provider::{Catalog, ProviderOverride};

/// Set for the command: the proxy port's address, for what no variable reaches (`$KEYTALLY_URL/mistral`).
pub(super) const OWN_URL: &str = "KEYTALLY_URL";

const OPENAI_KEY: &str = "OPENAI_API_KEY";
/// An application of Azure's has one of these.
const AZURE: [&str; 3] = ["AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN"];
/// What is read of a file `.env`.
const MAX_DOTENV_BYTES: u64 = 64 * 1024;

/// A variable that SDKs take a base URL from.
pub(in crate::cli) struct Variable {
    /// Its name.
    pub(in crate::cli) name: &'static str,
    /// The provider that an unset variable stands for, by its prefix.
    pub(in crate::cli) provider: &'static str,
    /// What the SDK wants after it.
    pub(super) path: &'static str,
    /// Format of the calls, for a server that the catalogue does not know.
    protocol: Protocol,
    /// Set it although the user did not; else only a value that is there is led through the sidecar.
    pub(super) always: bool,
    /// Who reads it: shown in the help.
    pub(super) read_by: &'static str,
}

const fn always(
    name: &'static str,
    provider: &'static str,
    path: &'static str,
    protocol: Protocol,
    read_by: &'static str,
) -> Variable {
    Variable { name, provider, path, protocol, always: true, read_by }
}

const fn when_set(name: &'static str, provider: &'static str, protocol: Protocol, read_by: &'static str) -> Variable {
    Variable { name, provider, path: "", protocol, always: false, read_by }
}

/// All of them. Sources: the SDKs' own code, in the versions of October 2026, and what arrived from them.
///
/// Left out, because setting them breaks more than it shows:
/// - `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_BEDROCK_RUNTIME`, `ANTHROPIC_BEDROCK_BASE_URL`: SigV4 signs the host, so a request
///   to another one is refused; with `AWS_BEARER_TOKEN_BEDROCK` boto3 refuses an `http://` endpoint.
/// - `OLLAMA_HOST`: `ollama serve` takes from it where to listen.
/// - `DEEPSEEK_API_BASE`, unless it is set: one SDK wants three different paths after it.
/// - `HF_INFERENCE_ENDPOINT`: only the retired inference API reads it.
pub(in crate::cli) const VARIABLES: &[Variable] = &[
    always("OPENAI_BASE_URL", "openai", "/v1", Protocol::OpenaiChat, "openai, AI SDK, LangChain, LiteLLM"),
    always("OPENAI_API_BASE", "openai", "/v1", Protocol::OpenaiChat, "LangChain, LiteLLM, old openai"),
    // Without /v1: the SDKs add it, and the one that does not (Vercel AI SDK) is served as well.
    always("ANTHROPIC_BASE_URL", "anthropic", "", Protocol::AnthropicMessages, "anthropic, Claude Code, LiteLLM"),
    when_set("ANTHROPIC_API_BASE", "anthropic", Protocol::AnthropicMessages, "LiteLLM"),
    when_set("ANTHROPIC_FOUNDRY_BASE_URL", "azure-foundry", Protocol::AnthropicMessages, "anthropic (Foundry)"),
    when_set("ANTHROPIC_VERTEX_BASE_URL", "vertex", Protocol::VertexPredict, "anthropic (Vertex AI)"),
    // Of a resource, which nobody can guess.
    when_set("AZURE_OPENAI_ENDPOINT", "azure", Protocol::OpenaiChat, "openai (Azure), LangChain"),
    when_set("AZURE_API_BASE", "azure", Protocol::OpenaiChat, "LiteLLM"),
    always("GOOGLE_GEMINI_BASE_URL", "gemini", "", Protocol::Gemini, "google-genai"),
    when_set("GOOGLE_VERTEX_BASE_URL", "vertex", Protocol::VertexPredict, "google-genai (Vertex AI)"),
    always("GROQ_BASE_URL", "groq", "", Protocol::OpenaiChat, "groq"),
    // LiteLLM wants /openai/v1 here and LangChain nothing: without it both are served.
    always("GROQ_API_BASE", "groq", "", Protocol::OpenaiChat, "LangChain, LiteLLM"),
    always("CO_API_URL", "cohere", "", Protocol::CohereV2, "cohere"),
    always("TOGETHER_BASE_URL", "together", "/v1", Protocol::OpenaiChat, "together"),
    always("CEREBRAS_BASE_URL", "cerebras", "", Protocol::OpenaiChat, "cerebras-cloud-sdk"),
    always("CEREBRAS_API_BASE", "cerebras", "/v1", Protocol::OpenaiChat, "LiteLLM"),
    always("DASHSCOPE_HTTP_BASE_URL", "dashscope", "/api/v1", Protocol::DashscopeNative, "dashscope"),
    always("DASHSCOPE_API_BASE", "dashscope", "/compatible-mode/v1", Protocol::OpenaiChat, "LiteLLM"),
    always("MISTRAL_API_BASE", "mistral", "/v1", Protocol::OpenaiChat, "LiteLLM"),
    always("XAI_API_BASE", "xai", "/v1", Protocol::OpenaiChat, "LiteLLM"),
    always("OPENROUTER_API_BASE", "openrouter", "/api/v1", Protocol::OpenaiChat, "LiteLLM"),
    always("PERPLEXITY_API_BASE", "perplexity", "", Protocol::OpenaiChat, "LiteLLM"),
    always("FIREWORKS_API_BASE", "fireworks", "/inference/v1", Protocol::OpenaiChat, "LiteLLM"),
    always("MOONSHOT_API_BASE", "moonshot", "/v1", Protocol::OpenaiChat, "LiteLLM"),
    when_set("DEEPSEEK_API_BASE", "deepseek", Protocol::OpenaiChat, "LiteLLM, LangChain"),
    when_set("HOSTED_VLLM_API_BASE", "vllm", Protocol::OpenaiChat, "LiteLLM"),
];

/// The table as `run --help` shows it.
pub(super) fn help() -> String {
    let mut text = format!(
        "Variables that the command gets, below $URL, which it has as {OWN_URL}. Where you have set one yourself, calls \
         go where yours says, through the sidecar; those without a value here are set only then. A file .env in the \
         working directory counts as set. NO_PROXY is added to. Bedrock is left alone: its signature covers the \
         host. SDKs that read no variable, such as mistralai, take $URL/mistral in code.\n"
    );
    for variable in VARIABLES {
        let value = match variable.always {
            true => format!("$URL/{}{}", variable.provider, variable.path),
            false => String::new(),
        };
        text += &format!("  {:<26} {value:<33}  {}\n", variable.name, variable.read_by);
    }
    text
}

/// What a command's environment will be.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Variables with their path on the proxy port.
    pub(super) paths: Vec<(&'static str, String)>,
    /// Servers that the catalogue does not know.
    pub(super) providers: Vec<ProviderOverride>,
    /// What the user should know, one line each.
    pub(super) notes: Vec<String>,
    /// Variables whose calls are not seen.
    pub(super) unseen: Vec<&'static str>,
}

impl Plan {
    /// Decides for every variable. `replace`: values of the user's are taken for unset.
    pub(super) fn new(env: &Environment, catalog: &Catalog, replace: bool) -> Self {
        let mut plan = Self::default();
        let outer = env.get(OWN_URL).ok().flatten();
        for variable in VARIABLES {
            let existing = if replace { Ok(None) } else { env.get(variable.name) };
            match existing {
                Ok(None) if variable.always && is_safe(variable, env) => {
                    plan.paths.push((variable.name, format!("/{}{}", prefix(catalog, variable), variable.path)));
                }
                Ok(None) => {}
                Ok(Some(value)) if outer.as_deref().is_some_and(|outer| value.starts_with(outer)) => {
                    plan.keep(variable, "leads to the keytally that runs this one");
                }
                Ok(Some(value)) => plan.lead(variable, &value, catalog),
                Err(_) => plan.keep(variable, "is not UTF-8"),
            }
        }
        plan
    }

    /// A value of the user's: its server is reached through the sidecar.
    fn lead(&mut self, variable: &Variable, value: &str, catalog: &Catalog) {
        let url = match Url::parse(value.trim()) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
            _ => return self.keep(variable, "is no http:// or https:// URL"),
        };
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return self.keep(variable, "has a user, password or query in it");
        }
        let path = catalog.base_path(&url).unwrap_or_else(|| {
            let known = self.providers.iter().find(|own| own.base_url.as_ref() == Some(&url)).map(|own| own.id.clone());
            format!("/{}", known.unwrap_or_else(|| self.add(&url, variable.protocol, catalog)))
        });
        let name = path[1..].split('/').next().unwrap_or_default();
        self.notes.push(format!("{} is set by you: its calls go where it says, through {name}", variable.name));
        self.paths.push((variable.name, path));
    }

    /// A provider for a server that the catalogue does not know, named after its host.
    fn add(&mut self, url: &Url, protocol: Protocol, catalog: &Catalog) -> String {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port().map_or_else(String::new, |port| format!("-{port}"));
        let plain: String = host
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .skip_while(|c| *c == '-')
            .take(28 - port.len())
            .collect();
        let stem = format!("{}{port}", if plain.is_empty() { "own" } else { &plain });
        let is_taken = |id: &str| {
            catalog.provider(id).is_some()
                || catalog.prefixes().iter().any(|prefix| **prefix == *id)
                || self.providers.iter().any(|own| own.id == id)
        };
        let id = (1..).map(|n| if n == 1 { stem.clone() } else { format!("{stem}-{n}") }).find(|id| !is_taken(id));
        let id = id.unwrap_or(stem);
        self.providers.push(ProviderOverride {
            id: id.clone(),
            base_url: Some(url.clone()),
            protocol: Some(protocol),
            ..ProviderOverride::default()
        });
        id
    }

    fn keep(&mut self, variable: &Variable, why: &str) {
        self.notes.push(format!(
            "{} is set by you and {why}: calls to it are not seen; unset it, or run with --override",
            variable.name
        ));
        self.unseen.push(variable.name);
    }
}

/// The process's environment, and for what it lacks the file `.env`: programs that read it leave variables that are set
/// alone, so a value that keytally set would win over the file's and send its key to another provider.
///
/// Only the variables that [`Plan`] asks for are taken, and of keys only that they are there.
pub(super) fn with_dotenv(path: &Path) -> Environment {
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(MAX_DOTENV_BYTES).read_to_string(&mut text);
    }
    let values = dotenv(&text);
    Environment::from_fn(move |name| std::env::var_os(name).or_else(|| values.get(name).map(Into::into)))
}

/// `NAME=value`, with or without `export`, quotes and a comment.
fn dotenv(text: &str) -> HashMap<&'static str, String> {
    let mut values = HashMap::new();
    for line in text.lines() {
        let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
        let Some((name, value)) = line.split_once('=') else { continue };
        let (name, value) = (name.trim(), value.trim());
        let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.split(*quote).next());
        let value = quoted.unwrap_or_else(|| value.split(" #").next().unwrap_or_default().trim());
        if let Some(variable) = VARIABLES.iter().find(|variable| variable.name == name) {
            values.insert(variable.name, value.to_owned());
        } else if let Some(key) = AZURE.iter().chain(&[OPENAI_KEY]).find(|key| **key == name) {
            values.insert(key, if value.is_empty() { "" } else { "set" }.to_owned());
        }
    }
    values
}

/// The provider's prefix, which config may have changed.
fn prefix<'c>(catalog: &'c Catalog, variable: &Variable) -> &'c str {
    let of_provider = catalog.provider(variable.provider).and_then(|provider| provider.prefixes().next());
    of_provider.unwrap_or(variable.provider)
}

/// An application of Azure's alone must not get OpenAI's variables: in Node's `AzureOpenAI` and in LangChain they win over
/// the Azure endpoint, or are refused beside it.
fn is_safe(variable: &Variable, env: &Environment) -> bool {
    let is_set = |name: &&str| matches!(env.get(name), Ok(Some(_)));
    variable.provider != "openai" || is_set(&OPENAI_KEY) || !AZURE.iter().any(is_set)
}

/// `NO_PROXY` and `no_proxy` with the sidecar's address in them: an application whose environment names a proxy would
/// else send even a loopback base URL there. Programs differ in which of the two they prefer, so both are set.
pub(super) fn no_proxy(env: &Environment) -> Vec<(&'static str, String)> {
    let get = |name| env.get(name).ok().flatten();
    let (upper, lower) = (get("NO_PROXY"), get("no_proxy"));
    [("NO_PROXY", upper.clone().or(lower.clone())), ("no_proxy", lower.or(upper))]
        .map(|(name, own)| {
            let own = own.unwrap_or_default();
            let mut parts: Vec<&str> = own.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
            // "*" counts as "everything" only when it stands alone.
            if !parts.contains(&"*") {
                for address in ["127.0.0.1", "localhost"] {
                    if !parts.contains(&address) {
                        parts.push(address);
                    }
                }
            }
            (name, parts.join(","))
        })
        .into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::Method;

    use super::*;

    fn plan(env: &[(&str, &str)], replace: bool) -> (Plan, BTreeMap<&'static str, String>) {
        let plan = Plan::new(&Environment::of(env), &Catalog::embedded(), replace);
        let paths = plan.paths.iter().cloned().collect();
        (plan, paths)
    }

    /// Where a request below a variable's value goes, as the sidecar would run.
    fn target(plan: &Plan, path: &str, rest: &str) -> String {
        let catalog = Catalog::build(&plan.providers).expect("the added providers are valid");
        let found = catalog.recognize_base_url(&Method::POST, &format!("{path}{rest}")).expect("recognized");
        format!("{} {}://{}:{}{}", found.provider.id, found.scheme, found.host, found.port, found.path_and_query)
    }

    #[test]
    fn unset_variables_lead_to_the_provider() {
        let (plan, paths) = plan(&[], false);
        assert!(plan.notes.is_empty() && plan.providers.is_empty() && plan.unseen.is_empty());
        assert_eq!(paths.len(), VARIABLES.iter().filter(|variable| variable.always).count());
        assert_eq!(paths["OPENAI_BASE_URL"], "/openai/v1");
        for (name, rest, wanted) in [
            ("OPENAI_BASE_URL", "/chat/completions", "openai https://api.openai.com:443/v1/chat/completions"),
            ("ANTHROPIC_BASE_URL", "/v1/messages", "anthropic https://api.anthropic.com:443/v1/messages"),
            ("ANTHROPIC_BASE_URL", "/messages", "anthropic https://api.anthropic.com:443/v1/messages"),
            (
                "GROQ_BASE_URL",
                "/openai/v1/chat/completions",
                "groq https://api.groq.com:443/openai/v1/chat/completions",
            ),
            ("GROQ_API_BASE", "/chat/completions", "groq https://api.groq.com:443/openai/v1/chat/completions"),
            ("CO_API_URL", "/v2/chat", "cohere https://api.cohere.com:443/v2/chat"),
            ("TOGETHER_BASE_URL", "/chat/completions", "together https://api.together.xyz:443/v1/chat/completions"),
            ("CEREBRAS_BASE_URL", "/v1/chat/completions", "cerebras https://api.cerebras.ai:443/v1/chat/completions"),
        ] {
            assert_eq!(target(&plan, &paths[name], rest), wanted, "{name}");
        }
        assert!(!paths.contains_key("AZURE_OPENAI_ENDPOINT"));
    }

    #[test]
    fn every_path_is_one_that_the_sidecar_knows() {
        let catalog = Catalog::embedded();
        for variable in VARIABLES.iter().filter(|variable| variable.always) {
            let rest = match variable.protocol {
                Protocol::AnthropicMessages => "/v1/messages",
                Protocol::Gemini => "/v1beta/models/m:generateContent",
                Protocol::CohereV2 => "/v2/chat",
                Protocol::DashscopeNative => "/services/aigc/text-generation/generation",
                _ => "/chat/completions",
            };
            let target = format!("/{}{}{rest}", variable.provider, variable.path);
            let found = catalog.recognize_base_url(&Method::POST, &target).expect(&target);
            assert!(found.billed, "{}: {target} is no known call", variable.name);
        }
    }

    #[test]
    fn a_known_server_of_the_user_s_keeps_its_provider() {
        for (name, value, path, rest, wanted) in [
            (
                "OPENAI_BASE_URL",
                "https://api.deepseek.com/v1/",
                "/deepseek/v1",
                "/chat/completions",
                "deepseek https://api.deepseek.com:443/v1/chat/completions",
            ),
            (
                "AZURE_OPENAI_ENDPOINT",
                "https://made-up.openai.azure.com/",
                "/azure/made-up",
                "/openai/deployments/d/chat/completions",
                "azure_openai https://made-up.openai.azure.com:443/openai/deployments/d/chat/completions",
            ),
            (
                "GOOGLE_VERTEX_BASE_URL",
                "https://aiplatform.googleapis.com",
                "/vertex/global",
                "/v1/publishers/google/models/m:generateContent",
                "vertex https://aiplatform.googleapis.com:443/v1/publishers/google/models/m:generateContent",
            ),
        ] {
            let (plan, paths) = plan(&[(name, value)], false);
            assert_eq!(paths[name], path);
            assert_eq!(target(&plan, path, rest), wanted);
            assert!(plan.providers.is_empty() && plan.notes.len() == 1, "{:?}", plan.notes);
        }
    }

    #[test]
    fn an_unknown_server_of_the_user_s_becomes_a_provider() {
        let (plan, paths) = plan(
            &[
                ("OPENAI_BASE_URL", "http://vllm.internal:8000/v1"),
                ("OPENAI_API_BASE", "http://vllm.internal:8000/v1"),
                ("ANTHROPIC_BASE_URL", "http://vllm.internal:8000/claude"),
                ("CO_API_URL", "https://api.cohere.com.attacker.example"),
            ],
            false,
        );
        assert_eq!(paths["OPENAI_BASE_URL"], "/vllm-internal-8000");
        assert_eq!(paths["OPENAI_API_BASE"], paths["OPENAI_BASE_URL"]);
        assert_eq!(paths["ANTHROPIC_BASE_URL"], "/vllm-internal-8000-2");
        for (name, rest, wanted) in [
            (
                "OPENAI_BASE_URL",
                "/chat/completions",
                "vllm-internal-8000 http://vllm.internal:8000/v1/chat/completions",
            ),
            ("ANTHROPIC_BASE_URL", "/v1/messages", "vllm-internal-8000-2 http://vllm.internal:8000/claude/v1/messages"),
            (
                "CO_API_URL",
                "/v2/chat",
                "api-cohere-com-attacker-exam https://api.cohere.com.attacker.example:443/v2/chat",
            ),
        ] {
            assert_eq!(target(&plan, &paths[name], rest), wanted);
        }
    }

    #[test]
    fn what_cannot_be_led_is_kept_said_and_not_shown() {
        let env = [
            ("OPENAI_BASE_URL", "made-up-password"),
            ("ANTHROPIC_BASE_URL", "https://user:made-up-password@gateway.example"),
            ("GROQ_BASE_URL", "https://gateway.example/?key=made-up-password"),
            ("CO_API_URL", "http://127.0.0.1:4000/cohere"),
            ("KEYTALLY_URL", "http://127.0.0.1:4000"),
        ];
        let (kept, paths) = plan(&env, false);
        assert_eq!(kept.unseen, ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GROQ_BASE_URL", "CO_API_URL"]);
        assert!(kept.unseen.iter().all(|name| !paths.contains_key(name)));
        assert!(kept.notes.len() == 4 && !kept.notes.concat().contains("made-up"), "{:?}", kept.notes);
        let (replaced, paths) = plan(&env, true);
        assert!(replaced.unseen.is_empty() && replaced.notes.is_empty());
        assert_eq!(paths["OPENAI_BASE_URL"], "/openai/v1");
    }

    #[test]
    fn azure_alone_gets_no_variables_of_openai_s() {
        let azure = ("AZURE_OPENAI_API_KEY", "made-up");
        assert!(!plan(&[azure], false).1.contains_key("OPENAI_BASE_URL"));
        assert!(plan(&[azure, ("OPENAI_API_KEY", "made-up")], false).1.contains_key("OPENAI_BASE_URL"));
    }

    #[test]
    fn a_file_of_variables_counts_as_set() {
        let text = "# comment\nexport OPENAI_BASE_URL=\"https://api.deepseek.com\" # mine\nOPENAI_API_KEY=made-up\n\
                    GROQ_BASE_URL = 'https://api.groq.com'\nCO_API_URL=https://a.example # c\nAZURE_OPENAI_API_KEY=\nX=1\n";
        let values = dotenv(text);
        let wanted = [
            ("OPENAI_BASE_URL", "https://api.deepseek.com"),
            ("OPENAI_API_KEY", "set"),
            ("GROQ_BASE_URL", "https://api.groq.com"),
            ("CO_API_URL", "https://a.example"),
            ("AZURE_OPENAI_API_KEY", ""),
        ];
        assert_eq!(values, wanted.map(|(name, value)| (name, value.to_owned())).into());
    }

    #[test]
    fn exceptions_from_proxies_are_added_to() {
        let of = |env: &[(&str, &str)]| no_proxy(&Environment::of(env)).into_iter().map(|(_, v)| v).collect::<Vec<_>>();
        assert_eq!(of(&[]), ["127.0.0.1,localhost"; 2]);
        assert_eq!(of(&[("NO_PROXY", "a.example, localhost")]), ["a.example,localhost,127.0.0.1"; 2]);
        assert_eq!(of(&[("NO_PROXY", "a"), ("no_proxy", "b")]), ["a,127.0.0.1,localhost", "b,127.0.0.1,localhost"]);
        assert_eq!(of(&[("no_proxy", "*")]), ["*"; 2]);
    }
}
