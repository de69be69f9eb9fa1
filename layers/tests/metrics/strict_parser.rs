//! Reads the text format 0.0.4 and takes nothing that is not exactly right.

use std::collections::{BTreeMap, BTreeSet};

/// One sample: its name, its labels in their order, its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

impl Sample {
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        let (_, value) = self.labels.iter().find(|(other, _)| other == name)?;
        Some(value)
    }
}

struct Family {
    name: String,
    kind: Option<String>,
    samples: Vec<Sample>,
}

/// All samples, or what is wrong.
pub(crate) fn parse(text: &str) -> Result<Vec<Sample>, String> {
    if !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let mut families: Vec<Family> = Vec::new();
    for line in text[..text.len() - 1].split('\n') {
        take_line(line, &mut families).map_err(|wrong| format!("{wrong} in line {line:?}"))?;
    }
    let mut names = BTreeSet::new();
    for family in &families {
        if !names.insert(&family.name) {
            return Err(format!("{} comes twice", family.name));
        }
        check(family).map_err(|wrong| format!("{}: {wrong}", family.name))?;
    }
    Ok(families.into_iter().flat_map(|it| it.samples).collect())
}

fn take_line(line: &str, families: &mut Vec<Family>) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("# HELP ") {
        let (name, help) = rest.split_once(' ').ok_or("no help")?;
        check_name(name, ":")?;
        check_escapes(help, "\\n")?;
        families.push(Family {
            name: name.to_owned(),
            kind: None,
            samples: Vec::new(),
        });
        return Ok(());
    }
    let family = families.last_mut().ok_or("no HELP before it")?;
    if let Some(rest) = line.strip_prefix("# TYPE ") {
        let (name, kind) = rest.split_once(' ').ok_or("no type")?;
        let known = ["counter", "gauge", "histogram"].contains(&kind);
        if name != family.name || !known || !family.samples.is_empty() || family.kind.is_some() {
            return Err("TYPE does not belong here".to_owned());
        }
        family.kind = Some(kind.to_owned());
        return Ok(());
    }
    if family.kind.is_none() {
        return Err("no TYPE before the sample".to_owned());
    }
    family.samples.push(sample(line)?);
    Ok(())
}

fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    check_name(name, ":")?;
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inner.split_once("=\"").ok_or("no label value")?;
            check_name(label, "")?;
            let (value, after) = quoted(after)?;
            if label.starts_with("__") || labels.iter().any(|(other, _)| other == label) {
                return Err(format!("label {label}"));
            }
            labels.push((label.to_owned(), value));
            match after.strip_prefix(',') {
                Some(more) => inner = more,
                None => {
                    rest = after.strip_prefix('}').ok_or("labels do not end")?;
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let wrong = || format!("value {value:?}");
    // No timestamps; and `inf`, `nan` and the like are not what Rust calls them.
    if value.is_empty() || value.contains(|char: char| !"0123456789+-.e".contains(char)) {
        return Err(wrong());
    }
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().map_err(|_| wrong())?,
    })
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, other @ ('\\' | '"'))) => other,
                other => return Err(format!("escape {other:?}")),
            }),
            other => value.push(other),
        }
    }
    Err("a quote is not closed".to_owned())
}

fn check_name(name: &str, also: &str) -> Result<(), String> {
    let mut chars = name.chars();
    let is_start = |char: char| char.is_ascii_alphabetic() || char == '_' || also.contains(char);
    let good = chars.next().is_some_and(is_start)
        && chars.all(|char| is_start(char) || char.is_ascii_digit());
    good.then_some(()).ok_or_else(|| format!("name {name:?}"))
}

fn check_escapes(text: &str, allowed: &str) -> Result<(), String> {
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char == '\\' && !chars.next().is_some_and(|next| allowed.contains(next)) {
            return Err("escape in help".to_owned());
        }
    }
    Ok(())
}

fn check(family: &Family) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        labels.sort();
        if !seen.insert((sample.name.clone(), labels)) {
            return Err(format!("{sample:?} comes twice"));
        }
    }
    if family.samples.is_empty() {
        return Err("no samples".to_owned());
    }
    match family.kind.as_deref() {
        Some("histogram") => check_histogram(family),
        Some(kind) => family.samples.iter().try_for_each(|sample| {
            if sample.name != family.name || kind == "counter" && sample.value < 0.0 {
                return Err(format!("{sample:?}"));
            }
            Ok(())
        }),
        None => Err("no TYPE".to_owned()),
    }
}

/// Bounds with their counts, then sum and count.
#[derive(Default)]
struct Histogram {
    buckets: Vec<(f64, f64)>,
    sum: Option<f64>,
    count: Option<f64>,
}

fn check_histogram(family: &Family) -> Result<(), String> {
    let mut histograms: BTreeMap<Vec<(String, String)>, Histogram> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        labels.retain(|(name, _)| name != "le");
        let histogram = histograms.entry(labels).or_default();
        match sample.name.strip_prefix(&family.name) {
            Some("_bucket") => {
                let bound = match sample.label("le").ok_or("no le")? {
                    "+Inf" => f64::INFINITY,
                    bound => bound.parse().map_err(|_| format!("le {bound:?}"))?,
                };
                histogram.buckets.push((bound, sample.value));
            }
            Some("_sum") if sample.label("le").is_none() => histogram.sum = Some(sample.value),
            Some("_count") if sample.label("le").is_none() => histogram.count = Some(sample.value),
            _ => return Err(format!("{sample:?}")),
        }
    }
    for histogram in histograms.values() {
        let ascending = histogram
            .buckets
            .is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1);
        let last = histogram.buckets.last().ok_or("no buckets")?;
        let count = histogram.count.ok_or("no count")?;
        if !ascending || last.0 != f64::INFINITY || last.1 != count || histogram.sum.is_none() {
            return Err(format!("buckets {:?}, count {count}", histogram.buckets));
        }
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_refused() {
    let gauge = "# HELP a h\n# TYPE a gauge\n";
    let histogram = "# HELP a h\n# TYPE a histogram\n";
    let good = "a_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 2\na_sum 1\na_count 2\n";
    parse(&format!("{gauge}a{{x=\"\\\"\\\\\\n\"}} 1.5e3\n")).unwrap();
    parse(&format!("{histogram}{good}")).unwrap();
    for samples in [
        "a 1",
        "a 1 5\n",
        "a NaN\n",
        "a  1\n",
        "b 1\n",
        "a{} 1\n",
        "a{x=\"1\",} 1\n",
        "a{x=\"1\",x=\"2\"} 1\n",
        "a{x=\"\\t\"} 1\n",
        "a{x=\"1} 1\n",
        "a{1x=\"1\"} 1\n",
        "a{x=\"1\"}1\n",
        "a 1\na 2\n",
        "a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 1\n",
        "a 1\n\n",
        "a 1\n# TYPE a gauge\n",
        "a 1\n# HELP b h\nb 1\n",
        "a 1\n# HELP a h\n# TYPE a gauge\na 2\n",
        "",
    ] {
        assert!(parse(&format!("{gauge}{samples}")).is_err(), "{samples:?}");
    }
    for (from, to) in [
        ("a_count 2", "a_count 3"),
        ("a_count 2\n", ""),
        ("a_sum 1\n", ""),
        ("le=\"1\"} 1", "le=\"1\"} 3"),
        ("a_bucket{le=\"+Inf\"} 2\n", ""),
        ("le=\"1\"", "x=\"1\""),
    ] {
        let bad = good.replace(from, to);
        assert!(parse(&format!("{histogram}{bad}")).is_err(), "{bad}");
    }
    assert!(parse("# HELP a h\n# TYPE a counter\na -1\n").is_err());
    assert!(parse("# TYPE a gauge\na 1\n").is_err());
    assert!(parse("a 1\n").is_err());
}
