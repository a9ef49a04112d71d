//! What a user may say of a provider in config: a new one in three lines, or a change to a catalogued one.

use crate::call::{KeyPlace, Protocol};

/// One entry of `providers:`; `None` leaves the catalogue's value (or the default for a new provider).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProviderOverride {
    /// Id: the catalogue's, or a new one (`[a-z0-9][a-z0-9_-]{0,31}`).
    pub id: String,
    /// Scheme, host, optional port and path of the provider, without a trailing slash.
    pub base_url: Option<url::Url>,
    /// First path segment on the proxy port; the id by default.
    pub prefix: Option<String>,
    /// Format of its bodies where the path does not tell; `openai-chat` stands for the whole OpenAI-compatible API.
    pub protocol: Option<Protocol>,
    /// Where its key travels.
    pub auth: Option<Vec<KeyPlace>>,
    /// Provider id in the price book. `Some(None)` (written `none`): calls are free.
    pub price_as: Option<Option<String>>,
    /// Further hosts that are this provider, for proxies and redirects.
    pub hosts: Vec<String>,
    /// Certificate authority file for this upstream, on top of the other roots.
    pub ca_file: Option<std::path::PathBuf>,
}
