//! What the doctor found, step by step, and how it is shown: for people and as JSON. Plain data; decides nothing.

use serde::Serialize;

use crate::call::label_enum;

label_enum! {
    /// The steps, in their order. A cause is told at the step where it lives.
    Step {
        LastError = "last_error",
        Key = "key",
        Header = "header",
        Organization = "organization",
        Billing = "billing",
        Request = "request",
        Retries = "retries",
        Network = "network",
        Path = "path",
    }
}

label_enum! {
    /// How a step came out.
    Status {
        /// Nothing is wrong here.
        Pass = "pass",
        /// Worth knowing; does not make calls fail by itself.
        Warn = "warn",
        /// The cause is here.
        Fail = "fail",
        /// Not looked at: nothing to look at, or a cause was found before.
        Skip = "skip",
    }
}

label_enum! {
    /// What kind of cause it is: what `id` is a value of.
    CauseKind { Finding = "finding", Outcome = "outcome", Check = "check" }
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StepReport {
    /// From 1.
    pub number: usize,
    pub step: Step,
    pub status: Status,
    /// One line each; no secrets.
    pub evidence: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// What explains the rest.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cause {
    pub number: usize,
    pub step: Step,
    pub kind: CauseKind,
    /// A finding, an outcome, or the name of a check.
    pub id: String,
    /// It makes calls fail (`fail`), or is worth knowing (`warn`).
    pub severity: Status,
    pub fix: String,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub provider: Option<String>,
    /// Name or fingerprint.
    pub key: Option<String>,
    /// Who told of calls: `sidecar 127.0.0.1:4140`, `live request`, `none`.
    pub source: String,
    /// `None`: nothing is wrong that could be seen.
    pub cause: Option<Cause>,
    /// Further findings and outcomes that were seen.
    pub also: Vec<String>,
    pub steps: Vec<StepReport>,
}

/// Columns of a step's title.
const TITLE: usize = 22;
const INDENT: usize = 8 + TITLE + 1;

impl Step {
    /// As it is shown.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Step::LastError => "last error",
            Step::Key => "key",
            Step::Header => "header and address",
            Step::Organization => "project and rights",
            Step::Billing => "billing and limits",
            Step::Request => "request and bursts",
            Step::Retries => "retries and timeouts",
            Step::Network => "network and provider",
            Step::Path => "way through keytally",
        }
    }

    pub(super) fn number(self) -> usize {
        self as usize + 1
    }
}

// === impl Report ===

impl Report {
    /// For people; `color` for terminals.
    pub(super) fn text(&self, color: bool) -> String {
        let paint = |code: &str, text: String| if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text };
        let about = match (&self.provider, &self.key) {
            (Some(provider), Some(key)) if key == "none" => format!("{provider}, calls without a key"),
            (Some(provider), Some(key)) => format!("{provider}, key {key}"),
            (Some(provider), None) => provider.clone(),
            _ => "no provider known".to_owned(),
        };
        let mut text = format!("{about}; calls as told by: {}\n\n", self.source);
        for step in &self.steps {
            let (code, word) = match step.status {
                Status::Pass => ("32", "pass"),
                Status::Warn => ("33", "WARN"),
                Status::Fail => ("31;1", "FAIL"),
                Status::Skip => ("2", "skip"),
            };
            let head = format!("{} {} {:<TITLE$}", step.number, paint(code, word.to_owned()), step.step.title());
            let mut lines = step.evidence.iter().flat_map(|line| folded(line));
            text += format!(" {head} {}", lines.next().unwrap_or_default()).trim_end();
            text.push('\n');
            for line in lines {
                text += &format!("{:INDENT$}{line}\n", "");
            }
            if let Some(fix) = &step.fix {
                for (index, line) in folded(fix).into_iter().enumerate() {
                    text += &format!("{:INDENT$}{}{line}\n", "", if index == 0 { "fix: " } else { "     " });
                }
            }
        }
        text.push('\n');
        match &self.cause {
            None => text += "nothing is wrong that could be seen\n",
            Some(cause) => {
                let word = if cause.severity == Status::Fail { "cause" } else { "worth knowing" };
                let named = paint("1", format!("{word}: {} (step {})", cause.id, cause.number));
                text += &format!("{named}\nfirst fix: {}\n", cause.fix);
                if !self.also.is_empty() {
                    text += &format!("also seen: {}\n", self.also.join(", "));
                }
            }
        }
        text
    }
}

/// Lines of a width that fits beside the titles.
fn folded(text: &str) -> Vec<String> {
    const WIDTH: usize = 84;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > WIDTH {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
