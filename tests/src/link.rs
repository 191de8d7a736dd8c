//! A network between a client and an API server, which can break.

use std::{net::SocketAddr, sync::Arc};

use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::cluster::Cluster;

/// Forwards connections to an API server while it is up. Dropping it ends all.
#[derive(Debug)]
pub struct Link {
    config: kube::Config,
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    is_up: bool,
    /// Connections of earlier generations end.
    generation: u64,
}

impl Link {
    /// A way to the API server of `cluster`, up.
    ///
    /// # Panics
    /// Without a free port, or if the cluster's kubeconfig can't be used.
    pub async fn to(cluster: &Cluster) -> Self {
        let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .expect("a usable kubeconfig");
        let authority = config.cluster_url.authority().expect("an address").clone();
        let server: SocketAddr = authority.as_str().parse().expect("an address and a port");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("an address");

        let url = config.cluster_url.to_string();
        let url = url.replace(authority.as_str(), &own.to_string());
        config.cluster_url = url.parse().expect("a URL");
        config
            .tls_server_name
            .get_or_insert_with(|| authority.host().to_owned());
        let (state, _) = watch::channel(State {
            is_up: true,
            generation: 0,
        });
        let state = Arc::new(state);
        tokio::spawn(forward(listener, server, state.subscribe()));
        Self { config, state }
    }

    /// A client that goes this way.
    ///
    /// # Panics
    /// If the kubeconfig's credentials can't be used.
    pub fn client(&self) -> kube::Client {
        kube::Client::try_from(self.config.clone()).expect("a client")
    }

    /// Breaks all connections; new ones are possible.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }

    /// Breaks all connections and accepts none that lasts.
    pub fn down(&self) {
        self.state.send_modify(|state| {
            state.is_up = false;
            state.generation += 1;
        });
    }

    /// New connections are possible again.
    pub fn up(&self) {
        self.state.send_modify(|state| state.is_up = true);
    }
}

async fn forward(listener: TcpListener, server: SocketAddr, mut state: watch::Receiver<State>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            gone = closed(&mut state) => return gone,
        };
        let Ok((mut client, _)) = accepted else {
            continue;
        };
        let now = *state.borrow();
        if !now.is_up {
            continue;
        }
        let mut state = state.clone();
        tokio::spawn(async move {
            let copied = async {
                let mut server = TcpStream::connect(server).await?;
                copy_bidirectional(&mut client, &mut server).await
            };
            tokio::select! {
                // Either side has ended it, which is as good as any end.
                _ = copied => {}
                // The link is broken or gone.
                _ = state.wait_for(|state| state.generation != now.generation) => {}
            }
        });
    }
}

async fn closed(state: &mut watch::Receiver<State>) {
    while state.changed().await.is_ok() {}
}
