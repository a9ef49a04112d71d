//! Reads values as programs print them: JSON, Python's `repr`, Node's `util.inspect`. In: text that begins with a value.
//! Out: the same as JSON, and how many bytes it took.
//!
//! Lenient where they differ: either kind of quotes, names without quotes, `None` and `undefined`, `True`, tuples,
//! `b'…'`, class names before braces (`Headers { … }`), comments of the printer (`[Object]`, `... 3 more items`). What
//! stands for no plain value becomes `null`. Bounds: depth 32, 10,000 values. Never fails on its own output's account:
//! text that is no value gives `None`.

use serde_json::{Map, Value};

/// Deepest nesting.
const DEPTH: u8 = 32;
/// Most values of one text.
const VALUES: u32 = 10_000;

/// The object or list that `text` begins with, and its length in bytes.
pub(super) fn read(text: &str) -> Option<(Value, usize)> {
    let mut reader = Reader { text, at: 0, left: VALUES };
    let value = reader.value(DEPTH)?;
    matches!(value, Value::Object(_) | Value::Array(_)).then_some((value, reader.at))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    left: u32,
}

impl Reader<'_> {
    fn value(&mut self, depth: u8) -> Option<Value> {
        self.left = self.left.checked_sub(1)?;
        let depth = depth.checked_sub(1)?;
        self.blanks();
        match self.peek()? {
            '{' => self.object(depth),
            '[' => self.list('[', ']', depth),
            '(' => self.list('(', ')', depth),
            '"' | '\'' | '`' => self.string().map(Value::String),
            '<' => self.opaque(depth),
            _ => self.word(depth),
        }
    }

    fn object(&mut self, depth: u8) -> Option<Value> {
        self.skip('{')?;
        let mut map = Map::new();
        loop {
            self.blanks();
            match self.peek()? {
                '}' => {
                    self.at += 1;
                    return Some(Value::Object(map));
                }
                ',' => {
                    self.at += 1;
                    continue;
                }
                // `[Symbol(state)]: …`, `[stack]: …`
                '[' => {
                    let end = self.rest().find("]:")?;
                    self.at += end + 2;
                    self.value(depth)?;
                    continue;
                }
                '.' => {
                    self.more_items()?;
                    continue;
                }
                _ => {}
            }
            let key = match self.peek()? {
                '"' | '\'' => self.string()?,
                _ => self.name()?,
            };
            self.blanks();
            if self.peek()? == ':' {
                self.at += 1;
            } else if self.rest().starts_with("=>") {
                self.at += 2;
            } else {
                return None;
            }
            let value = self.value(depth)?;
            map.insert(key, value);
            self.blanks();
            if !matches!(self.peek()?, ',' | '}') {
                return None;
            }
        }
    }

    fn list(&mut self, open: char, close: char, depth: u8) -> Option<Value> {
        self.skip(open)?;
        // `[Object]`, `[Array]`, `[Function: x]`: what Node did not print.
        let inside = self.rest().split(close).next().unwrap_or_default();
        let unprinted = ["Object", "Array", "Function", "Getter", "Circular", "Symbol", "class ", "AsyncFunction"];
        if open == '[' && unprinted.iter().any(|word| inside.trim_start().starts_with(word)) {
            self.at += inside.len();
            self.skip(close)?;
            return Some(Value::Null);
        }
        let mut items = Vec::new();
        loop {
            self.blanks();
            match self.peek()? {
                c if c == close => {
                    self.at += 1;
                    return Some(Value::Array(items));
                }
                ',' => self.at += 1,
                '.' => self.more_items()?,
                _ => {
                    items.push(self.value(depth)?);
                    self.blanks();
                    if !(self.peek()? == ',' || self.peek()? == close) {
                        return None;
                    }
                }
            }
        }
    }

    /// A quoted string; adjacent ones (`'a' + 'b'`, as Node wraps long ones) are joined.
    fn string(&mut self) -> Option<String> {
        let quote = self.peek()?;
        let mut out = String::new();
        loop {
            self.skip(quote)?;
            loop {
                let c = self.next()?;
                match c {
                    '\\' => self.escape(&mut out)?,
                    c if c == quote => break,
                    c => out.push(c),
                }
            }
            let joined = self.rest().trim_start().strip_prefix('+').map(str::trim_start);
            match joined.filter(|rest| rest.starts_with(quote)) {
                Some(rest) => self.at = self.text.len() - rest.len(),
                None => return Some(out),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Option<()> {
        let digits = |reader: &mut Self, count: usize| -> Option<u32> {
            let digits = reader.rest().get(..count)?;
            let number = u32::from_str_radix(digits, 16).ok()?;
            reader.at += count;
            Some(number)
        };
        let code = match self.next()? {
            'n' => u32::from('\n'),
            'r' => u32::from('\r'),
            't' => u32::from('\t'),
            'b' => 8,
            'f' => 12,
            'x' => digits(self, 2)?,
            'U' => digits(self, 8)?,
            'u' => {
                let high = digits(self, 4)?;
                if (0xd800..0xdc00).contains(&high) && self.rest().starts_with("\\u") {
                    self.at += 2;
                    let low = digits(self, 4)?;
                    0x10000 + ((high & 0x3ff) << 10 | (low & 0x3ff))
                } else {
                    high
                }
            }
            other => u32::from(other),
        };
        out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
        Some(())
    }

    /// A number, a constant, a name before braces, bytes, or a printer's own word.
    fn word(&mut self, depth: u8) -> Option<Value> {
        if self.rest().starts_with("b'") || self.rest().starts_with("b\"") {
            self.at += 1;
            return self.string().map(Value::String);
        }
        let word = self.name()?;
        self.blanks();
        match self.peek() {
            Some('{') => return self.object(depth),
            Some('(') => {
                // `Map(2) {…}`, `datetime(…)`, `Headers({…})`
                let inner = self.list('(', ')', depth)?;
                self.blanks();
                if matches!(self.peek(), Some('{' | '[')) {
                    return self.value(depth);
                }
                return Some(match inner {
                    Value::Array(mut items) if items.len() == 1 => items.remove(0),
                    _ => Value::Null,
                });
            }
            _ => {}
        }
        Some(match word.as_str() {
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            number => serde_json::from_str::<serde_json::Number>(number.trim_end_matches('n'))
                .map_or(Value::Null, Value::Number),
        })
    }

    /// `<Response [429]>`, `<ref *1>`: of no use here.
    fn opaque(&mut self, depth: u8) -> Option<Value> {
        let end = self.rest().find('>')?;
        let is_reference = self.rest().starts_with("<ref ");
        self.at += end + 1;
        if is_reference { self.value(depth) } else { Some(Value::Null) }
    }

    /// `... 3 more items`.
    fn more_items(&mut self) -> Option<()> {
        self.rest().starts_with("...").then_some(())?;
        let end = self.rest().find([',', ']', '}', ')', '\n'])?;
        self.at += end;
        Some(())
    }

    fn name(&mut self) -> Option<String> {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '-' | '.' | '+');
        let end = self.rest().find(|c| !is_part(c)).unwrap_or(self.rest().len());
        let name = self.rest()[..end].to_owned();
        self.at += end;
        (!name.is_empty()).then_some(name)
    }

    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn skip(&mut self, expected: char) -> Option<()> {
        (self.next()? == expected).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_printer_is_read() {
        for (text, expected) in [
            (r#"{"a": [1, -2.5e3, null, true]} tail"#, json!({"a": [1, -2500.0, null, true]})),
            (
                r#"{'a': None, 'b': True, 'c': (1, 'x'), "d": "it's"}"#,
                json!({"a": null, "b": true, "c": [1, "x"], "d": "it's"}),
            ),
            (r"{'a': 'line\n\'quoted\' \u00e9 \x41 \ud83d\ude00'}", json!({"a": "line\n'quoted' é A 😀"})),
            (
                "{\n  status: 429,\n  headers: Headers { 'retry-after': '2', date: '1' },\n  error: { message: 'a ' +\n 'b', param: undefined, nested: [Object] },\n  [Symbol(k)]: [1],\n ... 2 more items\n}",
                json!({"status": 429, "headers": {"retry-after": "2", "date": "1"}, "error": {"message": "a b", "param": null, "nested": null}}),
            ),
            (
                "{'$metadata': {httpStatusCode: 429, 'a-b': Map(1) { 'k' => 'v' }}}",
                json!({"$metadata": {"httpStatusCode": 429, "a-b": {"k": "v"}}}),
            ),
            (r#"[{'response': <Response [401]>, 'raw': b'{"x":1}'}]"#, json!([{"response": null, "raw": "{\"x\":1}"}])),
        ] {
            assert_eq!(read(text).expect(text).0, expected, "{text}");
        }
        assert_eq!(read("{\"a\":1} tail").map(|(_, end)| end), Some(7));
    }

    #[test]
    fn what_is_no_value_is_none_and_hostile_text_ends() {
        for text in ["", "plain", "{", "{a", "{a:", "{'a': 'b", "{1 2}", "[1 2]", "'text alone'", "{\"a\" \"b\"}"] {
            assert_eq!(read(text), None, "{text}");
        }
        for text in [
            "[".repeat(50_000),
            "{a:".repeat(50_000),
            "f(".repeat(50_000),
            "<ref 1>".repeat(50_000),
            "[...".repeat(9_999),
        ] {
            assert_eq!(read(&text), None);
        }
        let text = "{'message': 'é\\u12 …', n: 1, b: [Object], c: Foo { d: 2 }}";
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            assert!(read(&text[..end]).is_none(), "{}", &text[..end]);
        }
    }
}
