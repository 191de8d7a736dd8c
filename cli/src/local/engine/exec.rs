//! Runs a command for the CLI, with its input and output on a stream.

use std::{collections::BTreeMap, os::unix::process::ExitStatusExt, process::Stdio};

use futures_util::{StreamExt, stream::BoxStream};
use mesh_api::local::{ExecInput, ExecOutput, ExecStart, exec_input, exec_output};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::container::Place;

/// Pieces of output on the way to the caller.
const QUEUE: usize = 16;
const PIECE: usize = 32 * 1024;

type Output = mpsc::Sender<Result<ExecOutput, Status>>;

/// Starts the command in a pod, or in the node's namespaces where there is no place. It is killed when the caller
/// goes away.
pub(super) fn run(
    place: Option<Place>,
    start: ExecStart,
    input: Streaming<ExecInput>,
) -> Result<BoxStream<'static, Result<ExecOutput, Status>>, Status> {
    let mut command = match &place {
        Some(place) => place.command(&start.command),
        None => {
            let mut command = Command::new(&start.command[0]);
            command.args(&start.command[1..]);
            command
        }
    };
    let env: BTreeMap<_, _> = start.env.into_iter().collect();
    command
        .envs(env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn().map_err(|error| {
        Status::failed_precondition(format!("cannot run {}: {error}", start.command[0]))
    })?;
    let (output, received) = mpsc::channel(QUEUE);
    tokio::spawn(serve(child, input, output));
    Ok(ReceiverStream::new(received).boxed())
}

async fn serve(mut child: Child, input: Streaming<ExecInput>, output: Output) {
    let mut copies = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        copies.spawn(copy_out(stdout, output.clone(), exec_output::Kind::Stdout));
    }
    if let Some(stderr) = child.stderr.take() {
        copies.spawn(copy_out(stderr, output.clone(), exec_output::Kind::Stderr));
    }
    let stdin = child.stdin.take();
    let mut copying = JoinSet::new();
    copying.spawn(copy_in(input, stdin));
    let status = tokio::select! {
        status = child.wait() => status,
        () = output.closed() => return,
    };
    // All that it has printed comes before its exit code.
    while copies.join_next().await.is_some() {}
    let code = match status {
        Ok(status) => status.code().or(status.signal().map(|signal| 128 + signal)),
        Err(_) => None,
    };
    let kind = Some(exec_output::Kind::ExitCode(code.unwrap_or(255)));
    let _ = output.send(Ok(ExecOutput { kind })).await;
}

async fn copy_in(mut input: Streaming<ExecInput>, mut stdin: Option<ChildStdin>) {
    while let Ok(Some(message)) = input.message().await {
        match message.kind {
            Some(exec_input::Kind::Stdin(bytes)) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Some(exec_input::Kind::Close(_)) => stdin = None,
            Some(exec_input::Kind::Start(_)) | None => {}
        }
    }
}

async fn copy_out(
    mut from: impl AsyncRead + Unpin,
    to: Output,
    kind: fn(Vec<u8>) -> exec_output::Kind,
) {
    let mut buffer = vec![0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let kind = Some(kind(buffer[..read].to_vec()));
        if to.send(Ok(ExecOutput { kind })).await.is_err() {
            return;
        }
    }
}
