//! The servers: HTTP, gRPC and plain TCP in one process.

pub(crate) mod faults;
mod grpc;
mod http;
mod tcp;

use std::{
    fs::File,
    io::Write,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use faults::Faults;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// HTTP/1.1 and HTTP/2 with prior knowledge.
    #[arg(long)]
    http: Option<u16>,
    #[arg(long)]
    grpc: Option<u16>,
    /// Sends every byte back.
    #[arg(long)]
    echo: Option<u16>,
    /// Speaks first, then echoes.
    #[arg(long)]
    banner: Option<u16>,
    /// Answers with count and hash at the end of input.
    #[arg(long)]
    digest: Option<u16>,
    /// Resets the connection after the first line.
    #[arg(long)]
    reset: Option<u16>,
    /// A folder: each request to /once adds its id to the file named after the replica. It outlives SIGKILL.
    #[arg(long)]
    executed: Option<PathBuf>,
    /// Start to listen this late.
    #[arg(long, default_value_t = 0)]
    start_delay_ms: u64,
}

/// What the servers of one replica share.
pub(crate) struct App {
    replica: String,
    faults: RwLock<Faults>,
    executed: Option<Mutex<File>>,
    requests: AtomicU64,
    malformed: AtomicU64,
    cancelled: AtomicU64,
    resets: AtomicU64,
}

impl App {
    fn new(executed: Option<PathBuf>) -> Result<Self> {
        let replica = nix::unistd::gethostname()?.to_string_lossy().into_owned();
        let executed = executed
            .map(|folder| {
                let path = folder.join(&replica);
                File::options()
                    .append(true)
                    .create(true)
                    .open(&path)
                    .with_context(|| format!("can't write {}", path.display()))
            })
            .transpose()?;
        Ok(Self {
            replica,
            faults: RwLock::default(),
            executed: executed.map(Mutex::new),
            requests: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            resets: AtomicU64::new(0),
        })
    }

    fn faults(&self) -> Faults {
        *self.faults.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down that a request was executed, before it is answered. One `write` per line: a kill
    /// can't tear it.
    fn execute(&self, id: &str) -> std::io::Result<()> {
        if let Some(file) = &self.executed {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all(format!("{id}\n").as_bytes())?;
        }
        Ok(())
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serves until SIGTERM, then finishes what is in flight.
pub(crate) async fn run(args: Args) -> Result<()> {
    let app = Arc::new(App::new(args.executed)?);
    let (stop, stopped) = watch::channel(false);
    tokio::time::sleep(std::time::Duration::from_millis(args.start_delay_ms)).await;

    let mut servers = JoinSet::new();
    if let Some(port) = args.http {
        servers.spawn(http::serve(
            listen(port)?,
            Arc::clone(&app),
            stopped.clone(),
        ));
    }
    if let Some(port) = args.grpc {
        servers.spawn(grpc::serve(
            listen(port)?,
            Arc::clone(&app),
            stopped.clone(),
        ));
    }
    for (port, behaviour) in [
        (args.echo, tcp::Behaviour::Echo),
        (args.banner, tcp::Behaviour::Banner),
        (args.digest, tcp::Behaviour::Digest),
        (args.reset, tcp::Behaviour::Reset),
    ] {
        if let Some(port) = port {
            let (app, stopped) = (Arc::clone(&app), stopped.clone());
            servers.spawn(tcp::serve(listen(port)?, behaviour, app, stopped));
        }
    }

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        Some(ended) = servers.join_next() => return ended?.context("a server ended by itself"),
    }
    stop.send_replace(true);
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Both families, so that the same server is reached over IPv4 and IPv6.
fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket
        .bind(&address.into())
        .with_context(|| format!("can't bind port {port}"))?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into())?)
}
