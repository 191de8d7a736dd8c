//! How commands print: formats, colours, tables and the writing of numbers.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

pub mod figures;
pub mod number;
pub mod table;

pub use figures::Figures;
pub use table::{Cell, Table, Tone, shorten};

/// Between two answers of a command that watches.
const AGAIN: Duration = Duration::from_secs(1);

/// What `-o` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// For programs.
    Json,
}

/// How a command prints its answer.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Print {
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Print again each second
    #[arg(short, long)]
    pub watch: bool,
}

impl Print {
    /// Prints an answer; with `--watch` asks and prints again each second.
    ///
    /// # Errors
    /// There is no answer (a second time in a row, once there was one), it can't be shown as a table, or the
    /// output is closed.
    pub async fn answers<T: Serialize>(
        self,
        mut ask: impl AsyncFnMut() -> Result<T>,
        table: impl Fn(&T, Format) -> Result<Table>,
    ) -> Result<()> {
        let mut output = Output::stdout();
        let mut answer = ask().await?;
        loop {
            match self.output {
                Format::Json => output.json(&answer, self.watch)?,
                format => output.table(&table(&answer, format)?, self.watch)?,
            }
            if !self.watch {
                return Ok(());
            }
            sleep(AGAIN).await;
            answer = match ask().await {
                // A controller that was restarted answers the next time; a mesh that has ended never does.
                Err(_) => ask().await?,
                Ok(answer) => answer,
            };
        }
    }
}

/// Standard output, and whether it takes colours.
pub struct Output {
    out: io::Stdout,
    /// The reader is a terminal and NO_COLOR is not set.
    pub color: bool,
    terminal: bool,
}

impl Output {
    /// The process's standard output.
    pub fn stdout() -> Self {
        let out = io::stdout();
        let terminal = out.is_terminal();
        Self {
            out,
            color: terminal && !no_color(),
            terminal,
        }
    }

    /// Prints a table. With `again`, it takes the place of what the terminal shows.
    ///
    /// # Errors
    /// The output is closed or full.
    pub fn table(&mut self, table: &Table, again: bool) -> io::Result<()> {
        let mut text = Vec::new();
        if again && self.terminal {
            text.extend_from_slice(b"\x1b[H\x1b[2J");
        }
        table.write(&mut text, self.color)?;
        if again && !self.terminal {
            text.push(b'\n');
        }
        self.bytes(&text)
    }

    /// Prints a value as JSON: on many lines for people, on one line where more follow.
    ///
    /// # Errors
    /// The output is closed or full.
    pub fn json(&mut self, value: &impl Serialize, lines: bool) -> io::Result<()> {
        let mut text = if lines {
            serde_json::to_vec(value)
        } else {
            serde_json::to_vec_pretty(value)
        }
        .map_err(io::Error::other)?;
        text.push(b'\n');
        self.bytes(&text)
    }

    /// Prints a line.
    ///
    /// # Errors
    /// The output is closed or full.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        self.text(&format!("{line}\n"))
    }

    /// Prints a text as it is.
    ///
    /// # Errors
    /// The output is closed or full.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.bytes(text.as_bytes())
    }

    // One write and one flush for a whole screen: readers never see half of it.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = self.out.lock();
        out.write_all(bytes)?;
        out.flush()
    }
}

/// NO_COLOR is set and not empty (no-color.org).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether an error only says that the reader of our output went away, as `head` does: no failure.
///
/// Only our own writes fail with a bare I/O error; a connection that broke is inside of another error.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
