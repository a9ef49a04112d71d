//! The values that a user writes: one type each, with its text form, its check and its JSON Schema in one place.
//!
//! Every type is read from and shown as text. [`check`] tests a text against the type of a schema's `format`, which is
//! how the file is checked as a whole before anything is converted. No I/O.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::problem::is_key;
use crate::call::{Fingerprint, Money};

/// Longest duration that is accepted: a year.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Declares value types: name, inner type, schema format, JSON types, pattern for editors, reader, shower.
/// A reader answers `None` or what would be right.
macro_rules! values {
    ($($(#[$meta:meta])* $name:ident($inner:ty) = $format:literal, $types:tt, $pattern:expr, $read:expr, $show:expr;)+) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug, PartialEq)]
            pub struct $name(pub $inner);

            impl std::str::FromStr for $name {
                type Err = String;
                fn from_str(text: &str) -> Result<Self, String> {
                    let read: fn(&str) -> Result<$inner, String> = $read;
                    read(text).map(Self)
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    let show: fn(&$inner) -> String = $show;
                    f.write_str(&show(&self.0))
                }
            }

            impl serde::Serialize for $name {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                }
            }

            impl schemars::JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }
                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($name).into()
                }
                fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                    let mut schema = schemars::json_schema!({ "type": $types, "format": $format });
                    if !$pattern.is_empty() {
                        schema.insert("pattern".to_owned(), $pattern.into());
                    }
                    schema
                }
            }
        )+

        /// Tests a text against the type that a schema's `format` names. The error is what is wrong and what would be
        /// right; it never repeats the text.
        pub(super) fn check(format: &str, text: &str) -> Result<(), String> {
            match format {
                $($format => text.parse::<$name>().map(drop),)+
                _ => Ok(()),
            }
        }
    };
}

values! {
    /// IP address and port; `localhost` stands for 127.0.0.1.
    Address(SocketAddr) = "address", "string", r"^\S+:[0-9]{1,5}$", read_address, SocketAddr::to_string;
    /// A duration with its unit.
    Span(Duration) = "span", "string", r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$", read_span, show_span;
    /// A size with its unit.
    ByteSize(u64) = "byte-size", "string", r"^[0-9]+ ?(B|kB|KB|KiB|MB|MiB|GB|GiB)$", read_bytes, show_bytes;
    /// Base address of an HTTP service, without user, query and fragment.
    Link(Url) = "http-url", "string", r"^https?://", read_link, show_link;
    /// Address of a forward proxy, or `off`.
    Proxy(Option<Url>) = "proxy", "string", r"^(off|http://.+)$", read_proxy, show_proxy;
    /// Id of a provider.
    Id(String) = "id", "string", r"^[a-z0-9][a-z0-9_-]{0,31}$", read_id, String::clone;
    /// First segment of a path.
    Segment(String) = "segment", "string", r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", read_segment, String::clone;
    /// Id in the price book, or `none` for free.
    PriceId(String) = "price-id", "string", r"^[a-z0-9][a-z0-9_.-]{0,63}$", read_price_id, String::clone;
    /// Host name, on one port where that is named.
    Host(String) = "host", "string", r"^(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?$", read_host, String::clone;
    /// Name shown in metrics and spans.
    Name(String) = "name", "string", "", read_name, String::clone;
    /// Name of a label.
    LabelName(String) = "label-name", "string", r"^[a-z_][a-z0-9_]{0,63}$", read_label_name, String::clone;
    /// Model name, `*` at the end for any rest.
    Model(String) = "model", "string", "", read_model, String::clone;
    /// Dollars.
    Usd(Money) = "usd", ["number", "string"], r"^[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?$", read_usd, Money::to_string;
    /// Regular expression.
    Pattern(String) = "regex-ci", "string", "", read_pattern, String::clone;
    /// Short text for people.
    Text(String) = "text", "string", "", read_text, String::clone;
    /// Code or type of an error.
    Code(String) = "error-code", ["string", "integer"], "", read_code, String::clone;
    /// Path of a file.
    FilePath(PathBuf) = "file", "string", "", read_path, |path| path.display().to_string();
    /// Fingerprint of a key.
    KeyPrint(Fingerprint) = "fingerprint", "string", r"^[a-z0-9_-]{1,32}:[0-9a-f]{12}$", read_fingerprint, Fingerprint::to_string;
    /// Hash of an account.
    AccountHash(String) = "account-hash", "string", r"^[0-9a-f]{8}$", read_account, String::clone;
    /// Name of an environment variable.
    EnvName(String) = "env-name", "string", r"^[A-Za-z_][A-Za-z0-9_]*$", read_env_name, String::clone;
    /// Name of an HTTP header.
    HeaderName(String) = "header-name", "string", r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", read_header_name, String::clone;
    /// Value of an HTTP header that is no secret.
    HeaderText(String) = "header-value", ["string", "number"], "", read_header_value, String::clone;
    /// Draft of the conventions.
    Semconv(String) = "semconv", ["string", "number"], r"^(latest|1\.41)$", read_semconv, String::clone;
    /// On or off.
    Switch(bool) = "switch", ["boolean", "string"], r"^(true|false|on|off)$", read_switch, bool::to_string;
}

fn read_address(text: &str) -> Result<SocketAddr, String> {
    let wrong = || "not an address; write IP address and port, for instance 127.0.0.1:4141 or [::1]:4141".to_owned();
    if let Some(port) = text.strip_prefix("localhost:") {
        return port.parse().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)).map_err(|_| wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// Numbers with units, added: `1m30s`. Digits and one point only: no signs, no exponents.
fn read_span(text: &str) -> Result<Duration, String> {
    let wrong =
        || "not a duration; write a number and a unit (ms, s, m, h, d), for instance 500ms, 30s or 1h".to_owned();
    let (mut rest, mut total) = (text, Duration::ZERO);
    if text.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
        let whole = number.bytes().next().is_some_and(|b| b != b'.') && !number.ends_with('.');
        let number: f64 = number.parse().ok().filter(|_| whole).ok_or_else(wrong)?;
        let scale = match unit {
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        let part = Duration::try_from_secs_f64(number * scale).unwrap_or(Duration::MAX);
        total = total.saturating_add(part);
        rest = &rest[digits + letters..];
    }
    if total > MAX_DURATION {
        return Err("more than a year; write less".to_owned());
    }
    Ok(total)
}

fn show_span(span: &Duration) -> String {
    let millis = span.as_millis();
    match millis {
        0 => "0s".to_owned(),
        _ if !millis.is_multiple_of(1000) => format!("{millis}ms"),
        _ if millis.is_multiple_of(86_400_000) => format!("{}d", millis / 86_400_000),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ => format!("{}s", millis / 1000),
    }
}

fn read_bytes(text: &str) -> Result<u64, String> {
    let wrong = || "not a size; write a number and a unit (B, KB, MB, GB, KiB, MiB, GiB), for instance 1MiB".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let scale: u64 = match text[digits..].trim_start() {
        "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(scale).ok_or_else(wrong)
}

fn show_bytes(bytes: &u64) -> String {
    match *bytes {
        n if n > 0 && n.is_multiple_of(1 << 30) => format!("{}GiB", n >> 30),
        n if n > 0 && n.is_multiple_of(1 << 20) => format!("{}MiB", n >> 20),
        n if n > 0 && n.is_multiple_of(1 << 10) => format!("{}KiB", n >> 10),
        n => format!("{n}B"),
    }
}

fn read_link(text: &str) -> Result<Url, String> {
    let wrong =
        "not a web address; write http:// or https://, a host and no query, for instance https://api.example.com";
    let mut url = Url::parse(text).map_err(|_| wrong.to_owned())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
        return Err(wrong.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "a user or password in the address; take it out (the application sends its own credential)".to_owned()
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong.to_owned());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn show_link(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

fn read_proxy(text: &str) -> Result<Option<Url>, String> {
    if text == "off" {
        return Ok(None);
    }
    match Url::parse(text) {
        Ok(url) if url.password().is_some() || !url.username().is_empty() => {
            Err("a user or password in the address; set HTTPS_PROXY in the environment instead".to_owned())
        }
        Ok(url) if url.scheme() == "http" && url.host_str().is_some_and(|h| !h.is_empty()) => Ok(Some(url)),
        _ => Err("not a proxy; write http://host:port, or off to ignore HTTPS_PROXY".to_owned()),
    }
}

fn show_proxy(proxy: &Option<Url>) -> String {
    proxy.as_ref().map_or_else(|| "off".to_owned(), show_link)
}

/// The text has 1 to `most` bytes, all of them allowed; the first one is a letter or digit.
fn word(text: &str, most: usize, allowed: fn(u8) -> bool) -> bool {
    (1..=most).contains(&text.len())
        && text.bytes().all(allowed)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn read_id(text: &str) -> Result<String, String> {
    if is_key(text) {
        return Err("looks like an API key; write a short id, such as openai".to_owned());
    }
    word(text, 32, |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
        .then(|| text.to_owned())
        .ok_or_else(|| "not an id; write 1 to 32 of a-z 0-9 _ -, beginning with a letter or digit".to_owned())
}

fn read_segment(text: &str) -> Result<String, String> {
    word(text, 64, |b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
        .then(|| text.to_owned())
        .ok_or_else(|| "not one path segment; write 1 to 64 of letters, digits, _ - . and no slash".to_owned())
}

fn read_price_id(text: &str) -> Result<String, String> {
    word(text, 64, |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.')).then(|| text.to_owned()).ok_or_else(
        || "not an id of the price book; write for instance openai, or none for calls that are free".to_owned(),
    )
}

fn read_host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let (name, port) = name.rsplit_once(':').map_or((name, Ok(1)), |(name, port)| (name, port.parse::<u16>()));
    let label = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (text.len() <= 253 && port.is_ok_and(|port| port > 0) && name.split('.').all(label))
        .then(|| text.to_ascii_lowercase())
        .ok_or_else(|| {
            "not a host name; write it without scheme and path, for instance llm.example.com or llm.example.com:8443"
                .to_owned()
        })
}

/// Text for labels and records: bounded, one line, nothing invisible, not a key.
fn line(text: &str, least: usize, most: usize) -> Result<String, String> {
    let length = text.chars().count();
    if !(least..=most).contains(&length) {
        return Err(format!("{length} characters; write {least} to {most}"));
    }
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err("white space around it, a line break or a control character; write plain text".to_owned());
    }
    if is_key(text) {
        return Err("looks like an API key and would be shown in metrics and spans; write a name".to_owned());
    }
    Ok(text.to_owned())
}

fn read_name(text: &str) -> Result<String, String> {
    line(text, 1, 128)
}

fn read_label_name(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|b| matches!(b, b'a'..=b'z' | b'_'));
    (first && text.len() <= 64 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')))
        .then(|| text.to_owned())
        .ok_or_else(|| "not a label name; write 1 to 64 of a-z 0-9 _, beginning with a letter".to_owned())
}

fn read_model(text: &str) -> Result<String, String> {
    if text.strip_suffix('*').unwrap_or(text).contains('*') {
        return Err("a * that is not at the end; write the model's name, or its beginning and *".to_owned());
    }
    line(text, 1, 256)
}

fn read_usd(text: &str) -> Result<Money, String> {
    let wrong = "not an amount; write dollars as a plain number, 0 or more, for instance 2.50";
    Money::parse(text).ok_or_else(|| wrong.to_owned())
}

fn read_pattern(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 1024 {
        return Err("empty or longer than 1024 bytes; write a regular expression for part of the message".to_owned());
    }
    match regex::RegexBuilder::new(text).case_insensitive(true).size_limit(1 << 20).build() {
        Ok(_) => Ok(text.to_owned()),
        Err(regex::Error::CompiledTooBig(_)) => {
            Err("a regular expression that is too large; write a simpler one".to_owned())
        }
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
            Err(format!("not a regular expression: {reason}; in YAML use single quotes around it"))
        }
    }
}

fn read_text(text: &str) -> Result<String, String> {
    line(text, 1, 500)
}

fn read_code(text: &str) -> Result<String, String> {
    line(text, 1, 128)
}

fn read_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("not a path; write the path of a file".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn read_fingerprint(text: &str) -> Result<Fingerprint, String> {
    text.parse().map_err(|_| {
        // Whatever does not even resemble a fingerprint may be the key itself.
        let resembles = text.split_once(':').is_some_and(|(family, hex)| {
            family.len() <= 32 && hex.len() <= 16 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        });
        if resembles {
            "not a fingerprint; write <family>:<12 hex digits> as `keytally fingerprint` prints it".to_owned()
        } else {
            "not a fingerprint, perhaps an API key; write what `keytally fingerprint` prints for the key, never the key"
                .to_owned()
        }
    })
}

fn read_account(text: &str) -> Result<String, String> {
    (text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        .then(|| text.to_owned())
        .ok_or_else(|| "not an account; write the 8 hex digits that the label account shows".to_owned())
}

fn read_env_name(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    (first && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !is_key(text))
        .then(|| text.to_owned())
        .ok_or_else(|| "not the name of an environment variable; write its name, not its value".to_owned())
}

fn read_header_name(text: &str) -> Result<String, String> {
    match http::HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) if !is_key(text) => Ok(name.as_str().to_owned()),
        _ => Err("not a header name; write for instance x-tenant".to_owned()),
    }
}

fn read_header_value(text: &str) -> Result<String, String> {
    match http::HeaderValue::from_str(text) {
        Ok(_) if !is_key(text) => Ok(text.to_owned()),
        Ok(_) => Err("looks like a credential; write {env: VARIABLE} or {file: PATH} instead of {value: …}".to_owned()),
        Err(_) => Err("not a header value; write one line of plain ASCII".to_owned()),
    }
}

fn read_semconv(text: &str) -> Result<String, String> {
    matches!(text, "latest" | "1.41").then(|| text.to_owned()).ok_or_else(|| "unknown; write latest or 1.41".to_owned())
}

fn read_switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "on" => Ok(true),
        "false" | "off" => Ok(false),
        _ => Err("neither on nor off; write true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0s", 0), ("90d", 7_776_000_000)]
        {
            assert_eq!(text.parse::<Span>().map(|s| s.0), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "30",
            "s",
            "-1s",
            "+1s",
            "1e3s",
            ".5s",
            "1.s",
            "1 s",
            "1s ",
            "5 minutes",
            "1y",
            "inf",
            "NaNs",
            "999999d",
            "1..5s",
            "1ſ",
        ] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
        for (text, bytes) in [("1MiB", 1 << 20), ("64KiB", 65_536), ("1 GB", 1_000_000_000), ("0B", 0)] {
            assert_eq!(text.parse::<ByteSize>().map(|s| s.0), Ok(bytes), "{text}");
        }
        for bad in ["", "1", "MiB", "-1MiB", "1.5MiB", "1mib", "99999999999999999999GiB", "18446744073709551615KiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?}");
        }
        for text in ["1d", "36h", "90m", "75s", "1500ms", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["1MiB", "1KiB", "1000B", "3GiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn addresses() {
        assert_eq!("localhost:1".parse::<Address>().unwrap().to_string(), "127.0.0.1:1");
        assert_eq!("[::1]:4141".parse::<Address>().unwrap().to_string(), "[::1]:4141");
        for bad in ["4141", "127.0.0.1", "host:1", "127.0.0.1:70000", ":4141", "http://127.0.0.1:1", "localhost:"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert_eq!("https://api.example.com/v1/".parse::<Link>().unwrap().0.as_str(), "https://api.example.com/v1");
        for bad in [
            "api.example.com",
            "ftp://x",
            "https://",
            "https://u:p@x",
            "https://x?key=1",
            "https://x#a",
            "http://x:99999",
            "//x",
        ] {
            assert!(bad.parse::<Link>().is_err(), "{bad}");
        }
        assert_eq!("off".parse::<Proxy>(), Ok(Proxy(None)));
        assert!("http://proxy:3128".parse::<Proxy>().is_ok());
        assert!("http://me:pass@proxy:3128".parse::<Proxy>().unwrap_err().contains("HTTPS_PROXY"));
        assert!("proxy:3128".parse::<Proxy>().is_err());
    }

    #[test]
    fn names_are_short_plain_and_no_keys() {
        assert!("search-prod (EU)".parse::<Name>().is_ok());
        for bad in
            ["", " x", "a\nb", "a\u{7}", &"x".repeat(129), "sk-proj-MadeUpMadeUpMadeUp", "0123456789abcdef01234567"]
        {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!(
            "*".parse::<Model>().is_ok() && "ft:gpt-4o*".parse::<Model>().is_ok() && "a*b".parse::<Model>().is_err()
        );
    }

    #[test]
    fn a_pattern_says_why_it_is_none() {
        let error = "quota (exceeded".parse::<Pattern>().unwrap_err();
        assert_eq!(error, "not a regular expression: unclosed group; in YAML use single quotes around it");
        assert!("(a{1000}){1000}".parse::<Pattern>().unwrap_err().contains("too large"));
    }

    #[test]
    fn a_key_in_place_of_a_fingerprint_is_told_apart() {
        assert!("openai:3f9".parse::<KeyPrint>().unwrap_err().starts_with("not a fingerprint; write <family>"));
        let error = "sk-proj-made-up".parse::<KeyPrint>().unwrap_err();
        assert!(error.contains("never the key") && !error.contains("made-up"));
    }
}
