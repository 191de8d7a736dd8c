//! `mesh local …`: looks into a mesh that runs on this machine, and disturbs it.

mod exec;
mod target;

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use mesh_api::local::{
    DeletePodRequest, ListRequest, LogsRequest, Pod, RestartRequest, ScaleRequest, SignalRequest,
    local_client::LocalClient, signal_request,
};
use nix::sys::signal::Signal;
use tonic::transport::Channel;

use crate::client::{LocalMesh, MeshArgs, block_on, call, explain};
use target::Target;

/// Which mesh, and what to do with it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    mesh: MeshArgs,
    /// The namespace, where a name could mean several.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the pods.
    Ps {
        /// As JSON.
        #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
        output: String,
    },
    /// Change the number of a workload's pods.
    Scale {
        /// "web", "deploy/web" or "shop/web".
        workload: Target,
        /// How many pods.
        replicas: u32,
    },
    /// Replace a workload's pods, one after the other, without a gap.
    Restart {
        /// "web", "deploy/web" or "shop/web".
        workload: Target,
    },
    /// End a pod; its workload makes a new one.
    Delete {
        /// "web-1", "shop/web-1", or "deploy/web" for one of its pods.
        pod: Target,
        /// Seconds between SIGTERM and SIGKILL.
        #[arg(long, default_value = "30", conflicts_with = "now")]
        grace: u32,
        /// Kill it at once, as a crash would.
        #[arg(long)]
        now: bool,
    },
    /// Run a command in a pod.
    Exec {
        /// "web-1", "shop/web-1", or "deploy/web" for one of its pods.
        #[arg(required_unless_present = "node")]
        pod: Option<Target>,
        /// In the node's network instead, where the links of all pods end.
        #[arg(long, conflicts_with = "pod")]
        node: bool,
        /// The command, and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Show what a pod or the controller prints.
    Logs {
        /// "web-1", "shop/web-1", "shop/web-1/CONTAINER", "deploy/web", or "controller"; none: all.
        target: Option<Target>,
        /// Go on.
        #[arg(short, long)]
        follow: bool,
        /// Only this many of the last lines.
        #[arg(long, default_value = "0", hide_default_value = true)]
        tail: u32,
    },
    /// Send a signal to the controller, a proxy or a container.
    Signal {
        /// "controller", "shop/web-1/mesh-proxy" or "shop/web-1/CONTAINER".
        target: Target,
        /// "TERM", "SIGKILL", "STOP", 9, …
        #[arg(default_value = "TERM", value_parser = parse_signal)]
        signal: i32,
        /// Do not start it again until --resume.
        #[arg(long)]
        hold: bool,
        /// Start it again.
        #[arg(long, conflicts_with = "hold")]
        resume: bool,
    },
}

/// Does it.
///
/// # Errors
/// No such mesh runs, or it refuses.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mesh = LocalMesh::find(&args.mesh)?;
    block_on(async { dispatch(mesh.local().await?, args).await })
}

async fn dispatch(mut client: LocalClient<Channel>, args: Args) -> anyhow::Result<ExitCode> {
    let list = call(client.list(ListRequest {})).await?;
    let pods = list.pods;
    let namespace = args.namespace.as_deref();
    match args.command {
        Command::Ps { output } => print_pods(&pods, &output)?,
        Command::Scale { workload, replicas } => {
            let (namespace, name) = workload.workload(&pods, namespace);
            let request = ScaleRequest {
                namespace,
                name,
                replicas,
            };
            call(client.scale(request)).await?;
        }
        Command::Restart { workload } => {
            let (namespace, name) = workload.workload(&pods, namespace);
            call(client.restart(RestartRequest { namespace, name })).await?;
        }
        Command::Delete { pod, grace, now } => {
            let pod = pod.pod(&pods, namespace)?;
            let request = DeletePodRequest {
                namespace: pod.namespace.clone(),
                pod: pod.name.clone(),
                grace_s: if now { 0 } else { grace.max(1) },
            };
            call(client.delete_pod(request)).await?;
        }
        Command::Exec { pod, command, .. } => {
            let pod = match pod {
                Some(pod) => title(pod.pod(&pods, namespace)?),
                None => String::new(),
            };
            return exec::run(client, pod, command).await;
        }
        Command::Logs {
            target,
            follow,
            tail,
        } => {
            let target = match &target {
                None => String::new(),
                Some(target) => target.source(&pods, namespace)?,
            };
            let request = LogsRequest {
                target,
                follow,
                tail,
            };
            let lines = client
                .logs(request)
                .await
                .map_err(|status| explain(&status))?;
            let mut lines = lines.into_inner();
            while let Some(line) = lines.message().await.map_err(|status| explain(&status))? {
                print(&format!("{} | {}\n", line.source, line.line))?;
            }
        }
        Command::Signal {
            target,
            signal,
            hold,
            resume,
        } => {
            let source = target.source(&pods, namespace)?;
            let target = match source.as_str() {
                "controller" => signal_request::Target::Controller(true),
                _ if source.split('/').count() == 3 => signal_request::Target::Container(source),
                _ => anyhow::bail!(
                    "{source} has several processes: say which, as in {source}/mesh-proxy"
                ),
            };
            let request = SignalRequest {
                target: Some(target),
                signal,
                hold,
                resume,
            };
            call(client.signal(request)).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_pods(pods: &[Pod], output: &str) -> anyhow::Result<()> {
    if output == "json" {
        let rows: Vec<_> = pods
            .iter()
            .map(|pod| {
                serde_json::json!({
                    "namespace": pod.namespace, "name": pod.name,
                    "workload": format!("{}/{}", pod.workload_kind, pod.workload),
                    "ip": pod.ip, "ip6": pod.ip6, "meshed": pod.meshed, "ready": pod.ready,
                    "phase": pod.phase, "restarts": pod.restarts, "reason": pod.reason,
                })
            })
            .collect();
        return print(&(serde_json::to_string_pretty(&rows)? + "\n"));
    }
    let width = |field: fn(&Pod) -> &str, title: &str| {
        pods.iter()
            .map(|pod| field(pod).len())
            .max()
            .unwrap_or(0)
            .max(title.len())
    };
    let (first, second) = (
        width(|pod| &pod.namespace, "NAMESPACE"),
        width(|pod| &pod.name, "NAME"),
    );
    let mut text = format!(
        "{:first$}  {:second$}  READY  STATUS       RESTARTS  MESHED  ADDRESS\n",
        "NAMESPACE", "NAME"
    );
    let yes_no = |yes| if yes { "yes" } else { "no" };
    for pod in pods {
        text += &format!(
            "{:first$}  {:second$}  {:5}  {:11}  {:8}  {:6}  {:14}  {}\n",
            pod.namespace,
            pod.name,
            yes_no(pod.ready),
            pod.phase,
            pod.restarts,
            yes_no(pod.meshed),
            pod.ip,
            pod.reason
        );
    }
    let lines: String = text
        .lines()
        .flat_map(|line| [line.trim_end(), "\n"])
        .collect();
    print(&lines)
}

fn title(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn parse_signal(text: &str) -> anyhow::Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return Ok(number);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") {
        name
    } else {
        format!("SIG{name}")
    };
    let signal: Signal = name
        .parse()
        .ok()
        .context("not the name of a signal, such as TERM or KILL")?;
    Ok(signal as i32)
}

/// An error, and no panic, where the reader has gone.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_mesh_can_be_named_before_and_after_the_command() {
        for words in [
            ["local", "--name", "t1", "logs", "controller"],
            ["local", "logs", "--name", "t1", "controller"],
            ["local", "logs", "controller", "--name", "t1"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!(cli.args.mesh.name.as_deref(), Some("t1"), "{words:?}");
        }
    }
}
