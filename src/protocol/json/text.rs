//! The inside of JSON strings: bytes cut anywhere in, `str` pieces out, escapes undone. What is not UTF-8 and lone
//! surrogates become U+FFFD; unknown escapes stand for themselves. Holds at most three bytes of a cut character.

use memchr::memchr2;

/// Takes text as it is decoded. Implemented by [`TextSample`](crate::call::TextSample).
pub trait TextSink {
    /// The next piece; pieces of one text come in order.
    fn text(&mut self, piece: &str);
}

impl TextSink for crate::call::TextSample {
    fn text(&mut self, piece: &str) {
        self.push(piece);
    }
}

/// Forgets the text.
pub struct NoText;

impl TextSink for NoText {
    fn text(&mut self, _piece: &str) {}
}

const REPLACEMENT: &str = "\u{FFFD}";

/// Decoder of one string's inside, from after the opening quote to the closing one.
#[derive(Debug, Default)]
pub(super) struct Unescape {
    step: Step,
    /// First bytes of a character that was cut.
    part: [u8; 4],
    part_len: u8,
    /// High surrogate that waits for its low half; 0 for none.
    high: u16,
}

#[derive(Debug, Default, Clone, Copy)]
enum Step {
    #[default]
    Plain,
    Backslash,
    Hex {
        digits: u8,
        value: u16,
    },
}

impl Unescape {
    /// Decodes up to the closing quote. Returns the bytes taken (the quote included) and whether the string ended.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut impl FnMut(&str)) -> (usize, bool) {
        let mut at = 0;
        while at < bytes.len() {
            match self.step {
                Step::Plain => {
                    let rest = &bytes[at..];
                    let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    if end > 0 {
                        self.settle_surrogate(out);
                        self.utf8(&rest[..end], out);
                    }
                    at += end;
                    match bytes.get(at) {
                        Some(b'"') => {
                            self.settle_surrogate(out);
                            self.settle_part(out);
                            return (at + 1, true);
                        }
                        Some(_) => {
                            self.settle_part(out);
                            self.step = Step::Backslash;
                            at += 1;
                        }
                        None => {}
                    }
                }
                Step::Backslash => {
                    let byte = bytes[at];
                    self.step = Step::Plain;
                    let plain = match byte {
                        b'"' => "\"",
                        b'\\' => "\\",
                        b'/' => "/",
                        b'n' => "\n",
                        b't' => "\t",
                        b'r' => "\r",
                        b'b' => "\u{8}",
                        b'f' => "\u{c}",
                        b'u' => {
                            self.step = Step::Hex { digits: 0, value: 0 };
                            at += 1;
                            continue;
                        }
                        // Not an escape: the character stands for itself and is read as plain text.
                        _ => continue,
                    };
                    self.settle_surrogate(out);
                    out(plain);
                    at += 1;
                }
                Step::Hex { digits, value } => {
                    let Some(digit) = (bytes[at] as char).to_digit(16) else {
                        self.settle_surrogate(out);
                        out(REPLACEMENT);
                        self.step = Step::Plain;
                        continue;
                    };
                    at += 1;
                    let value = value << 4 | digit as u16;
                    if digits < 3 {
                        self.step = Step::Hex { digits: digits + 1, value };
                    } else {
                        self.step = Step::Plain;
                        self.unit(value, out);
                    }
                }
            }
        }
        (bytes.len(), false)
    }

    /// One UTF-16 unit of a `\u` escape.
    fn unit(&mut self, unit: u16, out: &mut impl FnMut(&str)) {
        let mut buffer = [0; 4];
        match unit {
            0xD800..=0xDBFF => {
                self.settle_surrogate(out);
                self.high = unit;
            }
            0xDC00..=0xDFFF if self.high != 0 => {
                let point = 0x10000 + ((u32::from(self.high) - 0xD800) << 10) + (u32::from(unit) - 0xDC00);
                self.high = 0;
                out(char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut buffer));
            }
            _ => {
                self.settle_surrogate(out);
                out(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut buffer));
            }
        }
    }

    /// A high surrogate whose low half did not come.
    fn settle_surrogate(&mut self, out: &mut impl FnMut(&str)) {
        if self.high != 0 {
            self.high = 0;
            out(REPLACEMENT);
        }
    }

    /// A character that was cut and not continued.
    fn settle_part(&mut self, out: &mut impl FnMut(&str)) {
        if self.part_len > 0 {
            self.part_len = 0;
            out(REPLACEMENT);
        }
    }

    /// Bytes that should be UTF-8.
    fn utf8(&mut self, mut bytes: &[u8], out: &mut impl FnMut(&str)) {
        while self.part_len > 0 && !bytes.is_empty() {
            let len = self.part_len as usize;
            self.part[len] = bytes[0];
            match std::str::from_utf8(&self.part[..=len]) {
                Ok(char) => {
                    out(char);
                    self.part_len = 0;
                    bytes = &bytes[1..];
                }
                Err(error) if error.error_len().is_none() => {
                    self.part_len += 1;
                    bytes = &bytes[1..];
                }
                // The new byte does not continue the character: it is read again on its own.
                Err(_) => self.settle_part(out),
            }
        }
        while !bytes.is_empty() {
            match std::str::from_utf8(bytes) {
                Ok(text) => {
                    out(text);
                    return;
                }
                Err(error) => {
                    let (good, bad) = bytes.split_at(error.valid_up_to());
                    if let (false, Ok(text)) = (good.is_empty(), std::str::from_utf8(good)) {
                        out(text);
                    }
                    match error.error_len() {
                        Some(len) => {
                            out(REPLACEMENT);
                            bytes = &bad[len..];
                        }
                        None => {
                            self.part[..bad.len()].copy_from_slice(bad);
                            self.part_len = bad.len() as u8;
                            return;
                        }
                    }
                }
            }
        }
    }
}

/// Beginning of a string that decides whether it is text at all, bytes. Base64 of 200 bytes without upper case, lower
/// case or a digit does not occur; text of that length without a space hardly does.
pub(super) const HEAD: usize = 256;

/// Tells text from base64 and `data:` URLs by a string's beginning, and passes only text on.
#[derive(Debug, Default)]
pub(super) struct TextOnly {
    head: String,
    verdict: Option<bool>,
    /// Bytes of text passed on.
    passed: u64,
}

impl TextOnly {
    /// The next piece of the string.
    pub(super) fn push(&mut self, mut piece: &str, sink: &mut dyn TextSink) {
        if self.verdict.is_none() {
            let mut end = piece.len().min(HEAD - self.head.len());
            while !piece.is_char_boundary(end) {
                end += 1;
            }
            self.head.push_str(&piece[..end]);
            piece = &piece[end..];
            if self.head.len() >= HEAD {
                self.judge(sink);
            }
        }
        if self.verdict == Some(true) && !piece.is_empty() {
            self.passed += piece.len() as u64;
            sink.text(piece);
        }
    }

    /// The string ended: bytes of text that it had. Ready for the next one.
    pub(super) fn end(&mut self, sink: &mut dyn TextSink) -> u64 {
        if self.verdict.is_none() {
            self.judge(sink);
        }
        self.verdict = None;
        std::mem::take(&mut self.passed)
    }

    fn judge(&mut self, sink: &mut dyn TextSink) {
        let is_text = !is_blob(&self.head);
        self.verdict = Some(is_text);
        if is_text && !self.head.is_empty() {
            self.passed += self.head.len() as u64;
            sink.text(&self.head);
        }
        self.head.clear();
    }
}

/// Judges a string by its first bytes: a `data:` URL, or [`HEAD`] bytes of nothing but base64 (line breaks allowed).
pub(super) fn is_blob(head: &str) -> bool {
    let bytes = head.as_bytes();
    if let Some(url) = head.strip_prefix("data:") {
        return url.bytes().take_while(|b| !b.is_ascii_whitespace()).any(|b| b == b',');
    }
    let mut kinds = [false; 3];
    bytes.len() >= HEAD
        && bytes.iter().all(|b| match b {
            b'A'..=b'Z' => {
                kinds[0] = true;
                true
            }
            b'a'..=b'z' => {
                kinds[1] = true;
                true
            }
            b'0'..=b'9' => {
                kinds[2] = true;
                true
            }
            b'+' | b'/' | b'-' | b'_' | b'=' | b'\r' | b'\n' => true,
            _ => false,
        })
        && kinds == [true; 3]
}
