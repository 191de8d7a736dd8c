//! What the live view shows now: rows, order, filter, selection, screen. No I/O and no drawing.

use mesh_api::v1::{EndpointRow, Selector};
use ratatui::widgets::TableState;

use super::{
    collect::{Snapshot, Totals},
    row::{Column, Row},
};

/// The state of the view.
pub(super) struct App {
    /// Names the mesh in the header.
    pub(super) title: String,
    /// Seconds that the figures cover.
    pub(super) window_s: u32,
    /// Sums over all rows, filtered or not.
    pub(super) totals: Totals,
    /// The rows that pass the filter, in order.
    pub(super) rows: Vec<Row>,
    /// All rows.
    all: Vec<Row>,
    /// The endpoints of `screen`.
    pub(super) endpoints: Vec<EndpointRow>,
    /// What fills the screen.
    pub(super) screen: Screen,
    /// Order of the rows.
    pub(super) sort: Sort,
    /// Words that rows must have.
    pub(super) filter: String,
    /// Keys go into the filter.
    pub(super) editing: bool,
    /// New figures are not shown.
    pub(super) paused: bool,
    /// The list of keys lies on top.
    pub(super) help: bool,
    /// What went wrong at the last try; figures are old then.
    pub(super) error: Option<String>,
    /// A first answer has come.
    pub(super) loaded: bool,
    /// Selection and scroll position of the table on screen.
    pub(super) table: TableState,
}

/// What fills the screen.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Screen {
    /// Requests by source, destination, method and route.
    Rows,
    /// The endpoints of a service or workload, as each of its clients sees them.
    Endpoints(Selector),
}

/// An order of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sort {
    /// By what.
    pub(super) column: Column,
    /// Largest first.
    pub(super) descending: bool,
}

impl App {
    /// An empty view, busiest rows first.
    pub(super) fn new(title: String, window_s: u32) -> Self {
        Self {
            title,
            window_s,
            totals: Totals::default(),
            rows: Vec::new(),
            all: Vec::new(),
            endpoints: Vec::new(),
            screen: Screen::Rows,
            sort: Sort {
                column: Column::Rps,
                descending: true,
            },
            filter: String::new(),
            editing: false,
            paused: false,
            help: false,
            error: None,
            loaded: false,
            table: TableState::new().with_selected(0),
        }
    }

    /// Takes new figures in; a paused view drops them.
    pub(super) fn apply(&mut self, snapshot: Snapshot) {
        self.error = None;
        if self.paused && self.loaded {
            return;
        }
        self.loaded = true;
        self.totals = snapshot.totals;
        self.all = snapshot.rows;
        self.endpoints = snapshot.endpoints;
        self.endpoints
            .sort_by(|a, b| endpoint_key(a).cmp(&endpoint_key(b)));
        self.arrange();
    }

    /// Whose endpoints are needed.
    pub(super) fn wanted(&self) -> Option<&Selector> {
        match &self.screen {
            Screen::Rows => None,
            Screen::Endpoints(selector) => Some(selector),
        }
    }

    /// Sorts by the next column to the right, or to the left.
    pub(super) fn sort_by_neighbour(&mut self, right: bool) {
        let columns = Column::ALL.len();
        let now = Column::ALL
            .iter()
            .position(|column| *column == self.sort.column);
        let step = if right { 1 } else { columns - 1 };
        let next = (now.unwrap_or_default() + step) % columns;
        self.sort_by(Column::ALL[next]);
    }

    /// Sorts by a column, what matters most first; a second time, the other way round.
    pub(super) fn sort_by(&mut self, column: Column) {
        self.sort = Sort {
            column,
            descending: match self.sort.column == column {
                true => !self.sort.descending,
                false => column.descends(),
            },
        };
        self.arrange();
    }

    /// Replaces the filter.
    pub(super) fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.arrange();
    }

    /// Moves the selection by so many lines.
    pub(super) fn move_by(&mut self, lines: isize) {
        let last = self.lines().saturating_sub(1);
        let now = self.table.selected().unwrap_or_default();
        self.table
            .select(Some(now.saturating_add_signed(lines).min(last)));
    }

    /// Shows the endpoints behind the selected row.
    pub(super) fn open(&mut self) {
        let selected = self.table.selected().and_then(|line| self.rows.get(line));
        if let (
            Screen::Rows,
            Some(Row {
                target: Some(target),
                ..
            }),
        ) = (&self.screen, selected)
        {
            self.screen = Screen::Endpoints(target.clone());
            self.endpoints.clear();
            // Endpoints that were never asked for can't be shown from memory.
            self.paused = false;
            self.table = TableState::new().with_selected(0);
        }
    }

    /// Back to the rows.
    pub(super) fn close(&mut self) {
        self.screen = Screen::Rows;
        self.table = TableState::new().with_selected(0);
    }

    fn lines(&self) -> usize {
        match self.screen {
            Screen::Rows => self.rows.len(),
            Screen::Endpoints(_) => self.endpoints.len(),
        }
    }

    /// Applies filter and order. The selection stays on its row, wherever that went; the first line, if
    /// selected, stays the first line, so that the view of the busiest rows does not run away.
    fn arrange(&mut self) {
        let selected = self.table.selected().filter(|line| *line > 0);
        let followed = selected
            .and_then(|line| self.rows.get(line))
            .filter(|_| self.screen == Screen::Rows)
            .cloned();
        let Sort { column, descending } = self.sort;
        self.rows = self.all.clone();
        self.rows.retain(|row| row.matches(&self.filter));
        self.rows.sort_by(|a, b| match descending {
            true => column.compare(b, a),
            false => column.compare(a, b),
        });
        if let Some(followed) = followed
            && let Some(line) = self.rows.iter().position(|row| row.key() == followed.key())
        {
            self.table.select(Some(line));
        }
        self.move_by(0);
    }
}

fn endpoint_key(row: &EndpointRow) -> impl Ord + '_ {
    let load = row.load.as_ref();
    (
        load.map(|load| (load.pod.as_str(), load.service.as_ref().map(|s| s.port))),
        row.client_pod.as_str(),
    )
}
