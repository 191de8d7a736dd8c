//! A program in a pseudo-terminal, and the screen that it draws.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::{Winsize, openpty},
    sys::termios::{Termios, tcgetattr},
};

/// A running program and its screen.
pub struct Screen {
    child: Child,
    keys: File,
    /// Our own handle of the terminal's inner side: its settings are read there, also after the program's end.
    inner: File,
    settings: Termios,
    parser: Arc<Mutex<vt100::Parser>>,
}

impl Screen {
    /// Starts a program on a terminal of this size.
    ///
    /// # Panics
    /// No pseudo-terminal can be had, or the program does not start.
    pub fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).expect("a pseudo-terminal");
        let inner = File::from(pty.slave);
        let settings = tcgetattr(&inner).expect("the terminal's settings");
        let handle = || inner.try_clone().expect("a file descriptor");
        let child = command
            .env("TERM", "xterm-256color")
            .stdin(handle())
            .stdout(handle())
            .stderr(handle())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));

        let parser = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let mut outer = File::from(pty.master);
        let keys = outer.try_clone().expect("a file descriptor");
        let sink = Arc::clone(&parser);
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            // Ends with an error when the last handle of the inner side closes.
            while let Ok(length @ 1..) = outer.read(&mut buffer) {
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .process(&buffer[..length]);
            }
        });
        Self {
            child,
            keys,
            inner,
            settings,
            parser,
        }
    }

    /// The process id of the program.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What is on the screen now.
    pub fn text(&self) -> String {
        self.parser
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .screen()
            .contents()
    }

    /// Types.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.keys
            .write_all(keys.as_bytes())
            .expect("the terminal takes keys");
    }

    /// Waits until the screen is as `wanted` says, and gives it.
    ///
    /// # Panics
    /// It is not within `patience`: shows the screen.
    pub fn wait_until(
        &mut self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let end = Instant::now() + patience;
        loop {
            let text = self.text();
            if wanted(&text) {
                return text;
            }
            let ended = self.child.try_wait().expect("the state of the program");
            assert!(
                ended.is_none(),
                "the program ended ({ended:?}) before {what}:\n{text}"
            );
            assert!(
                Instant::now() < end,
                "not within {patience:?}: {what}:\n{text}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// It does not end within `patience`.
    pub fn wait_end(&mut self, patience: Duration) -> ExitStatus {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("the state of the program") {
                return status;
            }
            assert!(
                Instant::now() < end,
                "still running after {patience:?}:\n{}",
                self.text()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asserts that the terminal is as the program found it: settings, normal screen, visible cursor.
    ///
    /// # Panics
    /// It is not.
    pub fn assert_restored(&self) {
        let now = tcgetattr(&self.inner).expect("the terminal's settings");
        assert!(now == self.settings, "the terminal is still in raw mode");
        // The reader may be behind the program by a moment.
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            let parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner);
            let (alternate, hidden) = (
                parser.screen().alternate_screen(),
                parser.screen().hide_cursor(),
            );
            drop(parser);
            if !alternate && !hidden {
                return;
            }
            assert!(
                Instant::now() < end,
                "alternate screen: {alternate}, hidden cursor: {hidden}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
