//! Who pays, who served, which id: what the answer's headers say beside the key.
//!
//! In: kept headers and what the request names. Out: an account id to be hashed or named ([`AccountNames`]), the
//! provider's request id, the tier that served. An account id itself is never shown.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::call::CallFacts;

/// How accounts are shown: by a name from config, else by 8 hex digits.
#[derive(Clone, Debug, Default)]
pub struct AccountNames {
    /// Name by id as the provider writes it (`org-…`, a resource, a project) or by its 8 hex digits.
    pub names: HashMap<String, Arc<str>>,
    /// Mixed into the hash; empty by default. The same in every sidecar, so that sums over replicas work.
    pub salt: Vec<u8>,
}

impl AccountNames {
    /// The label of an account id.
    pub fn show(&self, id: &str) -> Arc<str> {
        if let Some(name) = self.names.get(id) {
            return name.clone();
        }
        let digest = Sha256::new().chain_update(&self.salt).chain_update(id).finalize();
        let hash = format!("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
        self.names.get(&hash).cloned().unwrap_or_else(|| hash.into())
    }
}

/// Labels that were given out, so that an account is not hashed with every call. Forgets all when it is full.
#[derive(Debug, Default)]
pub struct ShownAccounts(Mutex<HashMap<String, Arc<str>>>);

/// Accounts that are remembered: a sidecar sees a handful.
const MAX_SHOWN: usize = 256;

impl ShownAccounts {
    /// As [`AccountNames::show`].
    pub fn show(&self, names: &AccountNames, id: &str) -> Arc<str> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = known.get(id) {
            return label.clone();
        }
        let label = names.show(id);
        if known.len() >= MAX_SHOWN {
            known.clear();
        }
        known.insert(id.to_owned(), label.clone());
        label
    }
}

/// Whose limits and bill a call counts for: the answer's word, else what the request names.
///
/// OpenAI's limits belong to organization and project, both of which it states; Anthropic's to the organization
/// (recorded answers).
pub fn account(facts: &CallFacts) -> Option<String> {
    let response = facts.response.as_ref();
    let header = |name: &str| response.and_then(|response| response.header(name)).filter(|value| !value.is_empty());
    let openai = match (header("openai-organization"), header("openai-project")) {
        (Some(organization), Some(project)) => Some(format!("{organization}/{project}")),
        (organization, project) => organization.or(project).map(str::to_owned),
    };
    openai
        .or_else(|| header("anthropic-organization-id").map(str::to_owned))
        .or_else(|| facts.key.account.clone().filter(|account| !account.is_empty()))
}

/// The tier that served a call, where a header tells it (Azure, Gemini; recorded answers).
pub fn served_tier(facts: &CallFacts) -> Option<&str> {
    let response = facts.response.as_ref()?;
    response.header("azureai-processed-tier").or_else(|| response.header("x-gemini-service-tier"))
}

/// The provider's id of the exchange, under the names that providers give it (recorded answers).
pub fn request_id(facts: &CallFacts) -> Option<&str> {
    const NAMES: [&str; 11] = [
        "x-request-id",
        "request-id",
        "x-amzn-requestid",
        "apim-request-id",
        "mistral-correlation-id",
        "x-generation-id",
        "x-ds-trace-id",
        "msh-request-id",
        "inference-id",
        "x-debug-trace-id",
        "cf-ray",
    ];
    let response = facts.response.as_ref()?;
    NAMES.iter().find_map(|name| response.header(name)).filter(|id| !id.is_empty())
}
