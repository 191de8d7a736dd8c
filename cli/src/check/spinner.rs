//! One line on a terminal that shows that something is going on. Without a terminal, nothing.

use std::{
    future::Future,
    io::{self, IsTerminal, Write},
    time::Duration,
};

/// A turn of the wheel.
const TURN: Duration = Duration::from_millis(100);
const WHEEL: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// Quick answers need no wheel.
const QUIET: u32 = 3;

/// Turns while it waits.
pub(super) struct Spinner {
    shown: bool,
    turns: u32,
    text: String,
}

impl Spinner {
    /// On standard error, if that is a terminal and one is `wanted`.
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            shown: wanted && io::stderr().is_terminal(),
            turns: 0,
            text: "checking".into(),
        }
    }

    /// What it waits for.
    pub(super) fn say(&mut self, text: String) {
        self.text = text;
    }

    /// Turns until the future is done.
    pub(super) async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => {
                    self.wipe();
                    return done;
                }
                () = tokio::time::sleep(TURN) => self.turn(),
            }
        }
    }

    fn turn(&mut self) {
        self.turns += 1;
        if self.shown && self.turns > QUIET {
            let wheel = WHEEL[self.turns as usize % WHEEL.len()];
            // A line that wraps could not be wiped.
            let text = crate::output::shorten(&self.text, 70);
            // Carriage return, erase the line (ECMA-48 EL).
            let _ = write!(io::stderr(), "\r\x1b[K{wheel} {text}");
        }
    }

    fn wipe(&self) {
        if self.shown && self.turns > QUIET {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
