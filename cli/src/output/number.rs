//! How figures are written for people: `12ms`, `1.4s`, `99.52%`, `1.2k`.
//!
//! Every text is at most seven characters, so that columns keep their width while figures change.

/// What stands where there is no figure.
pub const NONE: &str = "-";

/// A duration of `us` microseconds: `0.4ms`, `12ms`, `1.4s`, `3m`.
pub fn duration(us: u64) -> String {
    let ms = us as f64 / 1000.0;
    match us {
        0..9_950 => format!("{ms:.1}ms"),
        9_950..999_500 => format!("{ms:.0}ms"),
        999_500..9_950_000 => format!("{:.1}s", ms / 1e3),
        9_950_000..120_000_000 => format!("{:.0}s", ms / 1e3),
        _ => format!("{:.0}m", ms / 60e3),
    }
}

/// A duration that may be unknown.
pub fn maybe_duration(us: Option<u64>) -> String {
    us.map_or_else(|| NONE.into(), duration)
}

/// A share of a whole: `100%`, `99.52%`; `-` of nothing.
///
/// Rounded down: 99.999 % is not `100%`, and one failure among a million stays visible.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return NONE.into();
    }
    if part >= whole {
        return "100%".into();
    }
    let hundredths = (u128::from(part) * 10_000 / u128::from(whole)) as u64;
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// A rate or a count: `0`, `4.2`, `163`, `1.2k`, `3.4M`.
pub fn rate(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")];
    if !(value.is_finite() && value > 0.0) {
        return "0".into();
    }
    // The first unit that leaves at most three digits before the point.
    let (unit, suffix) = UNITS
        .into_iter()
        .find(|(unit, _)| value / unit < 999.5)
        .unwrap_or(UNITS[3]);
    let scaled = value / unit;
    if scaled < 99.95 {
        format!("{scaled:.1}{suffix}")
    } else {
        format!("{scaled:.0}{suffix}")
    }
}

/// A count of things: whole below a thousand, then as [`rate`].
pub fn count(value: u64) -> String {
    if value < 1000 {
        value.to_string()
    } else {
        rate(value as f64)
    }
}

/// Bytes per second: `0B/s`, `4.2kB/s`.
pub fn bytes_per_s(value: f64) -> String {
    format!("{}B/s", rate(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (us, text) in [
            (0, "0.0ms"),
            (420, "0.4ms"),
            (9_949, "9.9ms"),
            (9_950, "10ms"),
            (12_300, "12ms"),
            (999_499, "999ms"),
            (999_500, "1.0s"),
            (1_400_000, "1.4s"),
            (14_000_000, "14s"),
            (180_000_000, "3m"),
        ] {
            assert_eq!(duration(us), text);
        }
    }

    #[test]
    fn a_single_failure_stays_visible() {
        assert_eq!(percent(999_999, 1_000_000), "99.99%");
        assert_eq!(percent(1_000_000, 1_000_000), "100%");
        assert_eq!(percent(9952, 10_000), "99.52%");
        assert_eq!(percent(0, 7), "0.00%");
        assert_eq!(percent(0, 0), "-");
    }

    #[test]
    fn rates() {
        for (value, text) in [
            (0.0, "0"),
            (f64::NAN, "0"),
            (0.04, "0.0"),
            (4.25, "4.2"),
            (99.96, "100"),
            (163.4, "163"),
            (999.6, "1.0k"),
            (1_234.0, "1.2k"),
            (3_400_000.0, "3.4M"),
        ] {
            assert_eq!(rate(value), text, "{value}");
        }
    }

    proptest! {
        #[test]
        fn columns_keep_their_width(us: u32, part: u64, whole: u64, value in 0.0..1e12f64) {
            prop_assert!(duration(us.into()).len() <= 5);
            prop_assert!(percent(part, whole).len() <= 6);
            prop_assert!(rate(value).len() <= 5, "{}", rate(value));
        }
    }
}
