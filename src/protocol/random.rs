//! Deterministic random input for tests: numbers, JSON documents, their spellings, and cuts of a byte string.

use serde_json::{Map, Value};

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// A document over a small alphabet of keys, so that paths meet it.
    pub(crate) fn json(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 6 } else { 10 }) {
            0 => Value::Null,
            1 => Value::Bool(self.below(2) == 0),
            2 => Value::from(self.next() >> self.below(64)),
            3 => Value::from((self.next() % 100_000) as f64 / 128.0 - 300.0),
            4 | 5 => Value::String(self.text()),
            6 => Value::Array((0..self.below(4)).map(|_| self.json(depth - 1)).collect()),
            _ => {
                let mut map = Map::new();
                for _ in 0..self.below(5) {
                    map.insert(self.pick(&["a", "b", "c", "d\u{e9}", "\"q\\"]).to_owned(), self.json(depth - 1));
                }
                Value::Object(map)
            }
        }
    }

    fn text(&mut self) -> String {
        let words = ["", "word", " ", "\"", "\\", "\n", "é", "漢字", "😀", "{[", "]}", ",:", "\u{7f}\u{1}", "tail"];
        match self.below(40) {
            0 => words[self.below(words.len())].repeat(300),
            1 => "AbC4".repeat(60 + self.below(30)),
            2 => format!("data:image/png;base64,{}", "iVBORw0".repeat(self.below(4))),
            _ => (0..self.below(5)).map(|_| words[self.below(words.len())]).collect(),
        }
    }

    /// `value` as bytes: white space, escapes and surrogate pairs put in at random.
    pub(crate) fn spell(&mut self, value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        self.spell_into(value, &mut out);
        self.space(&mut out);
        out
    }

    fn space(&mut self, out: &mut Vec<u8>) {
        while self.below(6) == 0 {
            out.extend_from_slice(self.pick(&[" ", "\n", "\t", "\r\n"]).as_bytes());
        }
    }

    fn spell_into(&mut self, value: &Value, out: &mut Vec<u8>) {
        self.space(out);
        match value {
            Value::String(text) => self.spell_text(text, out),
            Value::Array(list) => {
                out.push(b'[');
                for (i, element) in list.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    self.spell_into(element, out);
                    self.space(out);
                }
                self.space(out);
                out.push(b']');
            }
            Value::Object(map) => {
                out.push(b'{');
                for (i, (key, member)) in map.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    self.space(out);
                    self.spell_text(key, out);
                    self.space(out);
                    out.push(b':');
                    self.spell_into(member, out);
                    self.space(out);
                }
                self.space(out);
                out.push(b'}');
            }
            other => out.extend_from_slice(other.to_string().as_bytes()),
        }
    }

    fn spell_text(&mut self, text: &str, out: &mut Vec<u8>) {
        out.push(b'"');
        for char in text.chars() {
            let mut units = [0; 2];
            let short = match char {
                '"' => Some(b'"'),
                '\\' => Some(b'\\'),
                '\n' => Some(b'n'),
                _ => None,
            };
            match short {
                Some(short) if self.below(2) == 0 => out.extend_from_slice(&[b'\\', short]),
                None if self.below(8) > 0 && char >= ' ' => {
                    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => {
                    for unit in char.encode_utf16(&mut units) {
                        out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                    }
                }
            }
        }
        out.push(b'"');
    }

    /// `bytes` in pieces of random lengths, short ones mostly.
    pub(crate) fn cut<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        let longest = [1, 2, 5, 17, 200][self.below(5)];
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(1 + self.below(longest)));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}
