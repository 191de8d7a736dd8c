//! The `mesh.local.v1.Local` service of a running mesh, over its abstract socket.

use std::io;

use hyper_util::rt::TokioIo;
use mesh_api::local::local_client::LocalClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// Connects to the mesh called `name` of this user.
pub(crate) async fn connect(name: &str) -> Result<LocalClient<Channel>, tonic::transport::Error> {
    let socket = format!("\0mesh/{}/{name}/local", nix::unistd::geteuid());
    let connector = service_fn(move |_| {
        let socket = socket.clone();
        async move { io::Result::Ok(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    // The address is not used: the connector knows the way.
    let endpoint = Endpoint::from_static("http://mesh.local");
    Ok(LocalClient::new(
        endpoint.connect_with_connector(connector).await?,
    ))
}
