//! `mesh local exec`: input and output of a command in a pod.

use std::{
    collections::HashMap,
    io::{Read, Write},
    process::ExitCode,
    thread,
};

use mesh_api::local::{ExecInput, ExecStart, exec_input, exec_output, local_client::LocalClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::client::explain;

/// Runs the command to its end; its exit code is the result.
pub(super) async fn run(
    mut client: LocalClient<Channel>,
    pod: String,
    command: Vec<String>,
) -> anyhow::Result<ExitCode> {
    let (input, received) = mpsc::channel(16);
    let start = ExecStart {
        pod,
        command,
        env: HashMap::new(),
    };
    input.send(message(exec_input::Kind::Start(start))).await?;
    // A thread of its own: a read of a terminal can't be cancelled, and must not keep the program from ending.
    thread::spawn(move || {
        let mut buffer = [0; 32 * 1024];
        while let Ok(read @ 1..) = std::io::stdin().lock().read(&mut buffer) {
            let piece = exec_input::Kind::Stdin(buffer[..read].to_vec());
            if input.blocking_send(message(piece)).is_err() {
                return;
            }
        }
        if input
            .blocking_send(message(exec_input::Kind::Close(true)))
            .is_ok()
        {
            // The stream stays open: its end would be the end of the call.
            thread::park();
        }
    });
    let output = client.exec(ReceiverStream::new(received)).await;
    let mut output = output.map_err(|status| explain(&status))?.into_inner();
    while let Some(piece) = output.message().await.map_err(|status| explain(&status))? {
        match piece.kind {
            Some(exec_output::Kind::Stdout(bytes)) => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&bytes)?;
                stdout.flush()?;
            }
            Some(exec_output::Kind::Stderr(bytes)) => std::io::stderr().lock().write_all(&bytes)?,
            Some(exec_output::Kind::ExitCode(code)) => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)));
            }
            None => {}
        }
    }
    anyhow::bail!("the mesh ended while the command ran")
}

fn message(kind: exec_input::Kind) -> ExecInput {
    ExecInput { kind: Some(kind) }
}
