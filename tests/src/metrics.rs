//! Prometheus text, as far as the tests read it.

/// The sum of all samples called `name` whose labels contain every one of `labels` (`key="value"`).
pub fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        // Not a longer name with the same beginning.
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        let (found, value) = rest.rsplit_once(' ')?;
        labels
            .iter()
            .all(|label| found.contains(label))
            .then(|| value.parse::<f64>().ok())?
    });
    samples.sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn sums_what_matches() {
        let text =
            "# HELP a b\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"2\"} 4\na_total_more 5\nb 6\n";
        assert_eq!(super::sum(text, "a_total", &[]), 7.0);
        assert_eq!(super::sum(text, "a_total", &["x=\"1\""]), 3.0);
        assert_eq!(super::sum(text, "b", &[]), 6.0);
    }
}
