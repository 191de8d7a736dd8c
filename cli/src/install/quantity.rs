//! Kubernetes' quantities: `250m`, `1.5`, `64Mi` (apimachinery, `resource.Quantity`).

/// A quantity, as a number to compare by. `None`: the text is none.
///
/// Stricter than Kubernetes in two ways that only catch mistakes: no sign, and no number without a digit before its
/// point.
pub(super) fn parse(text: &str) -> Option<f64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    if !number.starts_with(|c: char| c.is_ascii_digit()) || number.ends_with('.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || digits.len() > 2 || !digits.bytes().all(|b| b.is_ascii_digit())
            {
                return None;
            }
            10_f64.powi(exponent.parse().ok()?)
        }
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    #[test]
    fn quantities() {
        for (text, value) in [
            ("0", 0.0),
            ("2", 2.0),
            ("1.5", 1.5),
            ("250m", 0.25),
            ("64Mi", 67_108_864.0),
            ("1Gi", 1_073_741_824.0),
            ("128k", 128_000.0),
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            ("2E", 2e18),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for text in [
            "", "m", "Mi", "-1", "+1", "1 Gi", "1GB", "1mi", "1.2.3", ".5", "1.", "1e", "1e+",
            "1e999", "ten", "0x10", "1ü",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,12}") {
            if let Some(value) = parse(&text) {
                prop_assert!(value.is_finite() && value >= 0.0, "{text} {value}");
            }
        }
    }
}
