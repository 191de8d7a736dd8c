//! The last good state in the state folder: what a proxy starts from while the controller is away.

use std::time::Instant;

use mesh_api::v1;
use prost::Message;

use super::Discovery;
use crate::state_dir::StateDir;
use crate::tls::{Tls, TrustBundle};

const FILE: &str = "discovery";

/// Where the view of the world outlives the process.
#[derive(Debug)]
pub struct Cache {
    state: StateDir,
}

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    inbound: Option<v1::Inbound>,
    #[prost(message, repeated, tag = "2")]
    destinations: Vec<v1::Destination>,
    #[prost(message, optional, tag = "3")]
    bundle: Option<v1::TrustBundle>,
}

impl Cache {
    /// In this folder.
    pub fn new(state: StateDir) -> Self {
        Self { state }
    }

    /// Gives `discovery` and `tls` what an earlier process knew.
    pub(super) fn restore(&self, discovery: &Discovery, tls: &Tls) {
        let content = self.state.read(FILE).map_err(|error| error.to_string());
        let stored = content.and_then(|content| match content {
            Some(content) => Stored::decode(content.as_slice())
                .map(Some)
                .map_err(|error| error.to_string()),
            None => Ok(None),
        });
        let stored = match stored {
            Ok(Some(stored)) => stored,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error, "the cached view of the mesh can't be read");
                return;
            }
        };
        let mut world = discovery.world();
        let count = stored.destinations.len();
        world.restore(stored.destinations, Instant::now());
        if let Some(inbound) = stored.inbound
            && let Err(error) = world.set_inbound(inbound)
        {
            tracing::warn!(%error, "the cached view of this pod can't be used");
        }
        if let Some(bundle) = stored.bundle {
            match TrustBundle::from_wire(bundle) {
                Ok(bundle) => tls.set_bundle(bundle),
                Err(error) => tracing::warn!(%error, "the cached trust bundle can't be used"),
            }
        }
        tracing::info!(
            destinations = count,
            "starting with the cached view of the mesh"
        );
    }

    /// Writes what `discovery` and `tls` know, if that changed since the last call.
    pub(super) fn save(&self, discovery: &Discovery, tls: &Tls) {
        let stored = {
            let mut world = discovery.world();
            if !world.take_changed() {
                return;
            }
            Stored {
                inbound: Some((&**discovery.shared.inbound.borrow()).into()),
                destinations: world
                    .all_destinations()
                    .iter()
                    .map(|known| (&**known).into())
                    .collect(),
                bundle: tls.bundle().map(|bundle| bundle.to_wire()),
            }
        };
        if let Err(error) = self.state.write(FILE, &stored.encode_to_vec()) {
            tracing::warn!(
                %error,
                "the view of the mesh can't be cached: a restart will need the controller"
            );
        }
    }
}
