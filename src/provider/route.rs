//! One line of a route table: method and path pattern in, what such a call is out. Compiled once; matching allocates
//! only for what it captures (and for segments that are percent-encoded).
//!
//! A route is written `METHOD /path operation protocol flags…`, for instance
//! `POST /models/{model}:generateContent generate_content gemini billed whole`.
//! - Segments: a literal, `{}` (any one), `{model}` or `{account}` (captured; a literal may follow it), `{model+}` (one or
//!   more segments, once a route), `{model~embed}` (only when what is captured contains `embed`), a last `**` (any rest,
//!   also none). Empty segments of a path are skipped. `ANY` stands for every method; GET also matches HEAD.
//! - Flags: `billed`, `repeats` (usage of an earlier call), `stream` and `whole` (the URL tells), `model=<query parameter>`.

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::call::{Operation, Protocol};

/// Longest path that is looked at, in segments; a longer one is no known route.
const MAX_SEGMENTS: usize = 24;

/// What a call on a route is.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) operation: Operation,
    pub(super) protocol: Protocol,
    pub(super) billed: bool,
    pub(super) repeats_usage: bool,
    pub(super) stream: Option<bool>,
    model_parameters: Vec<Box<str>>,
}

impl Kind {
    /// A path that no route names.
    pub(super) const OTHER: Kind = Kind::of(Operation::Other, Protocol::Opaque, false);

    pub(super) const fn of(operation: Operation, protocol: Protocol, billed: bool) -> Self {
        Self { operation, protocol, billed, repeats_usage: false, stream: None, model_parameters: Vec::new() }
    }
}

/// A route table at one place of a provider's path space. The base has no part of free length.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    base: Vec<Segment>,
    routes: Arc<[Route]>,
    price_as: Option<Arc<str>>,
}

/// A compiled route.
#[derive(Clone, Debug)]
pub(super) struct Route {
    method: Option<Method>,
    /// Segments before the part of free length, or all.
    head: Vec<Segment>,
    free: Option<Free>,
    /// Segments after it.
    tail: Vec<Segment>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Segment {
    Literal(Box<str>),
    Any,
    Capture(Capture),
}

#[derive(Clone, Debug)]
struct Capture {
    what: What,
    contains: Option<Box<str>>,
    suffix: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Model,
    Account,
}

#[derive(Clone, Debug)]
enum Free {
    /// `**`: none or more segments to the end.
    Rest,
    /// `{model+}`: one or more segments.
    Model { contains: Option<Box<str>> },
}

/// A call on a known route.
#[derive(Debug)]
pub(super) struct Hit<'r> {
    pub(super) kind: &'r Kind,
    pub(super) price_as: Option<&'r Arc<str>>,
    pub(super) model: Option<String>,
    pub(super) account: Option<String>,
}

/// The segments of one path, percent-decoded, empty ones left out.
pub(super) struct Path<'p> {
    segments: [Cow<'p, str>; MAX_SEGMENTS],
    len: usize,
}

// === impl Path ===

impl<'p> Path<'p> {
    /// Splits the concatenation of `parts`, each of which is empty or opens with `/`. `None`: too long to be a route.
    pub(super) fn new(parts: [&'p str; 2]) -> Option<Self> {
        let mut path = Self { segments: [const { Cow::Borrowed("") }; MAX_SEGMENTS], len: 0 };
        for segment in parts.into_iter().flat_map(|part| part.split('/')).filter(|s| !s.is_empty()) {
            *path.segments.get_mut(path.len)? = match segment.contains('%') {
                true => percent_decode_str(segment).decode_utf8_lossy(),
                false => Cow::Borrowed(segment),
            };
            path.len += 1;
        }
        Some(path)
    }

    fn segments(&self) -> &[Cow<'p, str>] {
        &self.segments[..self.len]
    }
}

// === impl Route ===

impl Route {
    /// Compiles one line.
    ///
    /// # Errors
    /// A text that says what is wrong with the line.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("route \"{line}\": {what}");
        let mut words = line.split_ascii_whitespace();
        let mut word = |what: &str| words.next().ok_or_else(|| wrong(&format!("{what} is missing")));
        let method = match word("method")? {
            "ANY" => None,
            name => Some(Method::from_bytes(name.as_bytes()).map_err(|_| wrong("no such method"))?),
        };
        let path = word("path")?;
        let operation = word("operation")?.parse().map_err(|e: String| wrong(&e))?;
        let protocol = word("protocol")?.parse().map_err(|e: String| wrong(&e))?;
        let mut kind = Kind::of(operation, protocol, false);
        for flag in words {
            match flag.split_once('=').unwrap_or((flag, "")) {
                ("billed", "") => kind.billed = true,
                ("repeats", "") => kind.repeats_usage = true,
                ("stream", "") => kind.stream = Some(true),
                ("whole", "") => kind.stream = Some(false),
                ("model", name) if !name.is_empty() => kind.model_parameters.push(name.into()),
                _ => return Err(wrong(&format!("flag \"{flag}\": unknown"))),
            }
        }
        let mut route = Self { method, head: Vec::new(), free: None, tail: Vec::new(), kind };
        for text in path.split('/').filter(|s| !s.is_empty()) {
            if matches!(route.free, Some(Free::Rest)) {
                return Err(wrong("`**` is not at the end"));
            }
            let model_of_many = text.strip_prefix("{model+").and_then(|rest| rest.strip_suffix('}'));
            let free = match (text, model_of_many) {
                ("**", _) => Some(Free::Rest),
                (_, Some(rest)) => Some(Free::Model { contains: rest.strip_prefix('~').map(Into::into) }),
                (_, None) => None,
            };
            match free {
                Some(_) if route.free.is_some() => return Err(wrong("more than one part of free length")),
                Some(free) => route.free = Some(free),
                None => {
                    let segment = Segment::parse(text).map_err(|e| wrong(&e))?;
                    if route.free.is_some() { route.tail.push(segment) } else { route.head.push(segment) }
                }
            }
        }
        Ok(route)
    }

    /// Adds this route's part to `hit`, or says no. `query` is what follows `?`, or empty.
    fn hit<'r>(&'r self, method: &Method, segments: &[Cow<'_, str>], query: &str) -> Option<Hit<'r>> {
        match &self.method {
            Some(own) if own == method || (own == Method::GET && method == Method::HEAD) => {}
            None => {}
            Some(_) => return None,
        }
        let free_len = segments.len().checked_sub(self.head.len() + self.tail.len())?;
        match self.free {
            None if free_len != 0 => return None,
            Some(Free::Model { .. }) if free_len == 0 => return None,
            _ => {}
        }
        let (head, rest) = segments.split_at(self.head.len());
        let (free, tail) = rest.split_at(free_len);
        if !all_match(&self.head, head) || !all_match(&self.tail, tail) {
            return None;
        }
        let mut hit = Hit { kind: &self.kind, price_as: None, model: None, account: None };
        if let Some(Free::Model { contains }) = &self.free {
            let model = free.join("/");
            if contains.as_ref().is_some_and(|part| !model.contains(&**part)) {
                return None;
            }
            hit.model = Some(model);
        }
        hit.capture(&self.head, head);
        hit.capture(&self.tail, tail);
        if hit.model.is_none() && !self.kind.model_parameters.is_empty() {
            let wanted = |name: &str| self.kind.model_parameters.iter().any(|p| **p == *name);
            hit.model = form_urlencoded::parse(query.as_bytes()).find(|(n, _)| wanted(n)).map(|(_, v)| v.into_owned());
        }
        Some(hit)
    }
}

// === impl Mount ===

impl Mount {
    /// Puts `routes` under `base`.
    ///
    /// # Errors
    /// A text that says what is wrong with `base`.
    pub(super) fn parse(base: &str, routes: Arc<[Route]>, price_as: Option<Arc<str>>) -> Result<Self, String> {
        let base = base.split('/').filter(|s| !s.is_empty()).map(Segment::parse).collect::<Result<_, _>>()?;
        Ok(Self { base, routes, price_as })
    }

    /// The first route that the call is on.
    pub(super) fn hit<'r>(&'r self, method: &Method, path: &Path<'_>, query: &str) -> Option<Hit<'r>> {
        let segments = path.segments();
        let (base, rest) = segments.split_at_checked(self.base.len())?;
        if !all_match(&self.base, base) {
            return None;
        }
        let mut hit = self.routes.iter().find_map(|route| route.hit(method, rest, query))?;
        hit.capture(&self.base, base);
        hit.price_as = self.price_as.as_ref();
        Some(hit)
    }

    /// Whether a path of this table can open with the literal segment `text`.
    pub(super) fn opens_with(&self, text: &str) -> bool {
        let is_text = |segment: Option<&Segment>| matches!(segment, Some(Segment::Literal(own)) if **own == *text);
        match self.base.first() {
            None => self.routes.iter().any(|route| is_text(route.head.first())),
            first => is_text(first),
        }
    }
}

// === impl Hit ===

impl Hit<'_> {
    fn capture(&mut self, segments: &[Segment], texts: &[Cow<'_, str>]) {
        for (segment, text) in segments.iter().zip(texts) {
            if let Segment::Capture(capture) = segment {
                let value = Some(capture.value(text).to_owned());
                match capture.what {
                    What::Model => self.model = value,
                    What::Account => self.account = value,
                }
            }
        }
    }
}

fn all_match(segments: &[Segment], texts: &[Cow<'_, str>]) -> bool {
    segments.iter().zip(texts).all(|(segment, text)| segment.matches(text))
}

// === impl Segment ===

impl Segment {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("segment \"{text}\": unknown");
        let Some(rest) = text.strip_prefix('{') else {
            return if text.contains(['{', '}', '*']) { Err(wrong()) } else { Ok(Self::Literal(text.into())) };
        };
        let (inside, suffix) = rest.split_once('}').ok_or_else(wrong)?;
        let (name, contains) = match inside.split_once('~') {
            Some((name, part)) => (name, Some(part.into())),
            None => (inside, None),
        };
        let what = match name {
            "" if suffix.is_empty() => return Ok(Self::Any),
            "model" => What::Model,
            "account" => What::Account,
            _ => return Err(wrong()),
        };
        Ok(Self::Capture(Capture { what, contains, suffix: suffix.into() }))
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => **literal == *text,
            Self::Any => true,
            Self::Capture(capture) => {
                text.len() > capture.suffix.len()
                    && text.ends_with(&*capture.suffix)
                    && capture.contains.as_ref().is_none_or(|part| capture.value(text).contains(&**part))
            }
        }
    }
}

// === impl Capture ===

impl Capture {
    fn value<'t>(&self, text: &'t str) -> &'t str {
        text.strip_suffix(&*self.suffix).unwrap_or(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(line: &str, method: Method, path: &str, query: &str) -> Option<(Option<String>, Option<String>)> {
        let route = Route::parse(line).expect("a valid line");
        let mount = Mount::parse("", [route].into(), None).expect("an empty base");
        let path = Path::new([path, ""]).expect("short path");
        mount.hit(&method, &path, query).map(|hit| (hit.model, hit.account))
    }

    #[test]
    fn captures() {
        let gemini = "POST /v1/models/{model}:generateContent generate_content gemini billed";
        let model = |text: &str| Some((Some(text.to_owned()), None));
        assert_eq!(hit(gemini, Method::POST, "/v1/models/g-2.5:generateContent", ""), model("g-2.5"));
        assert_eq!(hit(gemini, Method::POST, "/v1/models/g-2.5%3AgenerateContent", ""), model("g-2.5"));
        assert_eq!(hit(gemini, Method::POST, "//v1/models//g-2.5:generateContent/", ""), model("g-2.5"));
        assert_eq!(hit(gemini, Method::POST, "/v1/models/:generateContent", ""), None);
        assert_eq!(hit(gemini, Method::GET, "/v1/models/g-2.5:generateContent", ""), None);
        let bedrock = "POST /model/{model+~embed}/invoke embeddings bedrock-invoke";
        assert_eq!(hit(bedrock, Method::POST, "/model/a%2Fembed%3A0/invoke", ""), model("a/embed:0"));
        assert_eq!(hit(bedrock, Method::POST, "/model/arn:x/embed/invoke", ""), model("arn:x/embed"));
        assert_eq!(hit(bedrock, Method::POST, "/model/nova/invoke", ""), None);
        assert_eq!(hit(bedrock, Method::POST, "/model/invoke", ""), None);
        let vertex = "POST /projects/{account}/m/{model} chat gemini";
        assert_eq!(
            hit(vertex, Method::POST, "/projects/p-1/m/x", ""),
            Some((Some("x".to_owned()), Some("p-1".to_owned())))
        );
        let realtime = "GET /realtime realtime openai-realtime model=model model=deployment";
        assert_eq!(hit(realtime, Method::GET, "/realtime", "a=b&deployment=gpt%20x"), model("gpt x"));
    }

    #[test]
    fn rest_and_head() {
        let batches = "GET /batches/** batch opaque";
        for path in ["/batches", "/batches/a", "/batches/a/b"] {
            assert!(hit(batches, Method::GET, path, "").is_some(), "{path}");
            assert!(hit(batches, Method::HEAD, path, "").is_some(), "{path}");
        }
        assert!(hit(batches, Method::GET, "/batch", "").is_none());
        assert!(Path::new([&"/a".repeat(MAX_SEGMENTS), ""]).is_some());
        assert!(Path::new([&"/a".repeat(MAX_SEGMENTS), "/b"]).is_none());
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "POST",
            "POST /x chat",
            "POST /x chat no-such-protocol",
            "POST /x no-such-operation gemini",
            "POST /x chat gemini no-such-flag",
            "POST /**/x chat gemini",
            "POST /{model+}/{model+} chat gemini",
            "POST /{nobody} chat gemini",
            "POST /a*b chat gemini",
        ] {
            assert!(Route::parse(line).is_err(), "{line}");
        }
    }
}
