//! The two tables of the view, fitted to the width of the terminal.

use mesh_api::v1::{Breaker, EndpointLoad, EndpointRow};
use ratatui::{
    layout::{Alignment, Constraint},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Row as Cells, Table},
};

use super::{
    draw::Palette,
    row::{Column, Row},
    state::App,
};
use crate::output::{Cell, Tone, number, shorten};

/// From this width on, what the narrow table leaves out has room.
const WIDE: u16 = 110;
/// The sparkline takes what names leave: at least so many columns, and no more than one per second.
const TREND_LEAST: usize = 6;
const TREND_MOST: usize = 30;

/// Requests by source, destination, method and route.
pub(super) fn rows<'a>(app: &App, width: u16, palette: Palette) -> Table<'a> {
    let wide = width >= WIDE;
    let names: Vec<[String; 4]> = app.rows.iter().map(|row| names(row, wide)).collect();
    let mut headings: Vec<String> = Column::ALL
        .iter()
        .map(|column| {
            let heading = match (column, wide) {
                // The narrow table counts every column of the terminal.
                (Column::Destination, false) => "DEST",
                (Column::Method, false) => "METH",
                (Column::Success, false) => "SUCC",
                (column, _) => column.heading(),
            };
            match (app.sort.column == *column, app.sort.descending) {
                (true, true) => format!("{heading}▼"),
                (true, false) => format!("{heading}▲"),
                (false, _) => heading.to_owned(),
            }
        })
        .collect();
    headings.extend(wide.then(|| "SECURED".to_owned()));
    headings.push("TREND".into());

    let figures = [5, if wide { 8 } else { 6 }, 5, 5, 5];
    let words = app.rows.iter().map(|row| row.security.chars().count());
    let secured = wide.then(|| words.fold("SECURED".len(), usize::max));
    let fixed = figures.iter().sum::<usize>() + secured.unwrap_or(0);
    // One space between columns, and one column before the first for the mark of the selected row.
    let gaps = headings.len();
    let natural: Vec<usize> = (0..4)
        .map(|column| {
            let cells = names.iter().map(|row| row[column].chars().count());
            cells
                .max()
                .unwrap_or(0)
                .max(headings[column].chars().count())
        })
        .collect();
    let room = usize::from(width).saturating_sub(fixed + gaps);
    let trend = room
        .saturating_sub(natural.iter().sum())
        .clamp(TREND_LEAST, TREND_MOST);
    let fitted = fit(&natural, room.saturating_sub(trend));

    let lines = app.rows.iter().zip(&names).map(|(row, names)| {
        let mut cells: Vec<Line<'a>> = names
            .iter()
            .zip(&fitted)
            .map(|(name, width)| Line::raw(shorten(name, *width)))
            .collect();
        for figure in in_column_order(row) {
            let style = palette.style(figure.tone);
            cells.push(Line::styled(figure.text, style).alignment(Alignment::Right));
        }
        if wide {
            let tone = if row.secured { Tone::Good } else { Tone::Warn };
            cells.push(Line::styled(row.security, palette.style(tone)));
        }
        cells.push(Line::raw(sparkline(&row.rps_history, trend)));
        Cells::new(cells)
    });
    let sorted = Column::ALL
        .iter()
        .position(|column| *column == app.sort.column);
    let header = headings.iter().enumerate().map(|(index, heading)| {
        let mut style = palette.style(Tone::Bold);
        if sorted == Some(index) {
            style = style.add_modifier(Modifier::UNDERLINED);
        }
        let line = Line::styled(heading.clone(), style);
        match (4..9).contains(&index) {
            true => line.alignment(Alignment::Right),
            false => line,
        }
    });
    let widths = fitted
        .iter()
        .copied()
        .chain(figures)
        .chain(secured)
        .chain([trend]);
    table(lines, header, widths)
}

/// The endpoints of a service, one line per endpoint and client.
pub(super) fn endpoints<'a>(app: &App, width: u16, palette: Palette) -> Table<'a> {
    let headings = [
        "ENDPOINT", "ADDRESS", "CLIENT", "EWMA", "PEND", "WEIGHT", "BREAKER", "FAILS",
    ];
    let figures = [6, 4, 6, 7, 5];
    let names: Vec<[String; 3]> = app.endpoints.iter().map(endpoint_names).collect();
    let natural: Vec<usize> = (0..3)
        .map(|column| {
            let cells = names.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(headings[column].len())
        })
        .collect();
    let fixed = figures.iter().sum::<usize>() + headings.len();
    let fitted = fit(&natural, usize::from(width).saturating_sub(fixed));
    let lines = app.endpoints.iter().zip(&names).map(|(row, names)| {
        let load = row.load.clone().unwrap_or_default();
        let mut cells: Vec<Line<'a>> = names
            .iter()
            .zip(&fitted)
            .map(|(name, width)| Line::raw(shorten(name, *width)))
            .collect();
        let (breaker, tone) = breaker(&load);
        let right = |text: String| Line::raw(text).alignment(Alignment::Right);
        cells.extend([
            right(number::duration(load.ewma_us)),
            right(number::count(load.pending.into())),
            right(load.weight.to_string()),
            Line::styled(breaker, palette.style(tone)),
            right(number::count(load.consecutive_failures.into())),
        ]);
        Cells::new(cells)
    });
    let header = headings.iter().enumerate().map(|(index, heading)| {
        let line = Line::styled(*heading, palette.style(Tone::Bold));
        match matches!(index, 3..=5 | 7) {
            true => line.alignment(Alignment::Right),
            false => line,
        }
    });
    table(lines, header, fitted.iter().copied().chain(figures))
}

fn table<'a>(
    lines: impl Iterator<Item = Cells<'a>>,
    header: impl Iterator<Item = Line<'a>>,
    widths: impl Iterator<Item = usize>,
) -> Table<'a> {
    Table::new(lines, widths.map(|width| Constraint::Length(width as u16)))
        .header(Cells::new(header))
        .column_spacing(1)
        .highlight_symbol("›")
        // One bar in the terminal's own colours, whatever the cells are painted in.
        .row_highlight_style(
            Style::new()
                .fg(Color::Reset)
                .add_modifier(Modifier::REVERSED),
        )
}

/// Source, destination, method and route as they are written.
fn names(row: &Row, wide: bool) -> [String; 4] {
    let route = match row.route.rsplit_once('.') {
        // "/shop.v1.Pricing/Quote": gRPC paths have no room for their package.
        Some((package, method))
            if !wide
                && row.route.starts_with('/')
                && !package[1..].contains('/')
                && method.contains('/') =>
        {
            method.to_owned()
        }
        _ => row.route.clone(),
    };
    let method = match (row.method.as_str(), wide) {
        ("DELETE", false) => "DEL",
        ("OPTIONS", false) => "OPT",
        ("CONNECT", false) => "CONN",
        (method, _) => method,
    };
    [
        row.source.clone(),
        row.destination.clone(),
        method.into(),
        route,
    ]
}

/// The figures in the order of [`Column::ALL`].
fn in_column_order(row: &Row) -> [Cell; 5] {
    let mut cells = row.figures.cells();
    cells.swap(0, 1);
    cells
}

fn endpoint_names(row: &EndpointRow) -> [String; 3] {
    let load = row.load.clone().unwrap_or_default();
    let address = load
        .address
        .as_ref()
        .and_then(|address| std::net::SocketAddr::try_from(address).ok())
        .map_or_else(|| number::NONE.into(), |address| address.to_string());
    [load.pod, address, row.client_pod.clone()]
}

fn breaker(load: &EndpointLoad) -> (&'static str, Tone) {
    match load.breaker() {
        Breaker::Closed => ("closed", Tone::Good),
        Breaker::Open => ("open", Tone::Bad),
        Breaker::Probing => ("probing", Tone::Warn),
    }
}

/// Narrows the widest columns, one by one, until all fit into `room`.
fn fit(natural: &[usize], room: usize) -> Vec<usize> {
    let mut widths = natural.to_vec();
    while widths.iter().sum::<usize>() > room {
        match widths.iter_mut().max() {
            Some(widest) if *widest > 1 => *widest -= 1,
            _ => break,
        }
    }
    widths
}

/// A line of blocks as high as each second's rate against the highest; seconds are averaged where there
/// are more than `width`.
fn sparkline(history: &[f32], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if history.is_empty() || width == 0 {
        return String::new();
    }
    let means: Vec<f32> = history
        .chunks(history.len().div_ceil(width))
        .map(|chunk| chunk.iter().sum::<f32>() / chunk.len() as f32)
        .collect();
    let highest = means.iter().copied().fold(0.0, f32::max);
    means
        .iter()
        .map(|mean| match *mean {
            mean if mean > 0.0 && highest > 0.0 => {
                BLOCKS[((mean / highest * 8.0).ceil() as usize).clamp(1, 8) - 1]
            }
            _ => ' ',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_trend_shows_what_was_and_what_was_not() {
        assert_eq!(sparkline(&[0.0, 1.0, 4.0, 8.0], 4), " ▁▄█");
        assert_eq!(sparkline(&[2.0, 2.0, 0.0, 0.0], 2), "█ ");
        assert_eq!(sparkline(&[], 4), "");
    }

    proptest! {
        #[test]
        fn columns_fit(natural in prop::collection::vec(1usize..60, 4), room in 4usize..200) {
            let fitted = fit(&natural, room);
            prop_assert!(fitted.iter().sum::<usize>() <= room.max(4));
            prop_assert!(fitted.iter().zip(&natural).all(|(f, n)| f <= n && *f > 0));
        }

        #[test]
        fn trends_fit(history in prop::collection::vec(any::<f32>(), 0..60), width in 0usize..40) {
            prop_assert!(sparkline(&history, width).chars().count() <= width);
        }
    }
}
