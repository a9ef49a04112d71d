//! The first bytes of a connection: is it TLS, plain HTTP or something else, and whom does it want?
//!
//! [`read`] is a plain function from bytes to an [`Opening`]; nothing is decrypted and nothing is answered. Bounds: the
//! hello must fit into [`MAX_BYTES`]; what is longer, or breaks the rules of RFC 8446 section 4.1.2, is
//! [`Opening::Other`]. A hello in several records is put together.

/// Longest hello that is looked at, record headers included. Hellos with post-quantum key shares have some 1,800 bytes.
pub const MAX_BYTES: usize = 16 * 1024;

/// What a connection begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// More bytes are needed to tell.
    Incomplete,
    /// TLS.
    Tls(ClientHello),
    /// The beginning of an HTTP request in plain text.
    Http,
    /// Neither.
    Other,
}

/// What a TLS client says of itself before anything is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Server name, lower case, without a final dot; `None` when none was sent or it is no host name.
    pub name: Option<String>,
    /// Which protocols it would speak inside.
    pub alpn: Alpn,
    /// It carries an encrypted hello (RFC 9849): `name` may be that of a front, and real servers are asked inside. Some
    /// clients send a meaningless one with every connection.
    pub encrypted_hello: bool,
    /// Newest version that it speaks: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
    pub version: u16,
    /// Hash of what differs between TLS libraries and is the same in each of their connections.
    pub fingerprint: u64,
}

/// Application protocols of a hello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alpn {
    /// The extension was sent.
    pub sent: bool,
    /// `h2` is among them.
    pub h2: bool,
    /// `http/1.1` is among them.
    pub http1: bool,
}

impl Alpn {
    /// HTTP can be spoken inside: it is asked for, or nothing is.
    pub fn takes_http(self) -> bool {
        !self.sent || self.h2 || self.http1
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// Sent only in some connections of one client: padding, session ticket, early data, cookie, pre-shared key.
const VOLATILE: [u16; 5] = [21, 35, 42, 44, 41];

/// Reads the first bytes of a connection, all that have come so far.
pub fn read(bytes: &[u8]) -> Opening {
    match bytes.first() {
        None => Opening::Incomplete,
        Some(&HANDSHAKE) => tls(bytes),
        Some(_) => plain(bytes),
    }
}

/// A method in capital letters and a space: `POST `, also `PRI ` of HTTP/2.
fn plain(bytes: &[u8]) -> Opening {
    let letters = bytes.iter().take(12).take_while(|b| b.is_ascii_uppercase()).count();
    match bytes.get(letters) {
        Some(b' ') if letters >= 3 => Opening::Http,
        None => Opening::Incomplete,
        _ => Opening::Other,
    }
}

fn tls(bytes: &[u8]) -> Opening {
    let incomplete = if bytes.len() < MAX_BYTES { Opening::Incomplete } else { Opening::Other };
    // Without the record headers; one record is the rule.
    let mut message: Vec<u8> = Vec::new();
    let mut rest = bytes;
    loop {
        let Some((&[kind, major, _, high, low], body)) = rest.split_first_chunk::<5>() else { return incomplete };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != HANDSHAKE || major != 3 || length == 0 || length > MAX_BYTES {
            return Opening::Other;
        }
        let part = &body[..length.min(body.len())];
        message.extend_from_slice(part);
        if let Some((&[kind, a, b, c], hello)) = message.split_first_chunk::<4>() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if kind != CLIENT_HELLO || length > MAX_BYTES {
                return Opening::Other;
            }
            if let Some(hello) = hello.get(..length) {
                return parse(hello).map_or(Opening::Other, Opening::Tls);
            }
        }
        if part.len() < length {
            return incomplete;
        }
        rest = &body[length..];
    }
}

/// The body of a ClientHello; `None` when it is none.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut fields = Fields(body);
    let legacy_version = fields.u16()?;
    fields.take(32)?;
    fields.short()?;
    let ciphers = fields.long()?;
    fields.short()?;
    let mut hello = ClientHello { version: legacy_version, ..ClientHello::default() };
    let mut hash = Hash::new(u64::from(legacy_version));
    for cipher in ciphers.0.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])) {
        if !is_grease(cipher) {
            hash.add(cipher);
        }
    }
    let mut kinds = Vec::new();
    let mut protocols: &[u8] = &[];
    if !fields.0.is_empty() {
        let mut extensions = fields.long()?;
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let mut data = extensions.long()?;
            match kind {
                SERVER_NAME => hello.name = server_name(&mut data)?,
                ALPN => {
                    protocols = data.0;
                    hello.alpn = alpn(&mut data)?;
                }
                SUPPORTED_VERSIONS => hello.version = newest(&mut data)?,
                ENCRYPTED_CLIENT_HELLO => hello.encrypted_hello = true,
                _ => {}
            }
            if !is_grease(kind) && !VOLATILE.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    if !fields.0.is_empty() {
        return None;
    }
    // Browsers shuffle them.
    kinds.sort_unstable();
    kinds.into_iter().for_each(|kind| hash.add(kind));
    protocols.iter().for_each(|byte| hash.add(u16::from(*byte)));
    hello.fingerprint = hash.0;
    Some(hello)
}

/// `Some(None)`: the extension is well formed and holds no host name.
fn server_name(data: &mut Fields<'_>) -> Option<Option<String>> {
    let mut list = data.long()?;
    let mut found = None;
    while !list.0.is_empty() {
        // How long a name of another type is, nobody has said (RFC 6066, 3): the list ends there.
        if list.u8()? != 0 {
            break;
        }
        let name = list.long()?.0;
        found.get_or_insert(name);
    }
    Some(found.and_then(host_name))
}

/// The name in lower case, if it is a host name and no IP address.
fn host_name(name: &[u8]) -> Option<String> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 253 || !name.iter().all(allowed) {
        return None;
    }
    let text = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    text.parse::<std::net::IpAddr>().is_err().then_some(text)
}

fn alpn(data: &mut Fields<'_>) -> Option<Alpn> {
    let mut list = data.long()?;
    let mut found = Alpn { sent: true, ..Alpn::default() };
    while !list.0.is_empty() {
        match list.short()?.0 {
            b"h2" => found.h2 = true,
            b"http/1.1" => found.http1 = true,
            _ => {}
        }
    }
    Some(found)
}

fn newest(data: &mut Fields<'_>) -> Option<u16> {
    let list = data.short()?.0;
    let versions = list.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    versions.filter(|version| !is_grease(*version)).max()
}

/// Values that mean nothing and keep servers tolerant (RFC 8701).
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// FNV-1a.
struct Hash(u64);

impl Hash {
    fn new(seed: u64) -> Self {
        Self(0xcbf2_9ce4_8422_2325 ^ seed)
    }

    fn add(&mut self, value: u16) {
        for byte in value.to_be_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// What is left of a message; every reader answers `None` past the end.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A field after its length in one byte.
    fn short(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(length.into()).map(Self)
    }

    /// A field after its length in two bytes.
    fn long(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length.into()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What rustls sends.
    fn hello(name: &'static str, alpn: &[&str], tls12_only: bool) -> Vec<u8> {
        let versions: &[_] = if tls12_only { &[&rustls::version::TLS12] } else { rustls::DEFAULT_VERSIONS };
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(versions)
                .expect("versions")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = name.try_into().expect("a server name");
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a connection");
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).expect("written");
        bytes
    }

    fn tls_of(bytes: &[u8]) -> ClientHello {
        match read(bytes) {
            Opening::Tls(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_real_hello() {
        let found = tls_of(&hello("API.openai.com", &["h2", "http/1.1"], false));
        assert_eq!(found.name.as_deref(), Some("api.openai.com"));
        assert_eq!(found.alpn, Alpn { sent: true, h2: true, http1: true });
        assert_eq!((found.version, found.encrypted_hello), (0x0304, false));
        let old = tls_of(&hello("a.example", &[], true));
        assert_eq!((old.version, old.alpn), (0x0303, Alpn::default()));
        assert!(old.alpn.takes_http());
        assert_ne!(old.fingerprint, found.fingerprint);
        assert!(tls_of(&hello("a.example", &["h2"], true)).alpn.takes_http());
        assert!(!tls_of(&hello("a.example", &["acme-tls/1"], true)).alpn.takes_http());
        assert_eq!(tls_of(&hello("127.0.0.1", &[], false)).name, None, "an IP address is not sent as a name");
    }

    #[test]
    fn one_library_has_one_fingerprint() {
        let print = |name, alpn: &[&str]| tls_of(&hello(name, alpn, false)).fingerprint;
        assert_eq!(print("a.example", &["http/1.1"]), print("quite-another-host.example", &["http/1.1"]));
        assert_ne!(print("a.example", &["http/1.1"]), print("a.example", &["h2", "http/1.1"]));
    }

    #[test]
    fn cut_at_every_byte_it_is_incomplete() {
        let whole = hello("api.anthropic.com", &["h2"], false);
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), Opening::Incomplete, "{end} of {}", whole.len());
        }
        // What follows belongs to others.
        let mut longer = whole.clone();
        longer.extend_from_slice(b"more");
        assert_eq!(read(&longer), read(&whole));
    }

    #[test]
    fn of_a_list_of_names_the_first_host_name_counts() {
        let name = |list: &[u8]| {
            let data = [&(list.len() as u16).to_be_bytes(), list].concat();
            server_name(&mut Fields(&data))
        };
        let known = Some(Some("a.bc".to_owned()));
        assert_eq!(name(b"\0\0\x04a.bc"), known);
        assert_eq!(name(b"\0\0\x04a.bc\0\0\x04d.ef"), known);
        assert_eq!(name(b"\0\0\x04a.bcenai.com"), known, "a type whose length nobody knows");
        assert_eq!(name(b"enai.com"), Some(None));
        assert_eq!(name(b"\0\0\x05a.bc"), None);
    }

    #[test]
    fn in_records_of_any_size() {
        let whole = hello("api.anthropic.com", &["h2"], false);
        for size in [1, 3, 4, 5, 100, 10_000] {
            let mut split = Vec::new();
            for part in whole[5..].chunks(size) {
                split.extend_from_slice(&[22, 3, 1]);
                split.extend_from_slice(&(part.len() as u16).to_be_bytes());
                split.extend_from_slice(part);
            }
            let expected = if split.len() < MAX_BYTES { read(&whole) } else { Opening::Other };
            assert_eq!(read(&split), expected, "records of {size}");
        }
    }

    #[test]
    fn any_changed_byte_is_read_without_fear() {
        let whole = hello("api.anthropic.com", &["h2", "http/1.1"], false);
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff, whole[at] ^ 0x10] {
                let mut changed = whole.clone();
                changed[at] = value;
                let _ = read(&changed);
            }
        }
        let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0x40, 0];
        endless.resize(MAX_BYTES + 9, 0);
        assert_eq!(read(&endless), Opening::Other, "a hello of more than the bound");
        assert_eq!(read(&[22, 3, 1, 0, 0]), Opening::Other, "an empty record");
        assert_eq!(read(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Opening::Other, "not a ClientHello");
    }

    #[test]
    fn what_is_not_tls() {
        for (bytes, expected) in [
            (&b""[..], Opening::Incomplete),
            (b"GE", Opening::Incomplete),
            (b"GET / HTTP/1.1\r\n", Opening::Http),
            (b"PRI * HTTP/2.0\r\n", Opening::Http),
            (b"CONNECT a:1 HTTP/1.1", Opening::Http),
            (b"SSH-2.0-OpenSSH_9.2", Opening::Other),
            (b"ABCDEFGHIJKLMNOP", Opening::Other),
            (b"ABCDEFGHIJKL", Opening::Incomplete),
            (b"ABCDEFGHIJKL / HTTP/1.1", Opening::Http),
            (b"\x80\x2e\x01\x03\x01", Opening::Other),
            (b"\x16\x02\x00\x00\x01\x00", Opening::Other),
            (b"\x00", Opening::Other),
            (b"AB /", Opening::Other),
        ] {
            assert_eq!(read(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn an_encrypted_hello_is_noted() {
        // legacy version, random, no session, one cipher, null compression, one extension.
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
        body.extend_from_slice(&[0, 8, 0xfe, 0x0d, 0, 4, 0, 0, 1, 0]);
        let mut bytes = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
        bytes.extend_from_slice(&body);
        let found = tls_of(&bytes);
        assert!(found.encrypted_hello && found.name.is_none());
    }
}
