//! Samples of the text exposition format, found by name and labels.

use std::collections::BTreeMap;

/// One scrape.
pub struct Samples(Vec<(String, BTreeMap<String, String>, f64)>);

impl Samples {
    /// Reads format 0.0.4.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self(lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect())
    }

    /// Sum over the samples of `name` that have all of `labels`; `None` if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self
            .0
            .iter()
            .filter(|(n, l, _)| n == name && labels.iter().all(|(k, v)| l.get(*k).is_some_and(|have| have == v)))
            .map(|(_, _, value)| *value)
            .peekable();
        found.peek().is_some().then(|| found.sum())
    }

    /// Every sample of a name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = (&BTreeMap<String, String>, f64)> {
        self.0.iter().filter(move |(n, _, _)| n == name).map(|(_, labels, value)| (labels, *value))
    }

    /// Every sample: name, labels, value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, String>, f64)> {
        self.0.iter().map(|(name, labels, value)| (name.as_str(), labels, *value))
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (series, value) = match line.find('{') {
        None => line.split_once(' ')?,
        Some(_) => {
            let end = line.rfind("} ")?;
            (&line[..=end], &line[end + 2..])
        }
    };
    let value = value.split(' ').next()?.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series.to_owned(), BTreeMap::new(), value));
    };
    let mut map = BTreeMap::new();
    let mut rest = labels.strip_suffix('}')?;
    while !rest.is_empty() {
        let (key, quoted) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => text.push(other),
            }
        };
        map.insert(key.to_owned(), text);
        rest = quoted[end + 1..].trim_start_matches(',');
    }
    Some((name.to_owned(), map, value))
}
