//! The terminal in raw mode on its second screen, and back again in every case.

use std::{io, thread, time::Duration};

use anyhow::{Context, Result};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event},
};
use tokio::sync::mpsc;

/// The terminal while the view has it. Dropping it, or a panic of any thread, gives it back.
pub(super) struct Screen {
    /// What is drawn on.
    pub(super) terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// The standard streams are no terminal that can be drawn on.
    pub(super) fn take() -> Result<Self> {
        let terminal = ratatui::try_init()
            .inspect_err(|_| ratatui::restore())
            .context("Can't draw on this terminal; try -o table")?;
        Ok(Self { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Keys and resizes, read by a thread of its own that ends soon after its receiver.
pub(super) fn events() -> mpsc::Receiver<io::Result<Event>> {
    let (sender, receiver) = mpsc::channel(64);
    thread::spawn(move || {
        while !sender.is_closed() {
            let next = match event::poll(Duration::from_millis(200)) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let last = next.is_err();
            if sender.blocking_send(next).is_err() || last {
                return;
            }
        }
    });
    receiver
}
