//! The metrics page, read line by line.

/// Samples of one reading.
pub(crate) struct Metrics(Vec<Sample>);

struct Sample {
    name: String,
    labels: String,
    value: f64,
    /// `None` if the value is no whole number.
    count: Option<u64>,
}

impl Metrics {
    /// Reads `OpenMetrics` text: every line is a comment or a sample, and the last one is `# EOF`.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with("# EOF\n"), "the page has an end: {text}");
        let mut samples = Vec::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let word = comment.split(' ').next().unwrap();
                assert!(["HELP", "TYPE", "UNIT", "EOF"].contains(&word), "{line}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("no end: {line}"))),
                None => (series, ""),
            };
            assert!(name.starts_with("countersign_"), "{line}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            let count = value.parse().ok();
            let value = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
            samples.push(Sample { name: name.to_owned(), labels: labels.to_owned(), value, count });
        }
        Self(samples)
    }

    /// The sum of the samples of `name` that have all of `labels`, written `key="value"`.
    pub(crate) fn count(&self, name: &str, labels: &[&str]) -> u64 {
        let fits = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|label| sample.labels.split(',').any(|own| own == *label))
        };
        self.0.iter().filter(fits).map(|sample| sample.count.expect("a count is whole")).sum()
    }

    /// The value of the only sample of `name`.
    pub(crate) fn real(&self, name: &str) -> f64 {
        self.0.iter().find(|sample| sample.name == name).expect("the page has it").value
    }

    /// Requests that ended with `outcome`.
    pub(crate) fn ended(&self, outcome: &str) -> u64 {
        self.count("countersign_requests_total", &[&format!("outcome=\"{outcome}\"")])
    }
}
