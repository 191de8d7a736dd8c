//! A command inside of a pod.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use mesh_api::local::{
    ExecInput, ExecStart, exec_input, exec_output::Kind, local_client::LocalClient,
};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// What a command left behind.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// 128 + signal where it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that went well.
    ///
    /// # Panics
    /// It did not.
    pub fn good(self) -> String {
        assert_eq!(
            self.code, 0,
            "the command failed: {}{}",
            self.stdout, self.stderr
        );
        self.stdout
    }

    /// The last line of a good command, which is JSON.
    ///
    /// # Panics
    /// It is not.
    pub fn json<T: DeserializeOwned>(self) -> T {
        let stdout = self.good();
        let line = stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }
}

/// A command that runs on while the test does something else. Dropped, it is ended.
pub struct Running {
    what: String,
    output: Arc<Mutex<Output>>,
    ended: mpsc::Receiver<Result<(), String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(
        runtime: &Handle,
        mut client: LocalClient<Channel>,
        pod: &str,
        command: Vec<String>,
        env: HashMap<String, String>,
    ) -> Self {
        let what = format!(
            "{} in {}",
            command.join(" "),
            if pod.is_empty() { "the node" } else { pod }
        );
        let start = ExecStart {
            pod: pod.to_owned(),
            command,
            env,
        };
        let output = Arc::new(Mutex::new(Output {
            code: -1,
            ..Output::default()
        }));
        let (end, ended) = mpsc::channel();
        let sink = Arc::clone(&output);
        let task = runtime.spawn(async move {
            let (input, inputs) = tokio::sync::mpsc::channel(2);
            for kind in [
                exec_input::Kind::Start(start),
                exec_input::Kind::Close(true),
            ] {
                let _ = input.send(ExecInput { kind: Some(kind) }).await;
            }
            let result = async {
                let mut stream = client.exec(ReceiverStream::new(inputs)).await?.into_inner();
                while let Some(message) = stream.message().await? {
                    let mut output = sink.lock().unwrap_or_else(PoisonError::into_inner);
                    match message.kind {
                        Some(Kind::Stdout(bytes)) => {
                            output.stdout.push_str(&String::from_utf8_lossy(&bytes));
                        }
                        Some(Kind::Stderr(bytes)) => {
                            output.stderr.push_str(&String::from_utf8_lossy(&bytes));
                        }
                        Some(Kind::ExitCode(code)) => output.code = code,
                        None => {}
                    }
                }
                Ok::<_, tonic::Status>(())
            };
            let result = result.await.map_err(|status| status.to_string());
            drop(input);
            let _ = end.send(result);
        });
        Self {
            what,
            output,
            ended,
            task,
        }
    }

    /// Waits until the output (of either kind) contains `text`.
    ///
    /// # Panics
    /// It does not within `patience`, or the command ends before.
    pub fn wait_for(&self, text: &str, patience: Duration) {
        let end = Instant::now() + patience;
        loop {
            let ended = self.ended.recv_timeout(Duration::from_millis(10));
            let output = self.peek();
            if output.stdout.contains(text) || output.stderr.contains(text) {
                return;
            }
            let alive = matches!(ended, Err(RecvTimeoutError::Timeout));
            assert!(
                alive && Instant::now() < end,
                "{} did not say {text:?}: {output:?}",
                self.what
            );
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end within `patience`, or could not be started.
    pub fn wait(self, patience: Duration) -> Output {
        match self.ended.recv_timeout(patience) {
            Ok(Ok(())) => self.peek(),
            Ok(Err(error)) => panic!("{}: {error}", self.what),
            Err(_) => panic!(
                "{} did not end in {patience:?}: {:?}",
                self.what,
                self.peek()
            ),
        }
    }

    /// What it has printed so far.
    pub fn peek(&self) -> Output {
        self.output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
