//! Events of a stream that differ from the one before only in what is generated: recognised by comparing bytes, without
//! reading them as JSON again.
//!
//! In: the bytes of one whole event and the [`Paths`] that it was pruned by. Out: a [`Shape`], the event's bytes with
//! holes where a text was pushed to the sample or where nothing looks at what stands there (ids, counters, padding).
//! What is kept of an event that fits is the same as of the first but for lengths of texts. Bounds: [`MAX_EVENT`] and
//! [`MAX_HOLES`] a shape; an event with more has none.

use memchr::memchr2;

use super::super::Take;
use super::MAX_KEY;
use super::paths::{Paths, ROOT};
use super::scan::{end_of_scalar, plain_bytes, plain_string, string_bytes};
use super::text::{HEAD, TextSink, Unescape};

/// Longest event that becomes a shape, bytes; providers' one-word events have 100 to 600.
const MAX_EVENT: usize = 2048;
/// Most holes; OpenAI's events have six.
const MAX_HOLES: usize = 12;
/// Deepest document that becomes a shape.
const MAX_DEPTH: usize = 16;
/// Longest number in a hole.
const MAX_DIGITS: usize = 20;

/// One event, and where others may differ.
#[derive(Debug)]
pub(in super::super) struct Shape {
    event: Box<[u8]>,
    /// In their order.
    holes: Box<[Hole]>,
}

/// A part of the event's bytes, quotes of strings not included.
#[derive(Debug)]
struct Hole {
    start: u16,
    end: u16,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Generated text.
    Text,
    /// Generated text that is too short to be taken for base64, and no `data:` URL.
    ShortText,
    /// A string that nothing looks at.
    String,
    /// A count that nothing looks at.
    Digits,
    /// Spaces before the last bracket: Anthropic pads its events.
    Spaces,
}

/// Walks an event that is known to be read without an error.
struct Walk<'a> {
    paths: &'a Paths,
    event: &'a [u8],
    at: usize,
    holes: Vec<Hole>,
    texts: usize,
}

// === impl Shape ===

impl Shape {
    /// The shape of an event with exactly one text: any lines, `data:` and a document on one line, an empty line.
    /// `None` where it is something else.
    pub(super) fn of(paths: &Paths, event: &[u8]) -> Option<Self> {
        if event.len() > MAX_EVENT {
            return None;
        }
        let at = event.iter().position(|byte| *byte == b'{')?;
        let mut walk = Walk { paths, event, at, holes: Vec::new(), texts: 0 };
        walk.value(ROOT, 0)?;
        let field = event[..at].trim_ascii_end().strip_suffix(b"data:")?;
        let framed = matches!(field.last(), None | Some(b'\n'))
            && memchr2(b'\n', b'\r', &event[at..walk.at]).is_none()
            && event[walk.at..] == *b"\n\n";
        (framed && walk.texts == 1).then(|| Shape { event: event.into(), holes: walk.holes.into() })
    }

    /// If `bytes` begin with an event of this shape: its length. Its text, which is never empty, goes to `sink`.
    pub(in super::super) fn find(&self, bytes: &[u8], sink: &mut dyn TextSink) -> Option<usize> {
        let (mut known, mut at, mut text) = (0, 0, &[][..]);
        for hole in self.holes.iter() {
            let literal = &self.event[known..usize::from(hole.start)];
            let rest = bytes.get(at..)?.strip_prefix(literal)?;
            let inside = match hole.kind {
                Kind::Spaces => &rest[..rest.iter().position(|byte| *byte != b' ')?],
                Kind::Digits => &rest[..rest.iter().take(MAX_DIGITS + 1).position(|byte| !byte.is_ascii_digit())?],
                Kind::ShortText => plain_bytes(rest)?,
                Kind::Text | Kind::String => string_bytes(rest)?,
            };
            match hole.kind {
                Kind::Digits if inside.is_empty() => return None,
                Kind::Digits | Kind::Spaces => {}
                // A line ends there, within the string.
                _ if memchr2(b'\n', b'\r', inside).is_some() => return None,
                Kind::String => {}
                Kind::ShortText if inside.len() >= HEAD || inside.starts_with(b"data:") => return None,
                Kind::Text | Kind::ShortText if inside.is_empty() => return None,
                // With the quote that ends it.
                Kind::Text | Kind::ShortText => text = &rest[..inside.len() + 1],
            }
            known = usize::from(hole.end);
            at += literal.len() + inside.len();
        }
        let last = &self.event[known..];
        bytes.get(at..)?.strip_prefix(last)?;
        match plain_string(text) {
            Some(text) => sink.text(text),
            None => {
                Unescape::default().feed(text, &mut |piece| sink.text(piece));
            }
        }
        Some(at + last.len())
    }
}

// === impl Walk ===

impl Walk<'_> {
    fn peek(&self) -> Option<u8> {
        self.event.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    /// Past the string that begins here.
    fn string(&mut self) -> Option<()> {
        self.at += string_bytes(self.event.get(self.at + 1..)?)?.len() + 2;
        Some(())
    }

    /// The value that begins here and stands at `node`.
    fn value(&mut self, node: u16, depth: usize) -> Option<()> {
        self.space();
        let take = self.paths.take(node);
        match self.peek()? {
            b'"' => {
                let start = self.at + 1;
                self.string()?;
                let end = self.at - 1;
                let kind = match take {
                    None => Kind::String,
                    Some(Take::Text) => Kind::Text,
                    Some(Take::DeepText) => Kind::ShortText,
                    Some(Take::Keep | Take::Presence) => return Some(()),
                };
                if matches!(kind, Kind::Text | Kind::ShortText) {
                    if start == end {
                        return Some(());
                    }
                    self.texts += 1;
                }
                self.hole(start, end, kind)
            }
            open @ (b'{' | b'[') => {
                let deeper = self.paths.leads_on(node);
                match take {
                    // Texts may stand below: they are pushed anew each time.
                    Some(Take::DeepText) => None,
                    Some(_) if deeper => None,
                    _ if deeper && depth < MAX_DEPTH => self.members(node, open, depth),
                    _ => self.skip(),
                }
            }
            _ => {
                let start = self.at;
                self.at += end_of_scalar(&self.event[start..]).filter(|length| *length > 0)?;
                if take.is_none() && self.event[start..self.at].iter().all(u8::is_ascii_digit) {
                    self.hole(start, self.at, Kind::Digits)?;
                }
                Some(())
            }
        }
    }

    fn hole(&mut self, start: usize, end: usize, kind: Kind) -> Option<()> {
        // Events are short.
        self.holes.push(Hole { start: start as u16, end: end as u16, kind });
        (self.holes.len() <= MAX_HOLES).then_some(())
    }

    /// The members of the object, or the elements of the array, that begins here.
    fn members(&mut self, node: u16, open: u8, depth: usize) -> Option<()> {
        self.at += 1;
        loop {
            let before = self.at;
            self.space();
            match self.peek()? {
                b'}' | b']' => {
                    if depth == 0 {
                        self.hole(before, self.at, Kind::Spaces)?;
                    }
                    self.at += 1;
                    return Some(());
                }
                b',' => self.at += 1,
                b'"' if open == b'{' => {
                    // What is no UTF-8 in it takes three bytes each in the parser's count.
                    let key = plain_bytes(&self.event[self.at + 1..]).filter(|key| key.len() <= MAX_KEY / 3)?;
                    self.at += key.len() + 2;
                    self.space();
                    if self.peek()? != b':' {
                        return None;
                    }
                    self.at += 1;
                    self.value(self.paths.member(node, key).0, depth + 1)?;
                }
                _ if open == b'[' => self.value(self.paths.element(node), depth + 1)?,
                _ => return None,
            }
        }
    }

    /// Past the object or array that begins here, all of which must be as it is.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Interest;
    use super::*;

    static TABLE: [Interest; 5] = [
        Interest { path: "id", take: Take::Keep },
        Interest { path: "a.*.text", take: Take::Text },
        Interest { path: "deep", take: Take::DeepText },
        Interest { path: "kept", take: Take::Keep },
        Interest { path: "kept.text", take: Take::Text },
    ];

    const EVENT: &str = "event: x\ndata: {\"id\":\"1\",\"n\":7,\"o\":\"p\",\"a\":[{\"text\":\"w\",\"m\":[1,{\"q\":\"]\\\"\"}]}],\"u\":null}\n\n";

    fn shape(event: &str) -> Option<Shape> {
        Shape::of(&Paths::of(&TABLE), event.as_bytes())
    }

    #[derive(Default)]
    struct Said(String);

    impl TextSink for Said {
        fn text(&mut self, piece: &str) {
            self.0 += piece;
        }
    }

    #[test]
    fn only_texts_and_what_nothing_looks_at_may_differ() {
        let shape = shape(EVENT).expect("simple");
        let find = |from: &str, to: &str| {
            assert!(EVENT.contains(from), "{from}");
            let event = EVENT.replacen(from, to, 1);
            let mut said = Said::default();
            let length = shape.find(format!("{event}data: more").as_bytes(), &mut said);
            assert!(length.is_none_or(|length| length == event.len()), "{to}");
            assert!(length.is_some() || said.0.is_empty(), "{to}");
            length.map(|_| said.0)
        };
        for (from, to, text) in [
            ("w", "w", "w"),
            ("\"w\"", "\" höher }]\"", " höher }]"),
            ("\"w\"", r#""a\n\"b\u00e9""#, "a\n\"bé"),
            ("7", "123456", "w"),
            ("\"p\"", "\"\"", "w"),
            ("\"p\"", r#""p\"""#, "w"),
            ("}\n", "    }\n", "w"),
        ] {
            assert_eq!(find(from, to).as_deref(), Some(text), "{to}");
        }
        for (from, to) in [
            ("\"1\"", "\"2\""),
            ("\"w\"", "\"\""),
            ("\"w\"", "null"),
            ("\"w\"", "\"a\nb\""),
            ("\"w\"", "\"a\\\nb\""),
            ("\"w\"", "\"w\",\"text\":\"v\""),
            ("7", "7.5"),
            ("7", "-7"),
            ("7", ""),
            ("7", "123456789012345678901"),
            ("\"p\"", "\"p\",\"id\":\"2\""),
            ("[1,", "[2,"),
            ("event: x", "event: y"),
            ("}\n\n", "}\n"),
            ("null", "0"),
        ] {
            assert_eq!(find(from, to), None, "{to}");
        }
        for end in 0..EVENT.len() {
            assert!(shape.find(&EVENT.as_bytes()[..end], &mut Said::default()).is_none(), "{end}");
        }
        let cut = EVENT.bytes().map(|byte| if byte == b'w' { 0xC3 } else { byte }).collect::<Vec<_>>();
        let mut said = Said::default();
        assert!(shape.find(&cut, &mut said).is_some());
        assert_eq!(said.0, "\u{FFFD}");
    }

    #[test]
    fn long_base64_is_no_text_below_deep_text() {
        let shape = shape("data: {\"deep\":\"w\"}\n\n").expect("simple");
        let find = |text: &str| {
            shape.find(format!("data: {{\"deep\":\"{text}\"}}\n\n").as_bytes(), &mut Said::default()).is_some()
        };
        assert!(find("word") && find(&"a b".repeat(80)));
        assert!(!find(&"AbC4".repeat(64)) && !find("data:image/png;base64,AA") && !find(r"\u0064ata:,"));
    }

    #[test]
    fn events_that_are_not_simple_have_none() {
        for event in [
            "data: {\"id\":\"1\"}\n\n",
            "data: {\"a\":[{\"text\":\"\"}]}\n\n",
            "data: {\"a\":[{\"text\":\"v\"},{\"text\":\"w\"}]}\n\n",
            "data: {\"kept\":{\"text\":\"w\"}}\n\n",
            "data: {\"deep\":[\"w\"]}\n\n",
            "data: {\"a\":[{\"text\":\"w\"}]}\n",
            "data: {\"a\":[{\"text\":\"w\"}]}\r\n\r\n",
            "data: {\"a\":[{\"text\":\"w\"}]}\ndata: {}\n\n",
            "data: {\"a\":[{\"text\":\ndata: \"w\"}]}\n\n",
            "data: [{\"a\":[{\"text\":\"w\"}]}\n\n",
            "error: {\"a\":[{\"text\":\"w\"}]}\n\n",
            ": {\"a\":[{\"text\":\"w\"}]}\ndata: {\"a\":[{\"text\":\"w\"}]}\n\n",
            ": data:{\"o\":[\ndata: {\"a\":[{\"text\":\"w\"}]}\n:],\"a\":[{\"text\":\"v\"}]}\n\n",
            ": data: {\"a\":[{\"text\":\"w\"}]}\n\n",
            "data: {\"a\":[{\"text\":\"w\"}],\"o\":\"a\nevent: x\ndata: b\"}\n\n",
            "data: {\"a\":[{\"text\":\"w\"}],\"o\n\":1}\n\n",
            "data: {\"a\":[{\"text\":\"w\"}],\"u\":[\r1]}\n\n",
            "data: {\"a\":[{\"text\":\"w\"}\n\n",
            "data: {\"a\":[{\"text\":\"w\\",
            "data: {\"a\":[{\"text\":\"w\"",
            "data: {\"a\":[{\"text\"\"w\"}]}\n\n",
            "data: [DONE]\n\n",
            "",
        ] {
            assert!(shape(event).is_none(), "{event}");
        }
        let long = format!("data: {{\"o\":\"{}\",\"a\":[{{\"text\":\"w\"}}]}}\n\n", "x".repeat(MAX_EVENT));
        assert!(shape(&long).is_none());
        let key = "k".repeat(MAX_KEY);
        assert!(shape(&format!("data: {{\"{key}\":1,\"a\":[{{\"text\":\"w\"}}]}}\n\n")).is_none());
        let many = "\"n\":1,".repeat(MAX_HOLES);
        assert!(shape(&format!("data: {{{many}\"a\":[{{\"text\":\"w\"}}]}}\n\n")).is_none());
    }
}
