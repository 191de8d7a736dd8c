//! Meshes on this machine.
//!
//! In: `--name`, and `/proc/net/unix`, where a mesh on this machine shows its abstract sockets
//! `mesh/<user id>/<name>/observe` and `…/local`. Out: gRPC clients.

use std::{fs, io};

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
use mesh_api::{local::local_client::LocalClient, v1::observe_client::ObserveClient};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{CALL_TIMEOUT, MAX_MESSAGE, Mesh, Replicas};

/// Which mesh on this machine to talk to.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MeshArgs {
    /// Name of the local mesh, where several are running
    #[arg(long, env = "MESH_NAME", value_name = "NAME", global = true)]
    pub name: Option<String>,
}

/// A mesh that runs on this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalMesh {
    /// The user who runs it.
    pub uid: u32,
    /// What `--name` says.
    pub name: String,
}

impl LocalMesh {
    /// The one mesh that the arguments mean: one of this user's own before others' (which only root may
    /// talk to).
    ///
    /// # Errors
    /// None is running, none has this name, or several could be meant.
    pub fn find(args: &MeshArgs) -> Result<Self> {
        choose(
            running(&sockets()?),
            args.name.as_deref(),
            nix::unistd::geteuid().as_raw(),
        )
    }

    /// Whether this user runs one.
    pub(super) fn any_of_this_user() -> bool {
        let euid = nix::unistd::geteuid().as_raw();
        sockets().is_ok_and(|sockets| running(&sockets).iter().any(|mesh| mesh.uid == euid))
    }

    /// What the controller knows.
    ///
    /// # Errors
    /// The socket does not answer.
    pub async fn observe(&self) -> Result<Replicas> {
        Mesh::Local(self.clone()).observe().await
    }

    /// The Observe service of the controller.
    pub(super) async fn controller(&self) -> Result<ObserveClient<Channel>> {
        Ok(ObserveClient::new(self.connect("observe").await?))
    }

    /// What runs the pods.
    ///
    /// # Errors
    /// The socket does not answer.
    pub async fn local(&self) -> Result<LocalClient<Channel>> {
        let channel = self.connect("local").await?;
        Ok(LocalClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    async fn connect(&self, service: &str) -> Result<Channel> {
        // A leading zero byte makes the name an abstract one (unix(7)).
        let socket = format!("\0mesh/{}/{}/{service}", self.uid, self.name);
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        Endpoint::from_static("http://mesh.local")
            .connect_timeout(CALL_TIMEOUT)
            .connect_with_connector(connector)
            .await
            .with_context(|| {
                format!(
                    "The mesh {:?} does not answer: is it just ending?",
                    self.name
                )
            })
    }
}

fn sockets() -> Result<String> {
    fs::read_to_string("/proc/net/unix").context("Can't read /proc/net/unix to find a mesh")
}

/// Every mesh that listens in `/proc/net/unix`, sorted.
fn running(sockets: &str) -> Vec<LocalMesh> {
    // Num RefCount Protocol Flags Type St Inode Path; connected sockets carry the path of the listener
    // too, without __SO_ACCEPTCON.
    const LISTENING: &str = "00010000";
    let mut found: Vec<LocalMesh> = sockets
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let flags = fields.nth(3)?;
            let mut path = fields.nth(3)?.strip_prefix("@mesh/")?.split('/');
            let (uid, name, service) = (path.next()?, path.next()?, path.next()?);
            (flags == LISTENING && service == "observe").then_some(())?;
            Some(LocalMesh {
                uid: uid.parse().ok()?,
                name: name.to_owned(),
            })
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn choose(mut found: Vec<LocalMesh>, name: Option<&str>, euid: u32) -> Result<LocalMesh> {
    let foreign = found.iter().any(|mesh| mesh.uid != euid);
    let names = |found: &[LocalMesh]| {
        let names = found.iter().map(|mesh| match mesh.uid == euid {
            true => mesh.name.clone(),
            false => format!("{}/{}", mesh.uid, mesh.name),
        });
        names.collect::<Vec<_>>().join(", ")
    };
    if let Some(name) = name {
        let all = names(&found);
        found.retain(|mesh| mesh.name == name || format!("{}/{}", mesh.uid, mesh.name) == name);
        if found.is_empty() && !all.is_empty() {
            bail!("No mesh named {name:?} is running on this machine. Running: {all}.");
        }
    }
    if found.iter().any(|mesh| mesh.uid == euid) || euid != 0 {
        found.retain(|mesh| mesh.uid == euid);
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 if foreign => bail!(
            "No mesh of yours is running on this machine, only another user's. Start one: mesh demo, or mesh up -f FILE."
        ),
        0 => bail!("No mesh is running on this machine. Start one: mesh demo, or mesh up -f FILE."),
        _ => bail!(
            "Several meshes are running: {}. Choose one with --name.",
            names(&found)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKETS: &str = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 18322 @mesh/0/demo/observe
0000000000000000: 00000002 00000000 00010000 0001 01 18323 @mesh/0/demo/local
0000000000000000: 00000003 00000000 00000000 0001 03 18444 @mesh/0/demo/observe
0000000000000000: 00000002 00000000 00010000 0001 01 18325 @mesh/1000/default/observe
0000000000000000: 00000003 00000000 00000000 0001 03 18326
0000000000000000: 00000002 00000000 00010000 0001 01 18327 /run/mesh/0/x/observe
0000000000000000: 00000002 00000000 00010000 0001 01 18328 @mesh/none/x/observe
";

    fn mesh(uid: u32, name: &str) -> LocalMesh {
        LocalMesh {
            uid,
            name: name.into(),
        }
    }

    #[test]
    fn listening_sockets_are_meshes() {
        assert_eq!(running(SOCKETS), [mesh(0, "demo"), mesh(1000, "default")]);
    }

    #[test]
    fn own_mesh_comes_first_and_only_root_sees_others() {
        let found = || running(SOCKETS);
        assert_eq!(choose(found(), None, 0).unwrap(), mesh(0, "demo"));
        assert_eq!(choose(found(), None, 1000).unwrap(), mesh(1000, "default"));
        assert_eq!(
            choose(vec![mesh(1000, "x")], None, 0).unwrap(),
            mesh(1000, "x")
        );
        let error = choose(found(), None, 7).unwrap_err().to_string();
        assert!(error.contains("another user's"), "{error}");
    }

    #[test]
    fn several_need_a_name() {
        let found = || vec![mesh(0, "a"), mesh(0, "b"), mesh(5, "b")];
        let error = choose(found(), None, 0).unwrap_err().to_string();
        assert_eq!(
            error,
            "Several meshes are running: a, b. Choose one with --name."
        );
        assert_eq!(choose(found(), Some("b"), 0).unwrap(), mesh(0, "b"));
        assert_eq!(choose(found(), Some("5/b"), 0).unwrap(), mesh(5, "b"));
        let error = choose(found(), Some("c"), 0).unwrap_err().to_string();
        assert_eq!(
            error,
            "No mesh named \"c\" is running on this machine. Running: a, b, 5/b."
        );
    }

    #[test]
    fn none_says_how_to_start_one() {
        let error = choose(Vec::new(), None, 0).unwrap_err().to_string();
        assert_eq!(
            error,
            "No mesh is running on this machine. Start one: mesh demo, or mesh up -f FILE."
        );
    }
}
