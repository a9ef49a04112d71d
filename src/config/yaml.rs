//! YAML text to a tree whose every node knows its line and column. Pure: text in, tree and problems out.
//!
//! Reads one document of YAML 1.2. Duplicate keys, tags, unknown anchors and keys that are not plain text are noted and
//! reading goes on; a syntax error ends it. Nothing is interpreted: a scalar is its text and whether it was quoted.
//! Bounds: nesting of [`MAX_DEPTH`]; [`MAX_NODES`] nodes, aliases counted as often as they are used.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::problem::shown;

/// Deepest nesting; the settings need 5.
const MAX_DEPTH: usize = 32;

/// Most nodes of one file, aliases expanded: some 10,000 keys, and no room for a "billion laughs".
const MAX_NODES: usize = 100_000;

/// Line and column, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl From<&Marker> for Spot {
    fn from(marker: &Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

/// One value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) spot: Spot,
    pub(super) data: Data,
    /// Nodes in this subtree, aliases expanded.
    weight: usize,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Data {
    Scalar { text: String, plain: bool },
    List(Vec<Rc<Node>>),
    Map(Vec<(Key, Rc<Node>)>),
}

/// Key of a mapping and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) spot: Spot,
}

impl Node {
    /// Nothing was written: empty, `~` or `null` without quotes.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.data, Data::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The value of a mapping's key.
    pub(super) fn child(&self, name: &str) -> Option<(&Key, &Node)> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|(key, _)| key.text == name).map(|(key, node)| (key, &**node)),
            _ => None,
        }
    }

    fn scalar(spot: Spot, text: String, plain: bool) -> Self {
        Self { spot, data: Data::Scalar { text, plain }, weight: 1 }
    }
}

/// Reads one document; `None` for a text without any, or one that could not be read to its end.
pub(super) fn parse(text: &str) -> (Option<Rc<Node>>, Vec<(Spot, String)>) {
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    options.emit_unresolved_aliases = true;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => {
                let tag = span.tag_start();
                builder.take(event, Spot::from(&span.start), tag.as_ref().map(Spot::from))
            }
            Err(error) => Err((Spot::from(error.marker()), format!("not YAML: {}", error.info()))),
        };
        if let Err(problem) = step {
            builder.problems.push(problem);
            return (None, builder.problems);
        }
    }
    (builder.root, builder.problems)
}

/// Where finished nodes go.
#[derive(Default)]
struct Builder {
    root: Option<Rc<Node>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    documents: usize,
    problems: Vec<(Spot, String)>,
}

/// A collection that is being read.
struct Open {
    spot: Spot,
    anchor: usize,
    weight: usize,
    data: OpenData,
}

enum OpenData {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<(Key, Rc<Node>)>, key: Option<Key>, first: HashMap<String, usize> },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, spot: Spot, tag_spot: Option<Spot>) -> Result<(), (Spot, String)> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err((spot, "a second document begins here; keep one".to_owned()));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), tag_spot.unwrap_or(spot));
                let node = Rc::new(Node::scalar(spot, text.into_owned(), style == ScalarStyle::Plain));
                self.finish(node, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), tag_spot.unwrap_or(spot));
                self.open(spot, anchor, OpenData::List(Vec::new()));
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), tag_spot.unwrap_or(spot));
                self.open(spot, anchor, OpenData::Map { entries: Vec::new(), key: None, first: HashMap::new() });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let data = match open.data {
                        OpenData::List(items) => Data::List(items),
                        OpenData::Map { entries, .. } => Data::Map(entries),
                    };
                    self.finish(Rc::new(Node { spot: open.spot, data, weight: open.weight }), open.anchor)?;
                }
            }
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => self.finish(node.clone(), 0)?,
                None => return Err((spot, "this alias stands inside its own anchor; write the value out".to_owned())),
            },
            Event::UnresolvedAlias(_) => {
                let text = "an alias without an anchor before it; in a value that begins with * or &, use quotes";
                self.problems.push((spot, text.to_owned()));
                self.finish(Rc::new(Node::scalar(spot, String::new(), true)), 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn check_tag(&mut self, tag: Option<&Tag>, spot: Spot) {
        if tag.is_some() {
            self.problems.push((spot, "tags (!…) are not supported; to make a value text, use quotes".to_owned()));
        }
    }

    fn open(&mut self, spot: Spot, anchor: usize, data: OpenData) {
        self.open.push(Open { spot, anchor, weight: 1, data });
    }

    /// Hands a finished node to the collection that it stands in.
    fn finish(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), (Spot, String)> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.weight = open.weight.saturating_add(node.weight);
        if open.weight > MAX_NODES {
            let text = format!("more than {MAX_NODES} values (aliases count as often as they are used); write fewer");
            return Err((node.spot, text));
        }
        match &mut open.data {
            OpenData::List(items) => items.push(node),
            OpenData::Map { entries, key, first } => match key.take() {
                Some(key) => {
                    if let Some(line) = first.get(&key.text) {
                        let text = format!("{} is given twice, first on line {line}; keep one", shown(&key.text));
                        self.problems.push((key.spot, text));
                    } else {
                        first.insert(key.text.clone(), key.spot.line);
                        entries.push((key, node));
                    }
                }
                None => {
                    let text = match &node.data {
                        Data::Scalar { text, .. } => text.clone(),
                        _ => {
                            let text = "a list or mapping cannot be a name here; write plain text before the colon";
                            return Err((node.spot, text.to_owned()));
                        }
                    };
                    *key = Some(Key { text, spot: node.spot });
                }
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<(usize, usize, String)> {
        parse(text).1.into_iter().map(|(spot, text)| (spot.line, spot.column, text)).collect()
    }

    #[test]
    fn nodes_know_their_place() {
        let (root, problems) = parse("a: 1\nb:\n  - x\n  - {c: \"~\"}\n");
        assert!(problems.is_empty());
        let root = root.unwrap();
        let (key, b) = root.child("b").unwrap();
        assert_eq!(key.spot, Spot { line: 2, column: 1 });
        let Data::List(items) = &b.data else { panic!("{b:?}") };
        let (_, c) = items[1].child("c").unwrap();
        assert_eq!(c.spot, Spot { line: 4, column: 9 });
        assert!(!c.is_null(), "a quoted ~ is text");
    }

    #[test]
    fn nothing_written_is_nothing() {
        for text in ["", "\n\n", "# only a comment\n", "---\n", "\u{feff}", "---\n...\n"] {
            let (root, problems) = parse(text);
            assert!(problems.is_empty(), "{text:?}: {problems:?}");
            assert!(root.is_none_or(|n| n.is_null()), "{text:?}");
        }
    }

    #[test]
    fn what_is_noted_does_not_stop_reading() {
        let found = problems("a: 1\nb: *gone\na: 2\nc: !!int 3\n");
        let lines: Vec<_> = found.iter().map(|p| (p.0, p.1)).collect();
        assert_eq!(lines, [(2, 4), (3, 1), (4, 4)], "{found:?}");
        assert_eq!(found[1].2, "\"a\" is given twice, first on line 1; keep one");
    }

    #[test]
    fn aliases_are_counted_as_often_as_they_are_used() {
        let (root, found) = parse("a: &x {k: 1}\nb: *x\n");
        assert!(found.is_empty());
        assert!(root.unwrap().child("b").unwrap().1.child("k").is_some());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let one = format!("*a{}", n - 1);
            bomb += &format!("a{n}: &a{n} [{}]\n", vec![one; 10].join(","));
        }
        let found = problems(&bomb);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].2.starts_with("more than 100000 values"), "{found:?}");
        assert!(problems("a: &x [*x]\n")[0].2.contains("inside its own anchor"));
    }

    #[test]
    fn deep_and_wide_documents_end_early() {
        for text in ["[".repeat(200_000), "- ".repeat(200_000), "{a: ".repeat(200_000), "- x\n".repeat(200_000)] {
            let started = std::time::Instant::now();
            let (root, found) = parse(&text);
            assert!(root.is_none());
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(started.elapsed().as_secs() < 20, "{:?} for {:?}…", started.elapsed(), &text[..8]);
        }
    }

    #[test]
    fn syntax_errors_have_a_place() {
        for (text, line) in [("a: [1, 2\n", 2), ("a: 1\n\tb: 2\n", 2), ("a: \"x\nb: 1\n", 2), ("a: b: c\n", 1)] {
            let found = problems(text);
            assert_eq!(found.len(), 1, "{text:?} {found:?}");
            assert!(found[0].2.starts_with("not YAML: "), "{found:?}");
            assert!(found[0].0.abs_diff(line) <= 1, "{text:?} {found:?}");
        }
        assert!(problems("a: 1\n---\nb: 2\n")[0].2.starts_with("a second document"));
        assert!(problems("[a]: 1\n")[0].2.starts_with("a list or mapping cannot be a name"));
    }
}
