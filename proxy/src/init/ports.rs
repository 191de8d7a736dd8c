//! Lists of ports as people write them: "25,3306,9000-9010".

use std::num::ParseIntError;
use std::str::FromStr;

/// Ports from a first to a last one, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port; not below the first.
    pub const fn last(self) -> u16 {
        self.last
    }
}

/// Any number of ranges, in the order they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRanges(Vec<PortRange>);

impl PortRanges {
    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = PortRange> {
        self.0.iter().copied()
    }
}

/// The text is not a list of ports.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PortRangesError {
    /// An item that is no number.
    #[error("{item:?} is not a port or a range such as 9000-9010: {source}")]
    Port {
        /// As written.
        item: String,
        /// Why.
        source: ParseIntError,
    },
    /// Port 0, or a range that ends before it starts.
    #[error("{0:?} is not a range of ports: it must go upwards, from 1 to 65535")]
    Range(String),
}

impl FromStr for PortRanges {
    type Err = PortRangesError;

    fn from_str(text: &str) -> Result<Self, PortRangesError> {
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        items.map(parse_range).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_range(item: &str) -> Result<PortRange, PortRangesError> {
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    let parse = |port: &str| {
        let port = port.trim().parse::<u16>();
        port.map_err(|source| PortRangesError::Port {
            item: item.to_owned(),
            source,
        })
    };
    let (first, last) = (parse(first)?, parse(last)?);
    if first == 0 || last < first {
        return Err(PortRangesError::Range(item.to_owned()));
    }
    Ok(PortRange { first, last })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists() {
        let ranges: PortRanges = "25, 9000-9010,,65535".parse().unwrap();
        let found: Vec<_> = ranges
            .iter()
            .map(|range| (range.first(), range.last()))
            .collect();
        assert_eq!(found, [(25, 25), (9000, 9010), (65535, 65535)]);
        assert_eq!("".parse(), Ok(PortRanges::default()));
    }

    #[test]
    fn rejects_what_is_no_port() {
        for text in ["0", "http", "10-5", "1-", "-1", "65536", "1-2-3", "1;2"] {
            assert!(text.parse::<PortRanges>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = text.parse::<PortRanges>();
        }
    }
}
