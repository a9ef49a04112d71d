//! Both text encodings and the choice between them: text format 0.0.4 and OpenMetrics 1.0.
//!
//! They differ in headers, `_created`, `# UNIT`, exemplars and `# EOF` only; names, labels, `le` and numbers are written
//! by the same functions, so that a scraper may change its mind without making new series.
//! Sources: Prometheus "Exposition formats" (text 0.0.4), the OpenMetrics 1.0 specification, RFC 9110 section 12.5.1.

use std::io::Write;
use std::time::Duration;

use memchr::memchr3;

use super::collect::{HistView, Visitor};
use super::families::{Family, Kind};
use super::series::Exemplar;

/// A text encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Reads an `Accept` header. OpenMetrics must be named, wildcards mean text, and a header that admits neither gets
    /// text all the same, as every Prometheus client library does.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let (mut open_metrics, mut text, mut any) = (0, None, 0);
        for range in accept.unwrap_or("").split(',').take(64) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or("").to_ascii_lowercase();
            let (mut quality, mut version) = (1000, None);
            for parameter in parts {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = read_quality(value.trim()),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            match media.as_str() {
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => {
                    open_metrics = open_metrics.max(quality);
                }
                "text/plain" if matches!(version, None | Some("0.0.4")) => text = text.max(Some(quality)),
                "text/*" | "*/*" => any = any.max(quality),
                _ => {}
            }
        }
        if open_metrics > 0 && open_metrics >= text.unwrap_or(any) { Format::OpenMetrics } else { Format::Text }
    }
}

/// Thousandths; what is not a number from 0 to 1 counts as 0, so that a broken range never wins.
fn read_quality(text: &str) -> u32 {
    let quality = text.parse::<f64>().unwrap_or(0.0);
    if (0.0..=1.0).contains(&quality) { (quality * 1000.0).round() as u32 } else { 0 }
}

/// Writes what it is shown as text.
pub struct Encoder {
    out: Vec<u8>,
    format: Format,
    family: Option<&'static Family>,
    labels: Vec<u8>,
}

impl Encoder {
    /// `capacity` is a guess of the size.
    pub fn new(format: Format, capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity), format, family: None, labels: Vec::new() }
    }

    /// The whole text.
    pub fn finish(mut self) -> Vec<u8> {
        if self.format == Format::OpenMetrics {
            self.out.extend_from_slice(b"# EOF\n");
        }
        self.out
    }

    fn header(&mut self, family: &'static Family) {
        if self.family.is_some_and(|last| std::ptr::eq(last, family)) {
            return;
        }
        self.family = Some(family);
        let open = self.format == Format::OpenMetrics;
        let name = if open { family.base_name() } else { family.name };
        put(&mut self.out, format_args!("# HELP {name} "));
        escape(&mut self.out, family.help, open);
        put(&mut self.out, format_args!("\n# TYPE {name} {}\n", family.kind));
        if open && !family.unit.is_empty() {
            put(&mut self.out, format_args!("# UNIT {name} {}\n", family.unit));
        }
    }

    fn read_labels(&mut self, family: &Family, values: &[&str]) {
        debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
        self.labels.clear();
        for (name, value) in family.labels.iter().zip(values) {
            if !self.labels.is_empty() {
                self.labels.push(b',');
            }
            self.labels.extend_from_slice(name.as_bytes());
            self.labels.extend_from_slice(b"=\"");
            escape(&mut self.labels, value, true);
            self.labels.push(b'"');
        }
    }

    fn name(&mut self, family: &Family, suffix: &str) {
        self.out.extend_from_slice(family.base_name().as_bytes());
        self.out.extend_from_slice(suffix.as_bytes());
        if !self.labels.is_empty() {
            self.out.push(b'{');
            self.out.extend_from_slice(&self.labels);
            self.out.push(b'}');
        }
        self.out.push(b' ');
    }

    fn created(&mut self, family: &Family, created: Option<Duration>) {
        if let (Format::OpenMetrics, Some(created)) = (self.format, created) {
            self.name(family, "_created");
            seconds(&mut self.out, created);
            self.out.push(b'\n');
        }
    }

    fn exemplar(&mut self, exemplar: Option<&Exemplar>) {
        if let (Format::OpenMetrics, Some(exemplar)) = (self.format, exemplar) {
            let Exemplar { trace_id, span_id, value, at } = exemplar;
            put(&mut self.out, format_args!(" # {{trace_id=\"{trace_id:032x}\",span_id=\"{span_id:016x}\"}} "));
            number(&mut self.out, *value);
            self.out.push(b' ');
            seconds(&mut self.out, *at);
        }
    }
}

impl Visitor for Encoder {
    fn counter(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        value: f64,
        created: Option<Duration>,
        exemplar: Option<&Exemplar>,
    ) {
        debug_assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        self.header(family);
        self.read_labels(family, labels);
        self.name(family, "_total");
        number(&mut self.out, value);
        self.exemplar(exemplar);
        self.out.push(b'\n');
        self.created(family, created);
    }

    fn gauge(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        debug_assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
        self.header(family);
        self.read_labels(family, labels);
        self.name(family, "");
        number(&mut self.out, value);
        self.out.push(b'\n');
    }

    fn histogram(&mut self, family: &'static Family, labels: &[&str], hist: &HistView<'_>) {
        debug_assert_eq!(family.kind, Kind::Histogram, "{}", family.name);
        self.header(family);
        self.read_labels(family, labels);
        let mut cumulative = 0;
        let bounds = hist.bounds.iter().map(|bound| bound.le).chain(std::iter::once("+Inf"));
        for (bucket, le) in bounds.enumerate() {
            cumulative += hist.counts.map_or(0, |counts| counts[bucket]);
            self.out.extend_from_slice(family.name.as_bytes());
            self.out.extend_from_slice(b"_bucket{");
            self.out.extend_from_slice(&self.labels);
            self.out.extend_from_slice(b",le=\"");
            self.out.extend_from_slice(le.as_bytes());
            self.out.extend_from_slice(b"\"} ");
            whole(&mut self.out, cumulative);
            self.exemplar(hist.exemplars.and_then(|exemplars| exemplars[bucket].as_ref()));
            self.out.push(b'\n');
        }
        self.name(family, "_sum");
        number(&mut self.out, hist.sum);
        self.out.push(b'\n');
        self.name(family, "_count");
        whole(&mut self.out, cumulative);
        self.out.push(b'\n');
        self.created(family, Some(hist.created));
    }
}

/// Writing to a `Vec` cannot fail.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// The shortest decimal that reads back as the same number. All values here are finite.
fn number(out: &mut Vec<u8>, value: f64) {
    // Most are counts: whole, and exact as such.
    if (0.0..9e15).contains(&value) && value.fract() == 0.0 && value.is_sign_positive() {
        return whole(out, value as u64);
    }
    put(out, format_args!("{value}"));
}

fn whole(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn seconds(out: &mut Vec<u8>, time: Duration) {
    put(out, format_args!("{}.{:03}", time.as_secs(), time.subsec_millis()));
}

/// Backslash and newline, and the double quote where the format asks for it.
fn escape(out: &mut Vec<u8>, text: &str, quotes: bool) {
    // Nearly no value has any of them.
    if memchr3(b'\\', b'\n', b'"', text.as_bytes()).is_none() {
        return out.extend_from_slice(text.as_bytes());
    }
    for &byte in text.as_bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' if quotes => out.extend_from_slice(b"\\\""),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_named_format_wins() {
        use Format::*;
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, expected) in [
            (Some(prometheus_2), OpenMetrics),
            (Some(prometheus_3), OpenMetrics),
            (Some(browser), Text),
            (None, Text),
            (Some(""), Text),
            (Some("*/*"), Text),
            (Some("application/openmetrics-text"), OpenMetrics),
            (Some("Application/OpenMetrics-Text ; version=\"1.0.0\" ; q=0.2"), OpenMetrics),
            (Some("application/openmetrics-text;q=0"), Text),
            (Some("application/openmetrics-text;q=0, */*"), Text),
            (Some("application/openmetrics-text;q=0.3, text/plain;q=0.4"), Text),
            (Some("application/openmetrics-text;q=0.3, */*;q=0.4"), Text),
            (Some("text/plain;q=0.1, application/openmetrics-text;q=0.2, */*;q=1"), OpenMetrics),
            (Some("application/openmetrics-text;q=NaN"), Text),
            (Some("application/openmetrics-text;q=7"), Text),
            (Some("application/openmetrics-text;version=2.0.0"), Text),
            (Some("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"), Text),
            (Some(",;;=,q=;"), Text),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn text_is_escaped() {
        let mut out = Vec::new();
        escape(&mut out, "a\"b\\c\nd", true);
        assert_eq!(out, br#"a\"b\\c\nd"#);
        out.clear();
        escape(&mut out, "say \"no\"\\", false);
        assert_eq!(out, br#"say "no"\\"#);
    }

    #[test]
    fn numbers_read_back_the_same() {
        for value in [
            0.0,
            1.0,
            10.0,
            907.0,
            9e15 - 1.0,
            9e15,
            0.1 + 0.2,
            1e-15,
            123_456_789.123_456_7,
            1e21,
            f64::MAX,
            f64::MIN_POSITIVE,
        ] {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap().parse::<f64>().unwrap(), value);
        }
    }
}
