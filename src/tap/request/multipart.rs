//! Push parser for `multipart/form-data` (RFC 7578) that keeps the few fields that say what a call asks for.
//!
//! In: a body cut anywhere; out: those fields. Files and other fields are stepped over without being stored. Bounds: a
//! boundary of 70 bytes (RFC 2046), [`MAX_LINE`] of a part's header line, [`MAX_FIELD`] a field.

use memchr::memchr;

/// Fields that are kept; the prompt's own names are `prompt` (images, transcription) and `input` (speech).
const FIELDS: [&str; 6] = ["model", "stream", "n", "temperature", "prompt", "input"];
/// Most kept of a field, bytes: an image prompt has up to 32,000 characters.
pub(super) const MAX_FIELD: usize = 64 * 1024;
/// Most kept of a part's header line, bytes.
const MAX_LINE: usize = 1024;

/// Push parser; see the file's head.
#[derive(Debug)]
pub(super) struct Multipart {
    /// CR LF, two dashes and the boundary: what ends a part.
    delimiter: Vec<u8>,
    /// For each beginning of the delimiter, how long a shorter beginning it ends with (Knuth, Morris, Pratt).
    back: Vec<usize>,
    /// Bytes of the delimiter that the body ends with so far.
    matched: usize,
    state: State,
    line: Vec<u8>,
    /// Field of this part; `None` for those that are stepped over.
    field: Option<&'static str>,
    value: Vec<u8>,
    fields: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Of a part, or before the first one.
    Content,
    /// Behind the delimiter; `dashes` of two have come, which mean the end of all parts.
    Delimiter {
        dashes: u8,
    },
    Headers,
    End,
}

impl Multipart {
    /// A parser for bodies with this boundary.
    pub(super) fn new(boundary: &str) -> Self {
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        let mut back = vec![0; delimiter.len() + 1];
        let mut length = 0;
        for at in 1..delimiter.len() {
            while length > 0 && delimiter[at] != delimiter[length] {
                length = back[length];
            }
            length += usize::from(delimiter[at] == delimiter[length]);
            back[at + 1] = length;
        }
        Self {
            delimiter,
            back,
            // The first delimiter may open the body, without the line end before it.
            matched: 2,
            state: State::Content,
            line: Vec::new(),
            field: None,
            value: Vec::new(),
            fields: Vec::new(),
        }
    }

    /// Reads on.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(&byte) = bytes.first() {
            match self.state {
                State::Content => {
                    let taken = self.content(bytes);
                    bytes = &bytes[taken..];
                    continue;
                }
                State::Delimiter { dashes } => match byte {
                    b'-' if dashes == 0 => self.state = State::Delimiter { dashes: 1 },
                    b'-' if dashes == 1 => self.state = State::End,
                    b'\n' => self.state = State::Headers,
                    _ => self.state = State::Delimiter { dashes: 2 },
                },
                State::Headers => match byte {
                    b'\n' if self.line.is_empty() => self.state = State::Content,
                    b'\n' => {
                        if let Some(field) = field(&self.line) {
                            self.field = field;
                        }
                        self.line.clear();
                    }
                    b'\r' => {}
                    _ if self.line.len() < MAX_LINE => self.line.push(byte),
                    _ => {}
                },
                State::End => return,
            }
            bytes = &bytes[1..];
        }
    }

    /// The fields that ended.
    pub(super) fn finish(self) -> Vec<(&'static str, Vec<u8>)> {
        self.fields
    }

    /// On in a part. Returns the bytes taken.
    fn content(&mut self, bytes: &[u8]) -> usize {
        if self.matched == 0 {
            let end = memchr(b'\r', bytes).unwrap_or(bytes.len());
            if end > 0 {
                keep(self.field, &mut self.value, &bytes[..end]);
                return end;
            }
        }
        while self.matched > 0 && self.delimiter[self.matched] != bytes[0] {
            // What looked like the delimiter was content, but for its last bytes.
            let shorter = self.back[self.matched];
            keep(self.field, &mut self.value, &self.delimiter[..self.matched - shorter]);
            self.matched = shorter;
        }
        if self.delimiter[self.matched] != bytes[0] {
            // Read as content in the next round.
            return 0;
        }
        self.matched += 1;
        if self.matched == self.delimiter.len() {
            let value = std::mem::take(&mut self.value);
            if let Some(field) = self.field.take()
                && !self.fields.iter().any(|(known, _)| *known == field)
            {
                self.fields.push((field, value));
            }
            self.matched = 0;
            self.state = State::Delimiter { dashes: 0 };
        }
        1
    }
}

fn keep(field: Option<&str>, value: &mut Vec<u8>, bytes: &[u8]) {
    if field.is_some() {
        let room = MAX_FIELD.saturating_sub(value.len());
        value.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// The boundary that a `multipart/form-data` content type names.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (_, boundary) = parameters(content_type).find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?;
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// What a header line says of its part: `None` when it is another header, `Some(None)` for files and unknown fields.
fn field(line: &[u8]) -> Option<Option<&'static str>> {
    let line = std::str::from_utf8(line).ok()?;
    let (name, value) = line.split_once(':')?;
    if !name.trim().eq_ignore_ascii_case("content-disposition") {
        return None;
    }
    if parameters(value)
        .any(|(name, _)| name.eq_ignore_ascii_case("filename") || name.eq_ignore_ascii_case("filename*"))
    {
        return Some(None);
    }
    let (_, name) = parameters(value).find(|(name, _)| name.eq_ignore_ascii_case("name"))?;
    Some(FIELDS.into_iter().find(|known| *known == name))
}

/// The `name=value` pairs behind the first `;`. Quotes are taken off; escapes inside of them stay.
fn parameters(header: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = header.find(';').map_or("", |at| &header[at + 1..]);
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        let (name, behind) = rest.split_once('=')?;
        let value = match behind.strip_prefix('"') {
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c| {
                    let closes = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    closes
                });
                let end = end.unwrap_or(quoted.len());
                rest = quoted.get(end + 1..).unwrap_or("");
                &quoted[..end]
            }
            None => {
                let end = behind.find(';').unwrap_or(behind.len());
                rest = &behind[end..];
                behind[..end].trim()
            }
        };
        Some((name.trim(), value))
    })
}
