//! The text format of Prometheus, version 0.0.4: families of samples.
//!
//! page -> **text**
//!
//! Invariants
//! - whatever a label says, the text stays well-formed.
//! - a family's samples follow its `HELP` and `TYPE`; a family without samples is left out.
//!
//! Source: prometheus.io, exposition formats.

use std::fmt::{self, Display, Write};

use super::histogram::{BOUNDS_SECONDS, Snapshot};

/// What kind of numbers a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Never goes back.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum, count.
    Histogram,
}

/// A label's name and value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// A text that grows.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a family; samples go to the result.
    pub(super) fn family(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
    ) -> Family<'_> {
        Family {
            text: &mut self.0,
            kind,
            name,
            help,
            has_samples: false,
        }
    }

    /// A family of one sample without labels.
    pub(super) fn single(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        value: impl Display,
    ) {
        self.family(kind, name, help).sample(&[], value);
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// A family that is being written.
#[derive(Debug)]
pub(super) struct Family<'t> {
    text: &'t mut String,
    kind: Kind,
    name: &'static str,
    help: &'static str,
    has_samples: bool,
}

impl Family<'_> {
    /// One sample. No two of a family may have the same labels.
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.line("", labels, value);
    }

    /// The samples of one histogram.
    pub(super) fn histogram(&mut self, labels: &[Label<'_>], snapshot: &Snapshot) {
        let bounds = BOUNDS_SECONDS.iter().map(ToString::to_string);
        let bounds = bounds.chain(std::iter::once("+Inf".to_owned()));
        let mut count = 0;
        for (bound, in_bucket) in bounds.zip(snapshot.counts) {
            count += in_bucket;
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.line("_bucket", &labels, count);
        }
        self.line("_sum", labels, snapshot.sum_seconds);
        self.line("_count", labels, count);
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        if !std::mem::replace(&mut self.has_samples, true) {
            self.head();
        }
        let Self { text, name, .. } = self;
        let shown = Labels(labels);
        // A string takes everything.
        writeln!(text, "{name}{suffix}{shown} {value}").ok();
    }

    fn head(&mut self) {
        let Self {
            text, name, help, ..
        } = self;
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    }
}

struct Labels<'a>(&'a [Label<'a>]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, others @ ..] = self.0 else {
            return Ok(());
        };
        write!(f, "{{{}=\"{}\"", first.0, Escaped(first.1))?;
        for (name, value) in others {
            write!(f, ",{name}=\"{}\"", Escaped(value))?;
        }
        f.write_char('}')
    }
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_without_samples_leaves_no_trace() {
        let mut text = Text::default();
        let family = text.family(Kind::Gauge, "a", "b");
        assert!(!family.has_samples);
        assert_eq!(text.into_string(), "");
    }

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        let mut family = text.family(Kind::Gauge, "a", "Help.");
        family.sample(&[("x", "q\"b\\n\nend"), ("y", "")], 1.5);
        let expected = "# HELP a Help.\n# TYPE a gauge\na{x=\"q\\\"b\\\\n\\nend\",y=\"\"} 1.5\n";
        assert_eq!(text.into_string(), expected);
    }
}
