//! The API key and what may be known of it elsewhere: its fingerprint.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::label_enum;

label_enum! {
    /// Where in the request a credential travels.
    KeyPlace {
        Bearer = "authorization_bearer",
        Basic = "authorization_basic",
        SigV4 = "authorization_sigv4",
        RawAuthorization = "authorization_raw",
        XApiKey = "x-api-key",
        ApiKey = "api-key",
        XGoogApiKey = "x-goog-api-key",
        SubscriptionKey = "ocp-apim-subscription-key",
        Query = "query",
        PresignedQuery = "presigned_query",
        WebSocketProtocol = "websocket_protocol",
    }
}

/// A credential as it arrived. It has no `Display`, `Debug` or `Serialize`, is wiped when dropped, and lives only as
/// long as it takes to make its [`Fingerprint`] and findings.
pub struct ApiKey(Zeroizing<Vec<u8>>);

impl ApiKey {
    /// Takes the raw bytes of the credential, after its scheme word.
    pub fn new(raw: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(raw.into()))
    }

    /// The raw bytes. Callers must not store or print them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `family:` and the first 12 hex digits of SHA-256 over salt and trimmed key.
    ///
    /// The same key and salt give the same fingerprint in every sidecar. `salt` is empty by default.
    pub fn fingerprint(&self, family: &str, salt: &[u8]) -> Fingerprint {
        let digest = Sha256::new().chain_update(salt).chain_update(self.0.trim_ascii()).finalize();
        let mut text = String::with_capacity(family.len() + 13);
        text.push_str(family);
        text.push(':');
        let hex = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        for byte in &digest[..6] {
            text.push(hex(byte >> 4));
            text.push(hex(byte & 0xf));
        }
        Fingerprint(text.into())
    }
}

/// How a key is known outside the process: `<family>:<12 hex digits>`, for instance `openai:3f9a0c41b2d7`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Fingerprint(std::sync::Arc<str>);

impl Fingerprint {
    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` is the key that this is the fingerprint of.
    pub fn is_of(&self, text: &str, salt: &[u8]) -> bool {
        let family = self.0.split(':').next().unwrap_or_default();
        ApiKey::new(text.as_bytes()).fingerprint(family, salt) == *self
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{}\": not a fingerprint; write <family>:<12 hex digits> as `keytally fingerprint` prints it",
                if text.len() > 40 { "(long value)" } else { text }
            )
        };
        let (family, hex) = text.split_once(':').ok_or_else(wrong)?;
        let family_ok = !family.is_empty()
            && family.len() <= 32
            && family.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        let hex_ok = hex.len() == 12 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if family_ok && hex_ok { Ok(Self(text.into())) } else { Err(wrong()) }
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_ignores_surrounding_space_and_keeps_family() {
        let plain = ApiKey::new(b"made-up-key".to_vec()).fingerprint("openai", b"");
        let spaced = ApiKey::new(b" made-up-key\r\n".to_vec()).fingerprint("openai", b"");
        assert_eq!(plain, spaced);
        assert!(plain.as_str().starts_with("openai:"));
        assert_eq!(plain.as_str().parse::<Fingerprint>().as_ref(), Ok(&plain));
        assert_ne!(plain, ApiKey::new(b"made-up-key".to_vec()).fingerprint("openai", b"salt"));
    }

    #[test]
    fn a_key_is_not_a_fingerprint() {
        assert!("sk-made-up".parse::<Fingerprint>().is_err());
        assert!("openai:3f9a".parse::<Fingerprint>().is_err());
        let error = format!("sk-{}", "x".repeat(60)).parse::<Fingerprint>().unwrap_err();
        assert!(!error.contains("xxxx"), "{error}");
    }
}
