//! Turns a table of [`Interest`]s into an automaton that is walked key by key. In: a static table; out: [`Paths`],
//! made once a table and shared. Bounded by the tables, which are part of the program.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use compact_str::CompactString;

use super::super::{Interest, Take};

/// Where no interest can match any more.
pub(super) const NOWHERE: u16 = u16::MAX;
/// The document itself.
pub(super) const ROOT: u16 = 0;
/// From this many bytes on, names are not told apart by length. The longest of today's tables has 27.
const LONGEST: usize = 32;
/// Compiled tables kept for reuse. The program has about two a protocol; tests leak more than that.
const CACHED_TABLES: usize = 128;

/// Compiled interests: a deterministic automaton whose states are sets of half-read paths.
#[derive(Debug)]
pub(super) struct Paths {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    take: Option<Take>,
    /// Named children, short names first.
    children: Vec<Child>,
    /// How many children have a shorter name, by length: a key is compared with those of its own length only.
    shorter: [u16; LONGEST + 2],
    /// Child for any other key, and for array elements.
    any: Option<u16>,
}

#[derive(Debug)]
struct Child {
    text: &'static str,
    name: CompactString,
    node: u16,
}

/// One path that has been read up to segment `.1`.
type Position = (u16, u16);

impl Paths {
    /// The compiled form of `table`.
    pub(super) fn of(table: &'static [Interest]) -> Arc<Paths> {
        type Cache = Vec<((usize, usize), Arc<Paths>)>;
        static CACHE: RwLock<Cache> = RwLock::new(Vec::new());
        // Statics never move, so that the address names the table.
        let key = (table.as_ptr() as usize, table.len());
        let find = |cache: &Cache| cache.iter().find(|(known, _)| *known == key).map(|(_, paths)| Arc::clone(paths));
        if let Some(paths) = find(&CACHE.read().unwrap_or_else(PoisonError::into_inner)) {
            return paths;
        }
        let paths = Arc::new(Paths::compile(table));
        let mut cache = CACHE.write().unwrap_or_else(PoisonError::into_inner);
        if cache.len() < CACHED_TABLES && find(&cache).is_none() {
            cache.push((key, Arc::clone(&paths)));
        }
        paths
    }

    /// Compiles a table. Where several paths end at the same place the one that is literal earliest wins, then the
    /// first of the table.
    pub(super) fn compile(table: &[Interest]) -> Paths {
        let segments: Vec<Vec<&'static str>> = table.iter().map(|i| split(i.path)).collect();
        let start: Vec<Position> = (0..table.len()).map(|i| (i as u16, 0)).collect();
        let mut known: HashMap<Vec<Position>, u16> = HashMap::from([(start.clone(), ROOT)]);
        let mut todo = vec![start];
        let mut nodes: Vec<Node> = Vec::new();
        while nodes.len() < todo.len() {
            let here = todo[nodes.len()].clone();
            let open = || here.iter().filter(|(i, at)| (*at as usize) < segments[*i as usize].len());
            let mut visit = |key: Option<&str>| {
                let next: Vec<Position> = open()
                    .filter(|(i, at)| match segments[*i as usize][*at as usize] {
                        "*" => true,
                        segment => Some(segment) == key,
                    })
                    .map(|(i, at)| (*i, at + 1))
                    .collect();
                (!next.is_empty()).then(|| {
                    *known.entry(next).or_insert_with_key(|next| {
                        todo.push(next.clone());
                        (todo.len() - 1) as u16
                    })
                })
            };
            let any = visit(None);
            let mut children: Vec<Child> = Vec::new();
            for (i, at) in open() {
                let text = segments[*i as usize][*at as usize];
                if text != "*"
                    && !children.iter().any(|child| child.text == text)
                    && let Some(node) = visit(Some(text))
                {
                    children.push(Child { text, name: text.into(), node });
                }
            }
            children.sort_by_key(|child| child.text.len().min(LONGEST));
            let shorter = std::array::from_fn(|length| {
                children.iter().filter(|child| child.text.len().min(LONGEST) < length).count() as u16
            });
            let take = here
                .iter()
                .filter(|(i, at)| *at as usize == segments[*i as usize].len())
                .min_by_key(|(i, _)| (segments[*i as usize].iter().map(|s| *s == "*").collect::<Vec<_>>(), *i))
                .map(|(i, _)| table[*i as usize].take);
            nodes.push(Node { take, children, shorter, any });
        }
        Paths { nodes }
    }

    /// Where `key` leads from `node`, and the key itself where the table names it.
    pub(super) fn member(&self, node: u16, key: &[u8]) -> (u16, Option<&CompactString>) {
        let Some(node) = self.nodes.get(node as usize) else { return (NOWHERE, None) };
        let length = key.len().min(LONGEST);
        let alike = usize::from(node.shorter[length])..usize::from(node.shorter[length + 1]);
        for child in &node.children[alike] {
            if child.text.as_bytes() == key {
                return (child.node, Some(&child.name));
            }
        }
        (node.any.unwrap_or(NOWHERE), None)
    }

    /// Where any element of an array leads from `node`.
    pub(super) fn element(&self, node: u16) -> u16 {
        self.nodes.get(node as usize).and_then(|n| n.any).unwrap_or(NOWHERE)
    }

    /// What is to be done at `node` itself.
    pub(super) fn take(&self, node: u16) -> Option<Take> {
        self.nodes.get(node as usize).and_then(|n| n.take)
    }

    /// Something may match below `node`.
    pub(super) fn leads_on(&self, node: u16) -> bool {
        self.nodes.get(node as usize).is_some_and(|n| n.any.is_some() || !n.children.is_empty())
    }
}

/// The segments of a path; the empty path is the document itself.
pub(super) fn split(path: &'static str) -> Vec<&'static str> {
    if path.is_empty() { Vec::new() } else { path.split('.').collect() }
}
